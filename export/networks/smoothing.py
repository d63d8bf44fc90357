"""Smoothing of the feature map: the mean of HOW and the learned Gaussian of ctx (``networks.md``)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.export.networks.operators import emit_operator, is_exporting

# A denominator below this has underflowed: bandwidth above 70 and self-confidence below 1e-30. Such a position gets 0.
_TINY = 1e-30


class AverageSmoothing(nn.Module):
    """Mean over k×k cells; at the border over the cells inside the image."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, 1, self.kernel_size // 2, count_include_pad=False)


def ring_kernels(kernel_size: int) -> list[tuple[int, list[list[float]]]]:
    """Return (squared radius, k×k mask of 0 and 1) of every ring of offsets around the centre, the centre left out."""
    half = kernel_size // 2
    offsets = range(-half, half + 1)
    radii = sorted({dy * dy + dx * dx for dy in offsets for dx in offsets} - {0})
    return [(r, [[float(dy * dy + dx * dx == r) for dx in offsets] for dy in offsets]) for r in radii]


def gaussian_smoothing(x: Tensor, bandwidth: Tensor, confidence: Tensor, kernel_size: int) -> Tensor:
    """Weighted mean of each position's window; weights e^(-bandwidth·distance²), and ``confidence`` at the centre.

    The weight depends on the position and the squared distance alone, so the k² offsets fall into a few rings, each a
    depthwise convolution with a constant mask: 20 times faster than unfolding, and without ``unfold``, whose export
    OpenVINO 2026.4 computes wrongly.

    Args:
        x: B×C×H×W.
        bandwidth: B×1×H×W, positive.
        confidence: B×1×H×W, in (0, 1).
        kernel_size: side of the window.

    Returns:
        B×C×H×W.
    """
    channels = x.shape[1]
    inside = torch.ones_like(bandwidth)
    numerator = confidence * x
    denominator = confidence
    for radius, mask in ring_kernels(kernel_size):
        kernel = torch.tensor(mask, dtype=x.dtype, device=x.device)[None, None]
        weight = torch.exp(bandwidth * -float(radius))
        ring = F.conv2d(x, kernel.expand(channels, 1, -1, -1), padding=kernel_size // 2, groups=channels)
        numerator = numerator + weight * ring
        denominator = denominator + weight * F.conv2d(inside, kernel, padding=kernel_size // 2)
    return numerator / torch.clamp(denominator, min=_TINY)


class GaussianSmoothing(nn.Module):
    """Gaussian smoothing whose bandwidth and self-confidence a 1×1 convolution predicts at each position.

    ``forward`` takes features B×C×H×W, and smooths ``values`` of the same positions in their place if there are any.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.predict = nn.Conv2d(channels, 2, 1)
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(cast(Tensor, self.predict.bias))

    def forward(self, x: Tensor, values: Tensor | None = None) -> Tensor:
        maps = self.predict(x)
        bandwidth = F.softplus(maps[:, :1])
        confidence = torch.sigmoid(maps[:, 1:])
        smoothed = x if values is None else values
        if is_exporting():
            attributes = {"kernel_size": self.kernel_size}
            return emit_operator("GaussianSmoothing", (smoothed, bandwidth, confidence), attributes, like=smoothed)
        return gaussian_smoothing(smoothed, bandwidth, confidence, self.kernel_size)
