"""Some views darkened as by night or lamplight, before everything else is drawn of light and colour."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Exponent of the tone curve, gain behind it, deviation of the logarithm of each channel's gain, noise at most.
_CURVE, _GAIN, _TINT, _NOISE = (1.3, 2.6), (0.5, 1.1), 0.25, 0.05
# Lamps light some parts of a photo and leave others dark: deviation of the logarithm of the light at points of a grid.
_LAMPS, _GRID = 0.8, 5


def darken(images: Tensor, rng: np.random.Generator, share: float) -> Tensor:
    """Return B×3×H×W in 0..1 of which a share is dark, tinted and noisy; the others are as they were."""
    chosen = np.flatnonzero(rng.random(len(images)) < share)
    result = images.clone() if len(chosen) else images
    for i in chosen:
        curve, gain = rng.uniform(*_CURVE), rng.uniform(*_GAIN)
        tint = torch.from_numpy(np.exp(rng.normal(0, _TINT, (3, 1, 1))).astype(np.float32))
        drawn = torch.from_numpy(rng.standard_normal(images[i].shape, dtype=np.float32))
        points = torch.from_numpy(rng.normal(0, _LAMPS, (1, 1, _GRID, _GRID)).astype(np.float32))
        light = F.interpolate(points, images.shape[2:], mode="bicubic", align_corners=True)[0].exp()
        dark = images[i].clamp(1e-4, 1) ** curve * gain * tint * light + drawn * rng.uniform(0, _NOISE)
        result[i] = dark.clamp(0, 1)
    return result
