"""One vector of a feature map: GeM, MAC, SPoC, and what stands around them in networks with a global descriptor."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.export.networks.pooling_config import Pooling
from ctxdeploy.export.networks.regions import region_vectors

# Activations are at least this before they are raised to a power (cirtorch, dirtorch and DELG alike).
_FLOOR = 1e-6
_START_P = 3.0
_SIGNED_P = 3.0


class GeM(nn.Module):
    """Generalised mean (Radenović, Tolias, Chum, TPAMI 2018): the p-th root of the mean of p-th powers.

    Args:
        fixed_p: the power where it is not trained; None makes it a parameter of one number.
    """

    def __init__(self, fixed_p: float | None = None) -> None:
        super().__init__()
        self.p: Tensor | float = fixed_p if fixed_p is not None else nn.Parameter(torch.full((1,), _START_P))

    def forward(self, x: Tensor) -> Tensor:
        powers = torch.clamp(x, min=_FLOOR) ** self.p
        return powers.mean(dim=(2, 3)) ** (1 / self.p)

    def fold(self) -> None:
        """Make the power a number of the graph: no node computes its inverse."""
        if isinstance(self.p, nn.Parameter):
            p = float(self.p.detach())
            del self.p
            self.p = p


class Mac(nn.Module):
    """Maximum over the positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


class Spoc(nn.Module):
    """Mean over the positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class RegionalPool(nn.Module):
    """Sum of the vectors of R-MAC's regions, each of length 1: of their maxima, or of another pooling within them.

    Args:
        pooling: ``kind`` ``rmac`` or ``mac`` takes maxima, ``gem`` means of powers, ``spoc`` means.
        channels: of the feature map.
    """

    def __init__(self, pooling: Pooling, channels: int) -> None:
        super().__init__()
        self.kind = pooling.kind
        self.rpool = GeM(pooling.fixed_p) if pooling.kind == "gem" else None
        self.whiten = nn.Linear(channels, channels) if pooling.regional_whitening else None

    def forward(self, x: Tensor) -> Tensor:
        if self.rpool is not None:
            means, there = region_vectors(torch.clamp(x, min=_FLOOR) ** self.rpool.p, largest=False)
            vectors = means ** (1 / self.rpool.p)
        else:
            vectors, there = region_vectors(x, largest=self.kind != "spoc")
        vectors = _unit_rows(vectors)
        if self.whiten is not None:
            vectors = _unit_rows(self.whiten(vectors))
        return (vectors * there[:, None]).sum(dim=1)


def _unit_rows(x: Tensor) -> Tensor:
    rows: Tensor = x / (torch.linalg.vector_norm(x, dim=2, keepdim=True) + 1e-6)
    return rows


def centred(x: Tensor, bias: float) -> Tensor:
    """Return a map with its middle weighted by 1 + ``bias``: a grid of 4×4, resized bilinearly, corners aligned."""
    grid = F.pad(x.new_full((1, 1, 2, 2), bias), (1, 1, 1, 1)) + 1
    weights = F.interpolate(grid, size=(x.shape[2], x.shape[3]), mode="bilinear", align_corners=True)
    return x * weights


def pool_of(pooling: Pooling, channels: int) -> nn.Module:
    """Return what makes B×C of B×C×H×W."""
    if pooling.regional or pooling.kind == "rmac":
        return RegionalPool(pooling, channels)
    if pooling.kind == "gem":
        return GeM(pooling.fixed_p)
    return Mac() if pooling.kind == "mac" else Spoc()


def unit(x: Tensor, norm: str = "floored") -> Tensor:
    """Return vectors of length 1, B×D; ``norm`` as in ``Pooling``. Zeros stay zeros."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / (length + 1e-6) if norm == "added" else x / torch.clamp(length, min=1e-12)


class GlobalHead(nn.Module):
    """Feature maps of several scales to one vector of length 1.

    Args:
        channels: of the feature maps.
        pooling: how.
    """

    def __init__(self, channels: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.local_whitening = nn.Linear(channels, channels) if pooling.local_whitening else None
        self.pool = pool_of(pooling, channels)
        self.whitening = None if pooling.dim is None else nn.Linear(channels, pooling.dim)
        dim = pooling.dim or channels
        self.final = None if pooling.final_dim is None else nn.Linear(dim, pooling.final_dim)

    def describe(self, x: Tensor) -> Tensor:
        """Return the vector of one scale, B×D from B×C×H×W."""
        if self.local_whitening is not None:
            x = F.conv2d(x, self.local_whitening.weight[:, :, None, None], self.local_whitening.bias)
        if self.pooling.center_bias:
            x = centred(x, self.pooling.center_bias)
        pooled: Tensor = self.pool(x)
        if self.whitening is None:
            return unit(pooled, self.pooling.norm)
        pooled = unit(pooled, self.pooling.norm) if self.pooling.norm_pooled else pooled
        return unit(self.whitening(pooled), self.pooling.norm)

    def combine(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the vector of all scales, B×D' of length 1 from B×D each."""
        found = unit(self._mean(levels) if len(levels) > 1 else levels[0])
        return found if self.final is None else unit(self.final(found))

    def _mean(self, levels: Sequence[Tensor]) -> Tensor:
        if self.pooling.over_scales == "mean":
            return torch.stack(tuple(levels)).mean(dim=0)
        if self.pooling.over_scales == "gem" and isinstance(self.pool, GeM):
            p = self.pool.p
            return torch.stack([level**p for level in levels]).mean(dim=0) ** (1 / p)
        powers = [torch.sign(level) * torch.clamp(level.abs(), min=_FLOOR) ** _SIGNED_P for level in levels]
        mean = torch.stack(powers).mean(dim=0)
        return torch.sign(mean) * mean.abs() ** (1 / _SIGNED_P)

    def fold(self) -> None:
        """Fold constants, in place; for exporting, not for training."""
        for module in self.modules():
            if isinstance(module, GeM):
                module.fold()
