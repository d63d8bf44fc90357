"""The whole network: a batch of equally large images to K local descriptors each, over all scales."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.trunks import fold_trunk, trunk_of

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]
# Longest side of a photo that sizes are exact for.
_LONGEST = 16384


@cache
def scale_ratio(scale: float) -> tuple[int, int]:
    """Return whole numbers a and b for which ⌊n·a/b⌋ is ⌊n·scale⌋ for every n to 16384.

    n·a stays below 2³¹, in which OpenVINO computes sizes: 1/√2 is 8119/11482, and √2 47321/33461. A scale of four
    decimals is taken at its word, though 0.29 is a little less as a float, and ⌊100·0.29⌋ therefore 28.

    Raises:
        ConfigError: there are none.
    """
    if round(scale, 4) == scale:
        return Fraction(round(scale * 10000), 10000).as_integer_ratio()
    sizes = np.arange(1, _LONGEST + 1)
    wanted = np.floor(sizes * scale)
    for bits in range(10, 18):
        a, b = Fraction(scale).limit_denominator(1 << bits).as_integer_ratio()
        if a * _LONGEST < 1 << 31 and np.array_equal(sizes * a // b, wanted):
            return a, b
    raise ConfigError(f"scale {scale!r} has no exact sizes: give it with at most four decimals")


def scaled_size(size: int, scale: float) -> int:
    """Return ⌊size·scale⌋, at least 1, in integers.

    ``int(size * 1.414)`` would be exported as a product of floats, which OpenVINO computes in bf16 (descriptor cosine
    0.43). For the default scales the result is PyTorch's for every size to 16384 (tested).
    """
    a, b = scale_ratio(scale)
    scaled: int = torch.sym_max(size * a // b, 1)  # type: ignore[no-untyped-call]
    return scaled


def scaled_by(x: Tensor, scale: float) -> Tensor:
    """Return images B×3×⌊H·scale⌋×⌊W·scale⌋, sampled at the ratio 1/scale: PyTorch's ``recompute_scale_factor=False``.

    A runtime that is given the ratio chooses the size itself, and OpenVINO 2026.4 chooses one more than ⌊H·scale⌋ for
    some (2157 at 1.414, 1157 at 0.707). So the image is continued by its border, which bilinear sampling does anyhow,
    until the result is too large in any rounding, and its first rows and columns are taken.
    """
    more = math.ceil(1 / scale)
    x_more = F.pad(x, (0, more, 0, more), mode="replicate")
    scaled = F.interpolate(
        x_more, scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )
    return scaled[:, :, : scaled_size(x.shape[2], scale), : scaled_size(x.shape[3], scale)]


def l2_attention(x: Tensor) -> Tensor:
    """Return √(Σx² + 1e-10) over each position's features, B×H×W from B×C×H×W; fp32, as the epsilon vanishes in fp16.

    Scaled by 1e4, for the exporter takes an addition of less than 1e-8 for one of 0 and leaves it out: a position
    without any activation would have the attention of padding.
    """
    return torch.sqrt((x * x).sum(dim=1) * 1e4 + 1e-6) * 1e-2


def cell_centres(rows: int, columns: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the centres of the cells, row-major, (rows·columns)×2: x then y in pixels of the height×width image."""
    x = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) * width / columns
    y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) * height / rows
    grid = (x[None, :].expand(rows, columns), y[:, None].expand(rows, columns))
    return torch.stack(grid, dim=2).reshape(-1, 2)


