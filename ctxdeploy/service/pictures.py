"""The pictures of an archive's photos: thumbnails, kept in memory, and the files themselves."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.archive import photo_place
from ctxdeploy.core.errors import CtxdeployError, PhotoError
from ctxdeploy.core.text import name_bytes
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime.decode import DecodeLimits
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.logs import log
from ctxdeploy.service.media import media_type
from ctxdeploy.service.photo_files import OutsideError, PhotoFiles
from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.replies import no_such_photo

if TYPE_CHECKING:
    from ctxdeploy.runtime import PhotoSource

_CACHED = 64 << 20  # bytes of thumbnails
# A tar or zip file of more photos is not listed to show one: its headers lie all over it.
_MAX_PACKED = 200_000
_HEAD = 64  # bytes that tell a format
_MAX_FILE = 256 << 20  # bytes of a photo that is shown small


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Where the bytes of a photo are.

    Attributes:
        state: size and time of change of its file.
        media_type: of it, by its first bytes.
        read: returns bytes, given the first and how many.
    """

    state: FileState
    media_type: str
    read: Callable[[int, int], bytes]

    def tag(self, name: str, size: int = 0) -> str:
        """Return the ``ETag`` of it, or of its thumbnail of a size: another one when the file has changed."""
        text = b"%d %d %d %b" % (self.state.size, self.state.mtime_ns, size, name_bytes(name))
        return f'"{hashlib.sha256(text).hexdigest()[:32]}"'


class Pictures:
    """Thumbnails and files of the photos of archives. Its methods run in threads, any number of them.

    Args:
        limits: which photos are refused.
        workers: processes that decode for small thumbnails, and as many for large ones.
    """

    def __init__(self, limits: DecodeLimits, workers: int) -> None:
        from ctxdeploy.runtime import Thumbnailer

        self._thumbnailer = Thumbnailer(workers=workers, limits=limits)
        self._kept = _Kept(_CACHED)
        self._packed: dict[str, _Packed] = {}
        self._listing = threading.Lock()

    @contextmanager
    def opened(self, served: ServedArchive, name: str) -> Iterator[Picture]:
        """Open the file of a photo that an archive holds, while the block runs.

        Raises:
            ProblemError: 404: there is no such photo, or its file is not there, or not where the archive's photos are;
                which of these is not told, but where no file of the archive can be shown.
        """
        if name not in served.photos:
            raise no_such_photo(name)
        kind = served.pictures()
        if kind == "packed":
            yield self._in_packed(served, name)
            return
        folder = served.folder()
        if folder is None:
            raise ProblemError(404, "the files of this archive's photos are not within reach", code="NoPictures")
        try:
            with PhotoFiles(folder).opened(name) as opened:
                descriptor = opened.descriptor
                head = os.pread(descriptor, _HEAD, 0)
                yield Picture(
                    state=opened.state,
                    media_type=_checked(head, name),
                    read=lambda start, count: _read(descriptor, start, count),
                )
        except OutsideError as error:
            log.info("%s: a picture is not shown: %s", served.name, error)
            raise no_such_photo(name) from error

    def thumbnail(self, served: ServedArchive, name: str, picture: Picture, size: int) -> bytes:
        """Return a JPEG of a picture that is open.

        Raises:
            ProblemError: 404 (PictureUnreadable): its file cannot be decoded.
        """
        from ctxdeploy.runtime import PhotoSource

        key = f"{served.name} {picture.tag(name, size)}"
        found = self._kept.get(key)
        if found is None:
            if picture.state.size > _MAX_FILE:
                raise _unreadable(f"it has more than {_MAX_FILE:,} bytes")
            source = PhotoSource(name=name, data=picture.read(0, picture.state.size))
            try:
                found = self._thumbnailer.make(source, size).data
            except PhotoError as error:
                raise _unreadable(str(error)) from error
            self._kept.put(key, found)
        return found

    def _in_packed(self, served: ServedArchive, name: str) -> Picture:
        if len(served.photos) > _MAX_PACKED:
            detail = f"the archive's photos are in tar or zip files, and more than {_MAX_PACKED:,}: unpack them"
            raise ProblemError(404, detail, code="NoPictures")
        packed = self._packed.get(served.name)
        if packed is None:
            with self._listing:
                packed = self._packed.setdefault(served.name, _Packed(served.path))
        try:
            state, data = packed.read(name)
        except CtxdeployError as error:
            log.info("%s: a picture is not shown: %s", served.name, error)
            raise no_such_photo(name) from error
        return Picture(
            state=state,
            media_type=_checked(data[:_HEAD], name),
            read=lambda start, count: data[start : start + count],
        )

    def close(self) -> None:
        """End its processes."""
        self._thumbnailer.close()


class _Packed:
    """The photos in the tar or zip files of an archive, listed once, and again when these have changed."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._listed: dict[str, PhotoSource] = {}
        self._seen: tuple[int, int, int] | None = None

    def read(self, name: str) -> tuple[FileState, bytes]:
        """Return a photo; ``CtxdeployError`` if it is not there."""
        for is_last in (False, True):
            source = self._sources(anew=is_last).get(name)
            if source is None or source.reader is None:
                continue
            try:
                state = source.reader.state()
                if state is None or state.size > _MAX_FILE:
                    break
                return state, source.reader.read()
            except PhotoError:
                if is_last:
                    raise
        raise PhotoError("it is not in the file that the photos came from")

    def _sources(self, *, anew: bool) -> "dict[str, PhotoSource]":
        from ctxdeploy.runtime.sources import list_photos

        place = photo_place(self._archive)
        with self._lock:
            now = _identity(place)
            if anew or now is None or now != self._seen:
                self._seen, self._listed = None, {}
                self._listed = {} if place is None else {photo.name: photo for photo in list_photos(place).photos}
                self._seen = now
            return self._listed


def _identity(place: str | None) -> tuple[int, int, int] | None:
    """Return what tells a file from another one in its place; of a pattern what tells that there is one."""
    if place is None:
        return None
    try:
        found = Path(place).stat()
    except OSError:
        return (0, 0, 0) if set(place) & set("*?[{") else None  # a pattern of several files
    return found.st_ino, found.st_size, found.st_mtime_ns


class _Kept:
    """Bytes by key, the latest that were asked for, within a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._found: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> bytes | None:
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._found.pop(key, b""))
            self._found[key] = data
            while self._bytes > self._limit:
                self._bytes -= len(self._found.popitem(last=False)[1])


def _checked(head: bytes, name: str) -> str:
    found = media_type(head)
    if found is None:
        raise no_such_photo(name)
    return found


def _unreadable(reason: str) -> ProblemError:
    return ProblemError(404, f"there is no thumbnail: {reason}", code="PictureUnreadable")


def _read(descriptor: int, start: int, count: int) -> bytes:
    pieces = []
    while count > 0 and (piece := os.pread(descriptor, count, start)):
        pieces.append(piece)
        start, count = start + len(piece), count - len(piece)
    return b"".join(pieces)
