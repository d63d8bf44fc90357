"""The regions of R-MAC (Tolias, Sicre, Jégou, ICLR 2016), computed in the graph, so that one serves every photo.

The regions of a map are squares of three sides: as large as its shorter side, two thirds of it and half of it, rounded
down. Level l has l of them along the shorter side and ``extra`` more along the longer one. How many and where follows
from the map's size in integers, in as many places as the longest map needs; places that a map does not need weigh 0.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxdeploy.export.networks.operators import emit_operators, is_exporting

LEVELS = 3
_MAX_EXTRA = 6
# Regions of a map with those that weigh 0, the whole map among them: 49 + 64 + 81 + 1.
REGIONS = sum((level + _MAX_EXTRA) ** 2 for level in range(1, LEVELS + 1)) + 1
# Cells of the longest side of a map: 4096 pixels at scale 1.414 and stride 32 are 181.
MAX_CELLS = 256


def extra_regions(short: int, longs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return by how many regions a row along the longer side has more than one along the shorter, 1 to 6.

    The number t - 1 whose neighbours overlap by nearest to 0.4, if there were t along the longer side. In float32, as
    in the authors' program, so that ties fall as theirs: at 3×11 and 25×61 cells, for instance.

    Args:
        short: cells of the shorter side.
        longs: of the longer one, each larger than ``short``.
    """
    number = np.arange(1, _MAX_EXTRA + 1, dtype=np.float32)
    step = (longs - short).astype(np.float32)[:, None] / number
    overlap = np.abs((np.float32(short**2) - np.float32(short) * step) / np.float32(short**2) - np.float32(0.4))
    most: NDArray[np.int64] = 1 + overlap.argmin(axis=1)
    return most


@functools.cache
def _longer_sides() -> list[list[int]]:
    """Return for every shorter side the longer sides from which on a row has 2, 3, … 6 regions more."""
    table = [[1] * (_MAX_EXTRA - 1)]
    for short in range(1, MAX_CELLS + 1):
        longs = np.arange(short + 1, 5 * short + 3)  # at five times the shorter side there are 6
        extra = extra_regions(short, longs)
        table.append([int(longs[np.argmax(extra >= more)]) for more in range(2, _MAX_EXTRA + 1)])
    return table


def region_vectors(x: Tensor, *, largest: bool) -> tuple[Tensor, Tensor]:
    """Return the maximum or the mean of each region of a map.

    Args:
        x: B×C×H×W.
        largest: the maximum; else the mean.

    Returns:
        B×``REGIONS``×C, and which of them there are for this size: ``REGIONS`` numbers, 1 or 0.
    """
    if is_exporting():
        shapes: Sequence[Sequence[int]] = ((x.shape[0], REGIONS, x.shape[1]), (REGIONS,))
        vectors, weights = emit_operators("RegionMaxima" if largest else "RegionMeans", (x,), {}, shapes)
        return vectors, weights
    return pooled_regions(x, largest)


def pooled_regions(x: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
    """See ``region_vectors``; this is the body of the operator."""
    least = x.amin(dim=(2, 3))
    whole = x.amax(dim=(2, 3)) if largest else x.mean(dim=(2, 3))
    vectors, weights = [whole[:, None]], [x.new_ones(1)]
    for level in range(1, LEVELS + 1):
        rows, columns, weight, area = _level(x, level)
        if largest:
            # Every maximum is at least the least value of the map: cells outside of a region get that.
            lines = torch.where(rows[:, :, None], x[:, :, None], least[:, :, None, None, None]).amax(dim=3)
            cells = torch.where(columns, lines[:, :, :, None], least[:, :, None, None, None]).amax(dim=4)
        else:
            cells = rows.to(x.dtype) @ x @ columns.to(x.dtype).T / area
        vectors.append(cells.flatten(2).transpose(1, 2))
        weights.append(weight.flatten().to(x.dtype))
    return torch.cat(vectors, dim=1), torch.cat(weights)


def _level(x: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the regions of a level as masks of rows, N×H, and columns, N×W, which of N×N there are, and their cells.

    N is ``level + 6``, the most that a side can have. A mask of a region that there is not is that of the first.
    """
    height, width = _number(x, 2), _number(x, 3)
    short, long = torch.minimum(height, width), torch.maximum(height, width)
    table = torch.tensor(_longer_sides(), device=x.device)
    steps = (long >= table[torch.clamp(short, max=MAX_CELLS)]).sum()
    extra = torch.where(long > short, steps + 1, 0)
    # A map of one cell across has no regions on the levels of two and three.
    side = torch.clamp(2 * short // (level + 1), min=1)
    there = (2 * short >= level + 1).to(torch.int64)
    rows = torch.where(height > width, level + extra, level)
    columns = torch.where(width > height, level + extra, level)
    place = torch.arange(level + _MAX_EXTRA, device=x.device)
    weight = (place[:, None] < rows) & (place < columns)
    masks = [_mask(x.shape[axis], n, side, place) for axis, n in ((2, rows), (3, columns))]
    return masks[0], masks[1], weight * there, side * side


def _number(x: Tensor, axis: int) -> Tensor:
    """Return a size of a map as a tensor of one whole number."""
    return torch.scalar_tensor(x.shape[axis], dtype=torch.int64, device=x.device)


def _mask(cells: int, count: Tensor, side: Tensor, place: Tensor) -> Tensor:
    """Return which cells of an axis the regions cover that start at ⌊i·(cells - side)/(count - 1)⌋."""
    rest = cells - side
    start = place * rest // torch.clamp(count - 1, min=1)
    start = torch.where(place < count, start - _rounded_down(rest, count, side, place), 0)
    cell = torch.arange(cells, device=place.device)
    return (cell >= start[:, None]) & (cell < start[:, None] + side)


def _rounded_down(rest: Tensor, count: Tensor, side: Tensor, place: Tensor) -> Tensor:
    """Return 1 where the authors' float32 falls short of the whole number by one: the last of 8 places, seldom.

    7·(31/7) is less than 31, and so are its doubles, unless the half side that they add first rounds it up.
    """
    half = side // 2 - 1
    short = torch.zeros_like(rest, dtype=torch.bool)
    for double in (1, 2, 4):
        short = short | ((rest == 31 * double) & (half + rest <= 32 * double))
    return (short & (count == 8) & (place == 7)).to(torch.int64)
