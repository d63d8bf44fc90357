"""The whole network: a batch of equally large images to K local descriptors each, over all scales."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.bundle import Extraction
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.refinement import GraphRefinement
from ctxdeploy.export.networks.resnet import ResNetTrunk
from ctxdeploy.export.networks.smoothing import AverageSmoothing, GaussianSmoothing

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def scaled_size(size: int, scale: float) -> int:
    """Return ⌊size·scale⌋, at least 1, in integers.

    Scales have three decimals. ``int(size * 1.414)`` would be exported as a product of floats, which OpenVINO computes
    in bf16 (descriptor cosine 0.43). For the default scales the result is PyTorch's for every size to 16384 (tested).
    """
    scaled: int = torch.sym_max(size * round(scale * 1000) // 1000, 1)  # type: ignore[no-untyped-call]
    return scaled


def l2_attention(x: Tensor) -> Tensor:
    """Return the L2 norm of each position's features, B×H×W from B×C×H×W; fp32, as the epsilon vanishes in fp16."""
    return torch.sqrt((x * x).sum(dim=1) + 1e-10)


def cell_centres(rows: int, columns: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the centres of the cells, row-major, (rows·columns)×2: x then y in pixels of the height×width image."""
    x = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) * width / columns
    y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) * height / rows
    grid = (x[None, :].expand(rows, columns), y[:, None].expand(rows, columns))
    return torch.stack(grid, dim=2).reshape(-1, 2)


def _smoothing(config: NetworkConfig) -> nn.Module:
    if config.smoothing.kind == "gaussian":
        return GaussianSmoothing(config.channels, config.smoothing.kernel_size)
    if config.smoothing.kind == "average":
        return AverageSmoothing(config.smoothing.kernel_size)
    return nn.Identity()


class RetrievalNetwork(nn.Module):
    """HOW and ctx, every combination of their parts.

    ``forward`` takes images uint8, B×H×W×3, RGB, and returns descriptors B×K×D, attention B×K (0 marks padding),
    positions B×K×2 (pixels of the input image, x then y) and scales B×K, all float32.
    """

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__()
        self.config = config
        self.extraction = extraction
        self.backbone = ResNetTrunk(config.architecture, config.skip_layer)
        self.refinement = None
        if config.refinement is not None:
            self.refinement = GraphRefinement(config.channels, config.refinement)
        self.smoothing = _smoothing(config)
        self.dim_reduction: nn.Module = nn.Identity()
        if config.dim is not None:
            self.dim_reduction = nn.Conv2d(config.channels, config.dim, 1)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def normalise(self, image: Tensor) -> Tensor:
        """Return B×3×H×W, centred and scaled, from uint8 B×H×W×3."""
        x = image.permute(0, 3, 1, 2).to(self.get_buffer("mean").dtype) / 255
        return (x - self.get_buffer("mean")) / self.get_buffer("std")

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the refined features that attention and smoothing start from, B×C×h×w from B×3×H×W."""
        x = self.backbone(x)
        return x if self.refinement is None else self.refinement(x)

    def dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return descriptors B×D×h×w and attention B×h×w of normalised images at one scale, nothing selected."""
        features = self.feature_map(x)
        return self.dim_reduction(self.smoothing(features)), l2_attention(features)

    def forward(self, image: Tensor) -> Outputs:
        x = self.normalise(image)
        height, width = x.shape[2:]
        levels = []
        for scale in self.extraction.scales:
            size = (scaled_size(height, scale), scaled_size(width, scale))
            scaled = x if scale == 1.0 else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            descriptors, attention = self.dense(scaled)
            centres = cell_centres(attention.shape[1], attention.shape[2], height, width, x.device)
            value = torch.full_like(centres[:, 0], scale)
            levels.append((descriptors.flatten(2).transpose(1, 2), attention.flatten(1), centres, value))
        vectors, strengths, positions, scales = zip(*levels, strict=True)
        return self.select(torch.cat(vectors, 1), torch.cat(strengths, 1), torch.cat(positions), torch.cat(scales))

    def select(self, vectors: Tensor, strengths: Tensor, positions: Tensor, scales: Tensor) -> Outputs:
        """Keep the K strongest of all positions, padded with zeros where there are fewer than K.

        Args:
            vectors: B×N×D.
            strengths: B×N, positive.
            positions: N×2.
            scales: N.
        """
        k = self.extraction.top_k
        strengths = strengths / strengths.amax(dim=1, keepdim=True)
        attention, index = torch.topk(F.pad(strengths, (0, k)), k, dim=1)
        rows = index[..., None].expand(-1, -1, vectors.shape[2])
        chosen = torch.gather(F.pad(vectors, (0, 0, 0, k)), 1, rows)
        return chosen, attention, F.pad(positions, (0, 0, 0, k))[index], F.pad(scales, (0, k))[index]
