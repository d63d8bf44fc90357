"""Photos to answers from an archive.

A query is a file, the bytes of one, a PIL image or an array; all go through the decoder of indexed photos.
"""

import io
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import Box, LocalDescriptors
from ctxdeploy.core.urls import url_of

if TYPE_CHECKING:
    from PIL import Image

    from ctxdeploy.index import Hit, Index
    from ctxdeploy.runtime import Extractor, PhotoSource

Photo: TypeAlias = "str | PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | PhotoSource"
# Queries that may wait for each other.
_MAX_WAITING = 64
_ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a query found.

    Attributes:
        photo: the query: its name and file or bytes.
        box: its part that was searched for; None for the whole photo.
        descriptors: of the query.
        hits: best first.
        extract_seconds: reading, decoding and network.
        search_seconds: assignment, aggregation and search; of several searched for at once, each its share.
    """

    photo: "PhotoSource"
    box: Box | None
    descriptors: LocalDescriptors
    hits: list["Hit"] = field(default_factory=list)
    extract_seconds: float = 0.0
    search_seconds: float = 0.0

    def metadata(self) -> dict[str, Any]:
        """Return the answer as ``ctxdeploy query --json`` prints it."""
        box = None if self.box is None else [self.box.x0, self.box.y0, self.box.x1, self.box.y1]
        return {
            "query": self.photo.name,
            "box": box,
            "results": [{"rank": i + 1, "name": hit.name, "score": hit.score} for i, hit in enumerate(self.hits)],
            "descriptors": len(self.descriptors),
            "seconds": {"extract": self.extract_seconds, "search": self.search_seconds},
        }


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """What is asked of an archive.

    Attributes:
        box: the part of a photo to search for; the whole photo if None.
        top: hits at most.
        alpha, threshold, idf: of the scores; None for the archive's settings.
    """

    box: Box | None = setting(
        None, "--box", "Search for this part of the photo (pixels).", metavar="x0,y0,x1,y1", parse=Box.parse
    )
    top: int = setting(10, "--top", "Results of a query.")
    alpha: float | None = setting(
        None, "--alpha", "Selectivity: higher counts close matches more.", default_text="the archive's"
    )
    threshold: float | None = setting(
        None, "--threshold", "Similarities below it count nothing.", default_text="the archive's"
    )
    idf: bool | None = setting(None, "--idf/--no-idf", "Weigh visual words by rarity.", default_text="the archive's")

    def __post_init__(self) -> None:
        check_types(self)
        if self.top < 1:
            raise ConfigError(f"--top {self.top} is not positive: ask for at least one result")


def photo_source(photo: Photo, name: str | None = None) -> "PhotoSource":
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
            return PhotoSource(name=shown, reader=_Unreadable(reason))
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
            return PhotoSource(name=shown, reader=_Unreadable(str(error)))
    raise ConfigError(
        f"a {type(photo).__name__} is not a photo: give a file, the bytes of one, a PIL image, or a uint8 array"
    )


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


class _Unreadable:
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


def ask(index: "Index", extractor: "Extractor", photo: "PhotoSource", config: QueryConfig) -> Answer:
    """Query an archive with a photo.

    Args:
        index: the archive; its model must have been checked against the extractor's.
        extractor: the model.
        photo: the query.
        config: what is asked.

    Raises:
        PhotoError: the photo cannot be read, or the box does not lie in it.
    """
    return _search(index, [_described(extractor, photo, config)], config)[0]


def ask_many(
    index: "Index", extractor: "Extractor", photos: "Iterable[PhotoSource]", config: QueryConfig
) -> Iterator[Answer | PhotoError]:
    """Query an archive with photos; yields an answer for each, or why it cannot be read, in order.

    Searching for several at once reads every posting once. Where the network is slower than the search, nothing is won
    by that, so an answer waits for others no longer than the last search took.
    """
    waiting: list[Answer | PhotoError] = []
    max_wait = 0.0
    since = time.perf_counter()
    for photo in photos:
        try:
            waiting.append(_described(extractor, photo, config))
        except PhotoError as error:
            waiting.append(error)
        now = time.perf_counter()
        if now - since >= max_wait or len(waiting) >= _MAX_WAITING:
            yield from _answered(index, waiting, config)
            waiting = []
            since = time.perf_counter()
            max_wait = since - now
    yield from _answered(index, waiting, config)


def _described(extractor: "Extractor", photo: "PhotoSource", config: QueryConfig) -> Answer:
    """Return an answer that has its descriptors, and no hits yet."""
    start = time.perf_counter()
    descriptors = extractor.extract_one(photo, config.box)
    return Answer(
        photo=photo,
        box=config.box if config.box is not None else photo.box,
        descriptors=descriptors,
        extract_seconds=time.perf_counter() - start,
    )


def _answered(
    index: "Index", waiting: Sequence[Answer | PhotoError], config: QueryConfig
) -> Iterator[Answer | PhotoError]:
    answers = iter(_search(index, [item for item in waiting if isinstance(item, Answer)], config))
    for item in waiting:
        yield item if isinstance(item, PhotoError) else next(answers)


def _search(index: "Index", queries: Sequence[Answer], config: QueryConfig) -> list[Answer]:
    if not queries:
        return []
    start = time.perf_counter()
    found = index.search_batch(
        [query.descriptors for query in queries],
        config.top,
        alpha=config.alpha,
        threshold=config.threshold,
        idf=config.idf,
    )
    seconds = (time.perf_counter() - start) / len(queries)
    return [replace(query, hits=hits, search_seconds=seconds) for query, hits in zip(queries, found, strict=True)]