class DescriptorNetwork(nn.Module, ABC):
    """What all networks share: a trunk, and images as it takes them. A subclass makes the outputs of a bundle.

    ``forward`` takes images uint8, B×H×W×3, RGB, and returns the outputs that ``Extraction.outputs`` names, float32.
    """

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__()
        self.config = config
        self.extraction = extraction
        self.backbone = trunk_of(config)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a batch."""

    def fold(self) -> None:
        """Fold constants into the weights, in place; for exporting, not for training."""
        fold_trunk(self.backbone)

    def normalise(self, image: Tensor) -> Tensor:
        """Return B×3×H×W, centred and scaled, from uint8 B×H×W×3."""
        # The cast comes first: of uint8 tensors, TensorRT transposes none.
        x = image.to(self.get_buffer("mean").dtype).permute(0, 3, 1, 2) / 255
        return (x - self.get_buffer("mean")) / self.get_buffer("std")


class RetrievalNetwork(DescriptorNetwork):
    """What networks of local descriptors share: pyramid, whitening, selection. A subclass makes a scale's features.

    ``forward`` takes images uint8, B×H×W×3, RGB, and returns descriptors B×K×D, attention B×K (0 marks padding),
    positions B×K×2 (pixels of the input image, x then y) and scales B×K, all float32.

    Attributes:
        relative_attention: attention is divided by its maximum over all scales of the photo.
    """

    relative_attention: bool

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        self.dim_reduction: nn.Module = nn.Identity()
        if config.dim is not None:
            self.dim_reduction = nn.Conv2d(config.feature_dim, config.dim, 1)

    @abstractmethod
    def resize(self, x: Tensor, scale: float) -> Tensor:
        """Return a level of the pyramid, B×3×⌊H·scale⌋×⌊W·scale⌋ from B×3×H×W."""

    @abstractmethod
    def features(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of normalised images at one scale, before the whitening and the selection.

        Args:
            x: B×3×h×w.
            height: of the input image, whose pixels are the unit of positions.
            width: likewise.

        Returns:
            Features B×C×r×c, attention B×r×c, positive, and positions (r·c)×2, or B×(r·c)×2 where photos differ.
        """

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.normalise(image)
        height, width = x.shape[2:]
        levels = []
        for scale in self.extraction.scales:
            levels.append(self.described(self.features(self.level(x, scale), height, width), scale))
        return self.selected(levels)

    def level(self, x: Tensor, scale: float) -> Tensor:
        """Return a level of the pyramid; the images themselves at scale 1."""
        return x if scale == 1.0 else self.resize(x, scale)

    def described(self, found: tuple[Tensor, Tensor, Tensor], scale: float) -> Outputs:
        """Return vectors B×N×D, attention B×N, positions and scales of what ``features`` returned."""
        features, attention, places = found
        vectors = self.whitened(features).flatten(2).transpose(1, 2)
        return vectors, attention.flatten(1), places, torch.full_like(places[..., 0], scale)

    def whitened(self, features: Tensor) -> Tensor:
        """Return B×D×r×c from what ``features`` returned."""
        whitened: Tensor = self.dim_reduction(features)
        return whitened

    def selected(self, levels: Sequence[Outputs]) -> Outputs:
        """Return the K strongest of all levels, each as ``described`` returned it."""
        vectors, strengths, positions, scales = zip(*levels, strict=True)
        return self.select(
            torch.cat(vectors, 1), torch.cat(strengths, 1), torch.cat(positions, -2), torch.cat(scales, -1)
        )

    def select(self, vectors: Tensor, strengths: Tensor, positions: Tensor, scales: Tensor) -> Outputs:
        """Keep the K strongest of all positions, or the share of them; padded with zeros where these are fewer than K.

        Args:
            vectors: B×N×D.
            strengths: B×N, positive.
            positions: N×2, or B×N×2.
            scales: N, or B×N.
        """
        k = self.extraction.top_k
        if self.relative_attention:
            strengths = strengths / strengths.amax(dim=1, keepdim=True)
        attention, index = torch.topk(F.pad(strengths, (0, k)), k, dim=1)
        if self.extraction.top_share < 1.0:
            attention = attention * _within(self.extraction.top_share, strengths.shape[1], attention)
        chosen = _rows(F.pad(vectors, (0, 0, 0, k)), index)
        positions, scales = F.pad(positions, (0, 0, 0, k)), F.pad(scales, (0, k))
        if positions.ndim == 3:
            return chosen, attention, _rows(positions, index), torch.gather(scales, 1, index)
        return chosen, attention, positions[index], scales[index]


# Where a share of a photo's positions is taken: a picture of a few pixels keeps all, of which none is much stronger.
LEAST_POSITIONS = 32


def _within(share: float, positions: int, attention: Tensor) -> Tensor:
    """Return K ones, and zeros from the share of the positions on; in whole numbers, which all runtimes round alike."""
    rank = torch.arange(attention.shape[1], device=attention.device)
    return ((rank * 1000 < round(share * 1000) * positions) | (rank < LEAST_POSITIONS)).to(attention.dtype)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Return B×K×D, the rows of B×N×D that B×K indices name."""
    return torch.gather(values, 1, index[..., None].expand(-1, -1, values.shape[2]))
