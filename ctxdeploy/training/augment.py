"""Light, colour, blur, noise and occlusion of views, each drawn for each view apart."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return B×3×H×W in 0..1, changed at random."""
    batch = len(images)

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).reshape(batch, -1, 1, 1)

    x = images.clamp(1e-4, 1) ** column(np.exp(rng.normal(0, 0.3, batch)))
    x = x * column(np.exp(rng.normal(0, 0.08, (batch, 3)))) * column(rng.uniform(0.6, 1.4, batch))
    grey = x.mean(dim=1, keepdim=True)
    saturation = rng.uniform(0.2, 1.6, batch) * (rng.random(batch) > 0.1)
    x = grey + (x - grey) * column(saturation)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * column(rng.uniform(0.6, 1.4, batch))
    x = _blurred(x, rng)
    noise = rng.uniform(0, 0.06, batch) * (rng.random(batch) < 0.3)
    drawn = rng.standard_normal(x.shape, dtype=np.float32)
    x = x + torch.from_numpy(drawn) * column(noise)
    return _occluded(x.clamp(0, 1), rng)


def _blurred(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur three of ten views by a Gaussian of 0.5 to 2 pixels."""
    chosen = np.flatnonzero(rng.random(len(x)) < 0.3)
    sigma = rng.uniform(0.5, 2.0, len(x))[chosen]
    if not len(chosen):
        return x
    offsets = np.arange(-4, 5)
    kernel = np.exp(-(offsets[None] ** 2) / (2 * sigma[:, None] ** 2))
    kernel /= kernel.sum(axis=1, keepdims=True)
    weight = torch.from_numpy(np.repeat(kernel, 3, axis=0).astype(np.float32))
    part = x[chosen].reshape(1, -1, *x.shape[2:])
    groups = part.shape[1]
    part = F.conv2d(part, weight[:, None, None, :], padding=(0, 4), groups=groups)
    part = F.conv2d(part, weight[:, None, :, None], padding=(4, 0), groups=groups)
    x = x.clone()
    x[chosen] = part.reshape(len(chosen), *x.shape[1:])
    return x


def _occluded(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Cover a rectangle of 3 to 20 % of three in ten views with one colour."""
    height, width = x.shape[2:]
    for i in np.flatnonzero(rng.random(len(x)) < 0.3):
        area, aspect = rng.uniform(0.03, 0.2), np.exp(rng.uniform(-0.7, 0.7))
        rows = int(min(height - 1, max(1, (area * aspect) ** 0.5 * height)))
        columns = int(min(width - 1, max(1, (area / aspect) ** 0.5 * width)))
        top, left = int(rng.integers(0, height - rows)), int(rng.integers(0, width - columns))
        colour = torch.from_numpy(rng.random(3, dtype=np.float32))
        x[i, :, top : top + rows, left : left + columns] = colour[:, None, None]
    return x
