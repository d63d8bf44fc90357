"""What HOW's loader does with a photo, in Pillow's own words, and the EXIF orientations on arrays, in numpy's."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def load(path: Path, image_size: int, box: tuple[float, float, float, float] | None = None) -> NDArray[np.uint8]:
    """Return the pixels H×W×3 of a photo: to RGB, crop, ``thumbnail``. EXIF and alpha are ignored."""
    image = Image.open(path).convert("RGB")
    bound = float(image_size)
    if box is not None:
        full = max(image.size)
        image = image.crop(box)
        bound = image_size * max(image.size) / full
    image.thumbnail((bound, bound), Image.Resampling.LANCZOS)
    return np.array(image)


def upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return an array as EXIF says that it is to be shown: where row 0 and column 0 of the stored picture lie."""
    shown = {
        1: stored,  # top, left
        2: stored[:, ::-1],  # top, right
        3: stored[::-1, ::-1],  # bottom, right
        4: stored[::-1],  # bottom, left
        5: stored.swapaxes(0, 1),  # left, top
        6: stored.swapaxes(0, 1)[:, ::-1],  # right, top
        7: stored.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: stored.swapaxes(0, 1)[::-1],  # left, bottom
    }
    return shown[orientation]


def over_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return colour H×W×3 under alpha H×W in 0..255, composited on white, in float64."""
    weight = alpha[..., None].astype(np.float64) / 255
    return weight * colour + (1 - weight) * 255
