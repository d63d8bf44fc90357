"""Global descriptors in float64, written from the papers' formulas: loops over regions, positions and scales.

Feature maps are C×H×W numpy arrays of one photo.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Region = tuple[int, int, int, int]


def gem(x: Array, p: float) -> Array:
    """Mean of p-th powers, p-th root; x is at least 1e-6."""
    return np.array([np.mean(np.maximum(channel, 1e-6) ** p) ** (1 / p) for channel in x])


def mac(x: Array) -> Array:
    return np.array([channel.max() for channel in x])


def spoc(x: Array) -> Array:
    return np.array([channel.mean() for channel in x])


def added(x: Array) -> Array:
    """cirtorch's and SOLAR's length: a millionth is added to it."""
    return x / (math.sqrt(sum(value * value for value in x)) + 1e-6)


def floored(x: Array) -> Array:
    """dirtorch's and DELG's length."""
    return x / max(math.sqrt(sum(value * value for value in x)), 1e-12)


def regions(height: int, width: int, levels: int = 3) -> list[Region]:
    """Return top, left, rows and columns of the regions of R-MAC, the whole map last.

    In float32 where the authors' program has tensors, since some regions' places depend on it.
    """
    one = np.float32
    short, long = min(height, width), max(height, width)
    extra = 0
    if short != long:
        best = math.inf
        for t in range(2, 8):
            step = one(long - short) / one(t - 1)
            miss = abs(float(one(abs((one(short**2) - one(short) * step) / one(short**2) - one(0.4)))))
            if miss < best:
                best, extra = miss, t - 1
    found = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            continue
        half = math.floor(side / 2 - 1)
        starts = []
        for size, other in ((height, width), (width, height)):
            count = level + (extra if size > other else 0)
            step = 0.0 if count == 1 else (size - side) / (count - 1)
            starts.append([int(math.floor(one(half) + one(i) * one(step)) - half) for i in range(count)])
        found += [(top, left, side, side) for top in starts[0] for left in starts[1]]
    return [*found, (0, 0, height, width)]


def cut(x: Array, region: Region) -> Array:
    top, left, rows, columns = region
    return x[:, top : top + rows, left : left + columns]


def rmac(x: Array) -> Array:
    total = np.zeros(len(x))
    for region in regions(*x.shape[1:]):
        total = total + added(mac(cut(x, region)))
    return total


def second_order(query: Array, key: Array, value: Array) -> Array:
    """Return what each position reads at all others; the arguments are N×M."""
    out = np.zeros_like(value)
    for i in range(len(query)):
        logits = [float(query[i] @ key[j]) / math.sqrt(query.shape[1]) for j in range(len(key))]
        powers = [math.exp(logit - max(logits)) for logit in logits]
        out[i] = sum(power / sum(powers) * row for power, row in zip(powers, value, strict=True))
    return out
