"""Real photos that come with scikit-image, for the export check and the demo."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import MissingExtraError

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
