"""Photos in tar files, WebDataset's shards among them, and patterns that name many: ``train-{000..127}.tar``."""

import math
import os
import re
import stat
import tarfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from ctxdeploy.core.errors import ConfigError, NoPhotosError, PhotoError
from ctxdeploy.core.text import counted, printable
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime.decode.image import EXTENSIONS
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource
from ctxdeploy.runtime.sources.base import MAX_BYTES, PhotoList, absolute, clean_name, is_hidden

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
MAX_NAMES = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)", re.ASCII)


@dataclass(kw_only=True, slots=True)
class _Opened:
    descriptor: int
    users: int = 0


class OpenFiles:
    """Descriptors of files, shared by threads; they have no position: read with ``os.pread``.

    Args:
        limit: files that stay open while nobody reads; with n threads at most ``limit + n`` are open.
    """

    def __init__(self, limit: int = 16) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        weakref.finalize(self, _close, self._opened)

    @contextmanager
    def open(self, path: str, check: Callable[[int], None]) -> Iterator[int]:
        """Give a descriptor of a file, whose ``check`` is made when it is opened; ``OSError`` and what it raises."""
        with self._lock:
            opened = self._opened.get(path)
            if opened is None:
                opened = self._opened[path] = _Opened(descriptor=_open(path, check))
            self._opened.move_to_end(path)
            opened.users += 1
        try:
            yield opened.descriptor
        finally:
            with self._lock:
                opened.users -= 1
                self._evict()

    def _evict(self) -> None:
        idle = [path for path, opened in self._opened.items() if not opened.users]
        for path in idle[: max(len(self._opened) - self._limit, 0)]:
            os.close(self._opened.pop(path).descriptor)


