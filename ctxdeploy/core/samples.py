"""Sample photos: those that come with scikit-image, and views of them as another visitor might have taken them.

The export check, the demo and the tests use them. A view differs in viewpoint, framing, light, occlusion and sharpness.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from ctxdeploy.core.errors import MissingExtraError

_Corners = NDArray[np.float64]

# Shipped inside the package; the rest of skimage.data is downloaded on use and not touched here.
NAMES = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "stereo_motorcycle",
    "brick",
    "grass",
    "gravel",
    "camera",
    "coins",
    "moon",
    "page",
)


def sample_photo(name: str) -> NDArray[np.uint8]:
    """Return one photo of ``NAMES``, H×W×3 uint8 RGB, at most 1411 pixels high or wide.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-image", "demo") from error
    loaded: Any = getattr(data, name)()
    photo = loaded[0] if isinstance(loaded, tuple) else loaded
    if photo.ndim == 2:
        photo = np.repeat(photo[:, :, None], 3, axis=2)
    return np.ascontiguousarray(photo[:, :, :3], dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Strength of the changes.

    Attributes:
        shift: of each corner of the frame, as a share of the photo's sides: viewpoint and framing.
        shrink: largest share of the frame's sides that is cropped away.
        rotation: largest rotation in degrees.
        light: largest change of brightness, contrast and colour, as a share.
        occlusion: largest side of the patch that covers a part, as a share of the view's sides.
        blur: largest radius in pixels.
        longest: longest side of a view in pixels.
    """

    shift: float = 0.06
    shrink: float = 0.3
    rotation: float = 8.0
    light: float = 0.35
    occlusion: float = 0.3
    blur: float = 1.2
    longest: int = 640


def make_view(photo: NDArray[np.uint8], random: np.random.Generator, config: ViewConfig) -> Image.Image:
    """Return a changed view of a photo (H×W×3 uint8); the same generator state gives the same view."""
    height, width = photo.shape[:2]
    corners = _frame(width, height, random, config)
    scale = min(1.0, config.longest / max(width, height))
    size = (max(1, round(width * scale * 0.9)), max(1, round(height * scale * 0.9)))
    view = Image.fromarray(photo).transform(
        size, Image.Transform.PERSPECTIVE, _coefficients(corners, size), Image.Resampling.BICUBIC
    )
    view = _light(view, random, config.light)
    view = _occlude(view, random, config.occlusion)
    return view.filter(ImageFilter.GaussianBlur(random.uniform(0, config.blur)))


def _frame(width: int, height: int, random: np.random.Generator, config: ViewConfig) -> _Corners:
    """Return the corners of the part that the view shows, 4×2 in pixels, clockwise from the upper left, all inside."""
    unit = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    side = 1 - random.uniform(0.1, config.shrink)
    angle = np.radians(random.uniform(-config.rotation, config.rotation))
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    corners = (unit * side + random.uniform(-config.shift, config.shift, (4, 2))) @ turn.T
    corners -= corners.mean(axis=0)
    room = np.maximum(0.5 - np.abs(corners).max(axis=0), 0)
    corners += random.uniform(-room, room)
    pixels: _Corners = np.clip(corners + 0.5, 0, 1) * (width, height)
    return pixels


def _coefficients(corners: _Corners, size: tuple[int, int]) -> list[float]:
    """Return Pillow's eight coefficients of the homography that takes the view's corners to ``corners``."""
    width, height = size
    targets = [(0, 0), (width, 0), (width, height), (0, height)]
    rows, values = [], []
    for (x, y), (u, v) in zip(targets, corners, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    solved: list[float] = np.linalg.solve(np.array(rows, float), np.array(values, float)).tolist()
    return solved


def _light(view: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = enhancer(view).enhance(1 + random.uniform(-strength, strength))
    return view


def _occlude(view: Image.Image, random: np.random.Generator, largest: float) -> Image.Image:
    """Cover a rectangle with one colour, as a passer-by or a lamp post would."""
    width, height = view.size
    w, h = (max(1, round(side * random.uniform(0.05, largest))) for side in (width, height))
    x, y = int(random.integers(0, width - w + 1)), int(random.integers(0, height - h + 1))
    colour = tuple(int(value) for value in random.integers(30, 200, 3))
    view.paste(colour, (x, y, x + w, y + h))
    return view
