"""Photos on which an exported graph is compared with PyTorch: real ones, and the shapes that break graphs."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ConfigError
from ctxdeploy.preprocessing import Preprocessing
from ctxdeploy.samples import sample_photo

Image = NDArray[np.uint8]


def default_photos(image_size: int) -> dict[str, Image]:
    """Return real photos from scikit-image, scaled to ``image_size`` where they are larger.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    names = ("coffee", "rocket", "stereo_motorcycle", "hubble_deep_field")
    return {name: _scaled(sample_photo(name), image_size) for name in names}


def with_odd_shapes(photos: Mapping[str, Image], stride: int, scale: float) -> dict[str, Image]:
    """Add crops of the photos: portrait, panorama, tiny, and a second one of equal size.

    Args:
        photos: at least one photo, H×W×3 uint8.
        stride: of the network, in pixels of the scaled image.
        scale: smallest one of the network; the tiny crop is smaller than one cell at it.
    """
    if not photos:
        raise ConfigError("no photo to compare with: give a folder of photos with --photos")
    largest = max(photos.values(), key=lambda photo: min(photo.shape[:2]))
    height, width = largest.shape[:2]
    tiny = max(1, round(stride / scale * 0.6))
    crops = {
        "portrait": largest[:, width // 4 : width // 4 + max(1, min(height, width) // 2)],
        "panorama": largest[height // 3 : height // 3 + max(1, width // 8)],
        "tiny": largest[height // 2 : height // 2 + tiny, width // 2 : width // 2 + max(1, tiny * 2 // 3)],
        "one pixel": largest[:1, :1],
        # Mirrored, so that a batch of two holds different photos of one size.
        "portrait, mirrored": largest[:, width // 4 : width // 4 + max(1, min(height, width) // 2)][:, ::-1],
    }
    return {**photos, **{name: np.ascontiguousarray(crop) for name, crop in crops.items()}}


def _scaled(photo: Image, image_size: int) -> Image:
    """Scale as every photo is scaled: through a lossless file and the runtime's decoder."""
    from PIL import Image as Pillow

    from ctxdeploy.runtime import decode_photo

    buffer = io.BytesIO()
    Pillow.fromarray(photo).save(buffer, "PNG", compress_level=1)
    return decode_photo(buffer.getvalue(), Preprocessing(image_size=image_size)).pixels
