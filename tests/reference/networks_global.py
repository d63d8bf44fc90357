"""Global descriptors in float64, written from the papers' formulas: loops over regions, positions and scales.

Feature maps are C×H×W numpy arrays of one photo.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Array = NDArray[np.float64]
Get = Callable[[str], Any]
Name = Callable[[str], str]
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


# Whole networks, by the authors' names of their tensors: ``state`` gives a tensor by its name in the file.


def resnet(x: Tensor, get: Get, name: Name, after: Callable[[Tensor, int], Tensor] = lambda x, layer: x) -> Tensor:
    """Return the map of torchvision's ResNet, written out; ``name`` gives the file's name of a child of it."""

    def norm(y: Tensor, child: str) -> Tensor:
        mean, var, weight, bias = (get(f"{child}.{p}") for p in ("running_mean", "running_var", "weight", "bias"))
        scale = (weight / torch.sqrt(var + 1e-5))[:, None, None]
        return (y - mean[:, None, None]) * scale + bias[:, None, None]

    y = functional.conv2d(x, get(f"{name('conv1')}.weight"), stride=2, padding=3)
    y = functional.max_pool2d(norm(y, name("bn1")).clamp(min=0), 3, 2, 1)
    for layer in (1, 2, 3, 4):
        block = 0
        while get(f"{name(f'layer{layer}')}.{block}.conv1.weight") is not None:
            at = f"{name(f'layer{layer}')}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            deep = get(f"{at}.conv3.weight") is not None
            z = y
            for i in range(1, 4 if deep else 3):
                kernel = get(f"{at}.conv{i}.weight")
                z = functional.conv2d(
                    z, kernel, stride=stride if i == (2 if deep else 1) else 1, padding=kernel.shape[2] // 2
                )
                z = norm(z, f"{at}.bn{i}")
                z = z.clamp(min=0) if i < (3 if deep else 2) else z
            shortcut = get(f"{at}.downsample.0.weight")
            y = y if shortcut is None else norm(functional.conv2d(y, shortcut, stride=stride), f"{at}.downsample.1")
            y = (y + z).clamp(min=0)
            block += 1
        y = after(y, layer)
    return y


def attention_block(x: Tensor, get: Get, at: str) -> Tensor:
    """SOLAR's block on 1×C×H×W."""

    def compared(branch: str) -> Array:
        y = functional.conv2d(x, get(f"{at}.{branch}.0.weight"), get(f"{at}.{branch}.0.bias"))
        mean, var, weight, bias = (
            get(f"{at}.{branch}.1.{part}")[:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        rows: Array = ((y - mean) / torch.sqrt(var + 1e-5) * weight + bias).clamp(min=0)[0].flatten(1).T.numpy()
        return rows

    value = functional.conv2d(x, get(f"{at}.h.weight"), get(f"{at}.h.bias"))
    read = second_order(compared("f"), compared("g"), value[0].flatten(1).T.numpy())
    grid = torch.from_numpy(read.T.copy()).reshape(value.shape)
    return x + functional.conv2d(grid, get(f"{at}.v.weight"), get(f"{at}.v.bias"))


def levels(image: NDArray[np.uint8], mean: list[float], std: list[float], scales: Sequence[float]) -> list[Tensor]:
    """Return the normalised image at each scale, 1×3×h×w."""
    x = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None] / 255
    x = (x - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]
    return [
        x if s == 1 else functional.interpolate(x, scale_factor=s, mode="bilinear", align_corners=False) for s in scales
    ]


def over_scales(vectors: Sequence[Array], power: float) -> Array:
    """cirtorch's combination: mean of powers, root, length 1."""
    mean = (sum(v**power for v in vectors) / len(vectors)) ** (1 / power)
    return mean / math.sqrt(float(mean @ mean))


def centre(size: Sequence[int], bias: float) -> Array:
    """dirtorch's weights of a map at stride 32: a grid of 4×4 with 1 + bias in the middle, corners aligned."""
    rows, columns = -(-size[2] // 32), -(-size[3] // 32)
    grid = np.ones((4, 4))
    grid[1:3, 1:3] += bias
    out = np.ones((rows, columns))
    for r in range(rows):
        for c in range(columns):
            y, x = (3 * i / (n - 1) if n > 1 else 0.0 for i, n in ((r, rows), (c, columns)))
            top, left = min(int(y), 2), min(int(x), 2)
            b, a = y - top, x - left
            out[r, c] = (1 - b) * ((1 - a) * grid[top, left] + a * grid[top, left + 1]) + b * (
                (1 - a) * grid[top + 1, left] + a * grid[top + 1, left + 1]
            )
    return out