def _open(path: str, check: Callable[[int], None]) -> int:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        check(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close(opened: "OrderedDict[str, _Opened]") -> None:
    while opened:
        os.close(opened.popitem()[1].descriptor)


class TarFile:
    """A tar file whose members are read at their places, from any thread.

    Args:
        path: the file.
        files: keeps it open.
    """

    __slots__ = ("_files", "_state", "path")

    def __init__(self, path: str, files: OpenFiles) -> None:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a regular file")
        self.path, self._files = path, files
        self._state = (found.st_size, found.st_mtime_ns)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes; ``PhotoError`` with the bare reason where they are not there."""
        pieces = []
        try:
            with self._files.open(self.path, self._check) as descriptor:
                while size > 0:
                    piece = os.pread(descriptor, min(size, MAX_BYTES), offset)
                    if not piece:
                        break
                    pieces.append(piece)
                    offset, size = offset + len(piece), size - len(piece)
                self._check(descriptor)  # it may have been written to since it was opened
        except OSError as error:
            raise PhotoError(_unreadable(error)) from error
        if size > 0:
            raise PhotoError("the tar file ends within it")
        return b"".join(pieces)

    def _check(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if (found.st_size, found.st_mtime_ns) != self._state:
            raise PhotoError("the tar file has changed since it was listed: run the command again")


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """Reads a photo in a tar file: ``size`` bytes from ``offset`` on; ``mtime_ns`` is the member's own."""

    file: TarFile
    offset: int
    size: int
    mtime_ns: int

    def read(self) -> bytes:
        """Return the bytes; ``PhotoError`` with the bare reason if that fails."""
        if self.size > MAX_BYTES:
            raise PhotoError(f"it has {self.size:,} bytes, more than the {MAX_BYTES:,} that a photo may have")
        return self.file.read(self.offset, self.size)

    def state(self) -> FileState:
        """Return size and time of change that the tar file gives."""
        return FileState(size=self.size, mtime_ns=self.mtime_ns)


def list_tars(place: str) -> PhotoList:
    """List the photos in a tar file, or in all that a pattern names.

    A photo's name is the tar file's name and the member's, ``shard-000.tar/cat.jpg``; with a pattern, the tar file's
    name is relative to the folder above the first sign of the pattern. Of members of one name the last counts, as when
    the file is unpacked. What is not a plain file, or hidden, is left out.

    Raises:
        ConfigError: no file matches, or the only one cannot be opened, or it is compressed.
        NoPhotosError: there is no photo.
    """
    single = Path(place).exists() or not has_pattern(place)
    paths = [place] if single else expand(place)
    folder = Path(place).parent if single else pattern_folder(place)
    if not paths:
        raise ConfigError(f"no file matches {printable(place)}")
    files = OpenFiles()
    photos: list[PhotoSource] = []
    unreadable: list[PhotoFailure] = []
    for path in paths:
        name = clean_name(os.path.relpath(path, folder))
        try:
            reason = _list_members(TarFile(path, files), name, photos)
        except OSError as error:
            reason = _unreadable(error)
        if reason is not None:
            unreadable.append(PhotoFailure(name=f"{name}/", reason=reason, stage="list", file=None))
    if not photos:
        raise _nothing(place, paths, unreadable)
    photos.sort(key=lambda photo: photo.name)
    return PhotoList(place=absolute(Path(place)), photos=photos, unreadable=tuple(unreadable))


def _nothing(place: str, paths: list[str], unreadable: list[PhotoFailure]) -> Exception:
    where = printable(place)
    if len(unreadable) == len(paths):
        which = "" if len(paths) == 1 else f" (the first of {counted(len(paths), 'file')})"
        return ConfigError(f"{where}{which}: {unreadable[0].reason}")
    return NoPhotosError(f"{where} holds no photos (looked for {' '.join(EXTENSIONS)})")


def _list_members(file: TarFile, name: str, photos: list[PhotoSource]) -> str | None:
    """Append the photos of a tar file; return what is wrong with it, None if nothing is."""
    found: dict[str, TarMember] = {}
    try:
        with tarfile.open(file.path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.size < 0:  # it leads back, and round in a circle
                    raise tarfile.ReadError("a member ends before it begins")
                member_name = clean_name(member.name).lstrip("/")
                if not member.isreg() or member.issparse() or is_hidden(member_name):
                    continue
                if member_name.lower().endswith(EXTENSIONS):
                    found[member_name] = TarMember(
                        file=file, offset=member.offset_data, size=member.size, mtime_ns=_nanoseconds(member.mtime)
                    )
            reason = _check_end(tar)
    except OSError as error:
        reason = _unreadable(error)
    except Exception as error:  # damaged headers raise anything: TarError, ValueError, RecursionError, MemoryError, ...
        reason = _why(file.path, error)
    photos += [PhotoSource(name=f"{name}/{member}", reader=reader) for member, reader in found.items()]
    return reason


def _check_end(tar: tarfile.TarFile) -> str | None:
    """Return what is wrong where ``tarfile`` stopped: it takes a damaged header for the end."""
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return "the tar file is truncated"
    return f"the tar file is damaged at byte {tar.offset:,}" if any(block) else None


def _why(path: str, error: Exception) -> str:
    with Path(path).open("rb") as file:
        start = file.read(8)
    if start.startswith(_MAGIC):
        return "the file is compressed, whatever its name: decompress it to a plain .tar"
    if not start:
        return "the file is empty"
    return f"the tar file is truncated or damaged ({printable(' '.join(str(error).split()))})"


def _unreadable(error: OSError) -> str:
    return f"the tar file cannot be read ({error.strerror or error})"


def _nanoseconds(seconds: float) -> int:
    """Return a member's time as an int64 takes it; pax headers have fractions."""
    return min(max(round(seconds * 1_000_000_000), 0), (1 << 63) - 1) if math.isfinite(seconds) else 0


def has_pattern(text: str) -> bool:
    """Return whether a text names more than one file."""
    return has_magic(text) or any("," in part or _RANGE.fullmatch(part) for part in _BRACES.findall(text))


def pattern_folder(pattern: str) -> Path:
    """Return the folder above the first sign of a pattern."""
    return Path(os.path.dirname(re.split(r"[*?\[{]", pattern, maxsplit=1)[0]))  # noqa: PTH120 (Path drops a last slash)


def expand(pattern: str) -> list[str]:
    """Return the files that a pattern names, each once; those of braces alone need not exist.

    ``{000..127}`` counts, up or down, with the zeros of its first number; ``{a,b}`` is either; ``*``, ``?``, ``[…]``
    and ``**`` match what is there.

    Raises:
        ConfigError: it names more than a million files.
    """
    names: dict[str, None] = {}
    for text in _expand_braces(pattern):
        found = sorted(glob(text, recursive=True)) if has_magic(text) else [text]  # noqa: PTH207 (absolute ones too)
        names |= dict.fromkeys(found)
    return list(names)


def _expand_braces(pattern: str) -> list[str]:
    texts = [""]
    for number, part in enumerate(_BRACES.split(pattern)):
        choices = [part] if number % 2 == 0 else _choices(part)
        if len(texts) * len(choices) > MAX_NAMES:
            raise ConfigError(f"{printable(pattern)} names more than {MAX_NAMES:,} files")
        texts = [text + choice for text in texts for choice in choices]
    return texts


def _choices(inside: str) -> list[str]:
    counted = _RANGE.fullmatch(inside)
    if not counted:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = int(counted[1]), int(counted[2])
    step = 1 if first <= last else -1
    width = len(counted[1])
    if abs(last - first) >= MAX_NAMES:
        raise ConfigError(f"{{{inside}}} names more than {MAX_NAMES:,} files")
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]
