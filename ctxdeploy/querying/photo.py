"""A photo that is asked with, in whatever form it is given; all go through the decoder of indexed photos."""

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.text import native_path, printable
from ctxdeploy.core.urls import url_of

if TYPE_CHECKING:
    from PIL import Image

    from ctxdeploy.runtime import PhotoSource


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedPhoto:
    """A photo of the archive as a query, with what the archive holds of it: no file is read, no network runs.

    Attributes:
        name: of the photo.
    """

    name: str


Photo: TypeAlias = "str | PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | PhotoSource"
_ORIENTATION = 0x0112  # EXIF
_GIVE_PAIRS = "give a folder, or pairs such as (path.name, path)"


def photo_source(photo: "Photo", name: str | None = None) -> "PhotoSource":
    """Return a photo as the decoder takes it.

    An array or a PIL image is written as an uncompressed file in memory first, so that its pixels go through the same
    orientation, colour conversion and scaling as those of a file: no second path of preprocessing exists. That costs
    2 ms for 6 megapixels in RGB.

    Args:
        photo: a file, the bytes of one, a PIL image, or an H×W×3 (RGB), H×W×1 or H×W (grey) uint8 array.
        name: of the photo; by default its path, or what it is.

    Raises:
        ConfigError: it is none of these. A PIL image that cannot be read fails later, like a file.
    """
    from ctxdeploy.runtime import PhotoSource

    if isinstance(photo, PhotoSource):
        return photo
    if isinstance(photo, str | PathLike):
        path = fspath(photo)
        reason = _why_no_photo(Path(path))
        if reason is not None:
            shown = (url_of(path) or path) if name is None else name
            return PhotoSource(name=shown, reader=UnreadablePhoto(reason))
        return PhotoSource(name=path if name is None else name, path=Path(path))
    if isinstance(photo, bytes | bytearray | memoryview):
        return PhotoSource(name=f"photo of {len(photo):,} bytes" if name is None else name, data=bytes(photo))
    if isinstance(photo, np.ndarray):
        rows, columns = (*photo.shape, 0, 0)[:2]
        shown = f"array of {columns}×{rows} pixels" if name is None else name
        return PhotoSource(name=shown, data=_array_file(photo))
    if hasattr(photo, "save") and hasattr(photo, "mode"):
        shown = f"image of {photo.width}×{photo.height} pixels" if name is None else name
        try:
            return PhotoSource(name=shown, data=_image_file(photo))
        except PhotoError as error:
            return PhotoSource(name=shown, reader=UnreadablePhoto(str(error)))
    raise ConfigError(
        f"a {type(photo).__name__} is not a photo: give a file, the bytes of one, a PIL image, or a uint8 array"
    )


def indexed_source(name: str, folder: Path | None) -> "PhotoSource":
    """Return a photo of an archive whose names are paths in ``folder``; where that is not known, reading it says so."""
    from ctxdeploy.runtime import PhotoSource

    if folder is None:
        reason = "the archive does not say where the files of its photos are"
        return PhotoSource(name=name, reader=UnreadablePhoto(reason))
    return photo_source(folder / native_path(name), name=name)


def check_photo(path: Path) -> None:
    """Raise ``PhotoError`` for a path that cannot be a photo: a folder, or what was meant to be a URL."""
    reason = _why_no_photo(path)
    if reason is not None:
        raise PhotoError(f"{printable(url_of(str(path)) or str(path))}: {reason}")


def _why_no_photo(path: Path) -> str | None:
    """Return why a path cannot be a photo, if it is a folder, or was meant to be a URL; None otherwise."""
    try:
        if path.is_dir():
            return f"it is a folder: name the photos in it, such as {path}/*.jpg"
        if url_of(str(path)) is not None and not path.exists():
            return "it is a URL: fetch the photo first, and name its file"
    except (OSError, ValueError):  # reading says why
        return None
    return None


class UnreadablePhoto:
    """The reader of what cannot be read: it is one failure among the photos, not the end of them."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def read(self) -> bytes:
        raise PhotoError(self._reason)

    def state(self) -> None:
        return None


def _array_file(array: NDArray[Any]) -> bytes:
    """Return an array as a portable pixmap: a header, and the pixels as they are."""
    grey = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype != np.uint8 or not (grey.ndim == 2 or (grey.ndim == 3 and grey.shape[2] == 3)) or not grey.size:
        raise ConfigError(
            f"the array is {array.dtype} of shape {array.shape}: give uint8 pixels, H×W×3 in RGB or H×W in grey"
        )
    kind = b"P5" if grey.ndim == 2 else b"P6"
    return b"%b %d %d 255\n" % (kind, grey.shape[1], grey.shape[0]) + np.ascontiguousarray(grey).tobytes()


def _image_file(image: "Image.Image") -> bytes:
    """Return a PIL image as a file without loss; its EXIF orientation is kept, for the decoder to apply."""
    from PIL import Image

    written = io.BytesIO()
    try:
        image.load()  # Pillow's TIFF and AVIF readers rotate while they load, and drop the orientation
        exif = Image.Exif()
        exif[_ORIENTATION] = _orientation(image)
        # TIFF holds nearly every mode, alpha, CMYK and floats among them. Nothing else of a file that the image came
        # from goes along: its EXIF may contradict what is written here, its compression may lose something.
        image.save(written, "TIFF", exif=exif, compression="raw")
    except (OSError, ValueError, KeyError, SyntaxError, struct.error) as error:
        raise PhotoError(f"the image of mode {image.mode} cannot be read: {error}") from error
    return written.getvalue()


def _orientation(image: "Image.Image") -> int:
    try:
        number = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises anything from SyntaxError to struct.error; its photo is whole
        return 1
    return number if isinstance(number, int) and 1 <= number <= 8 else 1


def photo_pairs(photos: Iterable[tuple[str, Photo]]) -> "Iterator[PhotoSource]":
    """Yield the photos of pairs of a name and a photo; ``ConfigError`` for what is not such a pair."""
    try:
        given = iter(photos)
    except TypeError as error:
        raise ConfigError(f"{photos!r} is neither a place nor pairs: {_GIVE_PAIRS}") from error
    for pair in given:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ConfigError(f"{str(pair)[:100]!r} is not a pair of a name and a photo: {_GIVE_PAIRS}")
        yield photo_source(pair[1], name=pair[0])
