"""DELF: local descriptors with attention (Noh et al., ICCV 2017), and what DELG shares with it.

A position of the third block's map is the centre of its receptive field: stride · index / scale. Its scale is said as
the factor of the pyramid, as in every network here; the authors' files say its inverse.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.delf_config import Delf
from ctxdeploy.export.networks.network import Outputs, RetrievalNetwork

# TensorFlow's ``l2_normalize`` divides by √max(Σx², 1e-12).
EPSILON = 1e-6


class Attention(nn.Module):
    """Attention of every position, B×H×W and positive, from B×C×H×W."""

    def __init__(self, channels: int, width: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(self.conv2(torch.relu(self.bn1(self.conv1(x))))).squeeze(1)

    def fold(self) -> None:
        """Fold the batch normalisation into the convolution before it, in place."""
        if isinstance(self.bn1, nn.BatchNorm2d):
            self.conv1 = nn.utils.fuse_conv_bn_eval(self.conv1, self.bn1)
            self.bn1 = nn.Identity()  # type: ignore[assignment]


def round_scaled(size: int, scale: float) -> int:
    """Return size·scale to the nearest whole number, to the even one in the middle, as ``tf.round``; in integers."""
    product = size * round(scale * 10_000)
    # Half a unit less where the number below is even: product // 10,000 - 2 · (product // 20,000) is 1 if it is odd.
    odd = product // 10_000 - 2 * (product // 20_000)
    rounded: int = torch.sym_max((product + 4_999 + odd) // 10_000, 1)  # type: ignore[no-untyped-call]
    return rounded


def resize_from_corners(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return B×C×rows×columns as TensorFlow 1's ``ResizeBilinear``: position i is sampled at i·size/rows."""
    for axis, size in ((2, rows), (3, columns)):
        length = x.shape[axis]
        at = torch.arange(size, device=x.device) * length
        low = at // size
        high = torch.clamp(low + 1, max=length - 1)
        part = ((at - low * size).to(x.dtype) / size).view(-1, *[1] * (3 - axis))
        below = torch.index_select(x, axis, low)
        x = below + (torch.index_select(x, axis, high) - below) * part
    return x


class AttentiveNetwork(RetrievalNetwork):
    """What DELF and DELG share: pyramid, attention, places and the threshold. A subclass makes the features.

    The state is that of the trunk under ``backbone``, of ``attention``, and of the last 1×1 convolution under
    ``dim_reduction``.
    """

    relative_attention = False

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        self.attention = Attention(config.feature_dim)

    @property
    def delf(self) -> Delf:
        """The settings of the local head."""
        return self.config.delf or Delf()

    def fold(self) -> None:
        super().fold()
        self.attention.fold()

    def normalise(self, image: Tensor) -> Tensor:
        """Return (x - 128) / 128, B×3×H×W, from uint8 B×H×W×3."""
        return (image.to(self.get_buffer("mean").dtype).permute(0, 3, 1, 2) - 128) / 128

    def resize(self, x: Tensor, scale: float) -> Tensor:
        """Return a level of the pyramid, whose sides are rounded to the nearest number."""
        rows, columns = round_scaled(x.shape[2], scale), round_scaled(x.shape[3], scale)
        if self.delf.half_pixel:
            return F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)
        return resize_from_corners(x, rows, columns)

    def described(self, found: tuple[Tensor, Tensor, Tensor], scale: float) -> Outputs:
        features, attention, places = found
        vectors = features if self.config.dim is None else self.reduced(features)
        strengths = attention.flatten(1)
        if self.delf.threshold > 0:
            strengths = torch.where(strengths >= self.delf.threshold, strengths, torch.zeros_like(strengths))
        return vectors.flatten(2).transpose(1, 2), strengths, places / scale, torch.full_like(places[..., 0], scale)

    def reduced(self, features: Tensor) -> Tensor:
        """Return the local descriptors, B×D×h×w, of length 1."""
        return F.normalize(self.dim_reduction(features), dim=1, eps=EPSILON)

    def places(self, attention: Tensor) -> Tensor:
        """Return the centres of the receptive fields, (h·w)×2, x then y in pixels of the scaled image."""
        rows, columns = attention.shape[1:]
        x = torch.arange(columns, device=attention.device, dtype=torch.float32) * self.delf.stride
        y = torch.arange(rows, device=attention.device, dtype=torch.float32) * self.delf.stride
        return torch.stack((x[None, :].expand(rows, columns), y[:, None].expand(rows, columns)), 2).reshape(-1, 2)


class DelfNetwork(AttentiveNetwork):
    """DELF: features of length 1, PCA, length 1 again; without a PCA the features themselves."""

    def features(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        block3 = self.backbone(x)
        attention = self.attention(block3)
        return F.normalize(block3, dim=1, eps=EPSILON), attention, self.places(attention)
