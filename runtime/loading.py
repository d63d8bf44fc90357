"""The pixels of an opened image: all of them, or as many as are there."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.runtime.jpeg import load_jpeg
from ctxdeploy.runtime.png import check_chunks, check_rows
from ctxdeploy.runtime.zeros import check_zeros

if TYPE_CHECKING:
    from PIL import Image, ImageFile

Load: TypeAlias = "Callable[[ImageFile.ImageFile, bytes], Image.Image | NDArray[np.uint8]]"
JPEG_FORMATS = ("JPEG", "MPO")


def load_whole(image: "ImageFile.ImageFile", data: bytes) -> "Image.Image | NDArray[np.uint8]":
    """Return the pixels of an opened image: itself, or H×W×3 RGB, or H×W grey.

    Raises:
        Exception: of any kind, if a pixel is missing or wrong, as far as that can be told.
    """
    if image.format in JPEG_FORMATS:
        pixels = load_jpeg(image, data)
        check_zeros(image, data)
        if pixels is not None:
            return pixels
    elif image.format == "PNG":
        check_chunks(data)
    else:
        check_zeros(image, data)
    image.load()
    if image.format == "PNG":
        check_rows(image, data)
    return image


def load_what_is_there(image: "ImageFile.ImageFile", data: bytes) -> "Image.Image":
    """Return an opened image with the pixels that can be decoded, the others black (in a JPEG file grey).

    Pillow has a switch for that, but it holds for a whole process. What a decoder has written when it fails stays in
    the image, though, which has nothing more to load once it has no tiles.

    Raises:
        Exception: as loading it raised, if no pixel was decoded.
        MemoryError: whatever was decoded before.
    """
    try:
        image.load()
    except MemoryError:  # the file is whole, for all that is known: it is tried again when there is more
        raise
    except Exception:  # decoders raise anything
        image.tile = []
        image.load()
        if image.getbbox() is None:
            raise
    return image


def as_image(pixels: "Image.Image | NDArray[np.uint8]") -> "Image.Image":
    """Return pixels as ``load_whole`` returned them, as an image."""
    from PIL import Image

    return Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
