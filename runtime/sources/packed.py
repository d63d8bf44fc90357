"""Files that hold many photos, read at their places from any thread, and patterns that name many such files.

What tar files (``tar``) and zip files (``zip``) have in common: ``train-{000..127}.tar`` is expanded here.
"""

import os
import re
import stat
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from pathlib import Path

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.text import counted, photo_name, printable
from ctxdeploy.runtime.config import MAX_BYTES
from ctxdeploy.runtime.decode.decode import TooLargeError
from ctxdeploy.runtime.photo import PhotoFailure, PhotoReader, PhotoSource
from ctxdeploy.runtime.sources.base import PhotoList, absolute, clean_name, nothing_found
from ctxdeploy.runtime.sources.selection import LeftOut, NameFilter, Selection

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


class PackedFile:
    """A file whose members are read at their places, from any thread.

    Args:
        path: the file.
        kind: what messages call it: ``tar file`` or ``zip file``.
        files: keeps it open.
    """

    __slots__ = ("_files", "_state", "kind", "path")

    def __init__(self, path: str, kind: str, files: OpenFiles) -> None:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a regular file")
        self.path, self.kind, self._files = path, kind, files
        self._state = (found.st_size, found.st_mtime_ns)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes; ``PhotoError`` with the bare reason where they are not there."""
        pieces = []
        if offset + size > self._state[0]:  # also where damage says a place that no system call takes
            raise PhotoError(f"the {self.kind} ends within it")
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
            raise PhotoError(unreadable(self.kind, error)) from error
        if size > 0:
            raise PhotoError(f"the {self.kind} ends within it")
        return b"".join(pieces)

    def _check(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if (found.st_size, found.st_mtime_ns) != self._state:
            raise PhotoError(f"the {self.kind} has changed since it was listed: run the command again")


# Returns the members that a test takes for photos, by clean name, and what is wrong with the file; None if nothing is.
TakesName = Callable[[str], bool]
ListMembers = Callable[[PackedFile, TakesName], tuple[dict[str, PhotoReader], str | None]]


def list_packed(place: str, kind: str, list_members: ListMembers, selection: Selection) -> PhotoList:
    """List the photos in a file, or in all that a pattern names.

    A photo's name is the file's name and the member's, ``shard-000.tar/cat.jpg``; with a pattern, the file's name is
    relative to the folder above the first sign of the pattern.

    Args:
        place: the file or the pattern.
        kind: as in ``PackedFile``.
        list_members: lists one file. It may raise ``OSError``; damage is for it to describe.
        selection: of the photos.

    Raises:
        ConfigError: no file matches, or none that does can be listed.
        NoPhotosError: there is no photo.
    """
    single = Path(place).exists() or not has_pattern(place)
    paths = [place] if single else expand(place)
    folder = Path(place).parent if single else pattern_folder(place)
    if not paths:
        raise ConfigError(f"no file matches {printable(place)}")
    files, names = OpenFiles(), NameFilter(selection)
    photos: list[PhotoSource] = []
    failures: list[PhotoFailure] = []
    for path in paths:
        name = photo_name(clean_name(os.path.relpath(path, folder)))
        try:
            found, reason = list_members(PackedFile(path, kind, files), partial(names.takes, within=f"{name}/"))
            photos += [PhotoSource(name=f"{name}/{member}", reader=reader) for member, reader in found.items()]
        except OSError as error:
            reason = unreadable(kind, error)
        if reason is not None:
            failures.append(PhotoFailure(name=f"{name}/", reason=reason, stage="list", file=None))
    if not photos:
        raise _nothing(place, paths, failures, names.left_out())
    photos.sort(key=lambda photo: photo.name)
    return PhotoList(place=absolute(Path(place)), photos=photos, unreadable=tuple(failures), left_out=names.left_out())


def _nothing(place: str, paths: list[str], failures: list[PhotoFailure], left_out: LeftOut) -> Exception:
    if len(failures) == len(paths):
        which = "" if len(paths) == 1 else f" (the first of {counted(len(paths), 'file')})"
        return ConfigError(f"{printable(place)}{which}: {failures[0].reason}")
    return nothing_found(place, left_out)


def member_name(path: str) -> str:
    """Return the clean name of a member, which never is absolute."""
    return clean_name(path).lstrip("/")


def unreadable(kind: str, error: OSError) -> str:
    """Return why a file cannot be read, for a failure."""
    return f"the {kind} cannot be read ({error.strerror or error})"


def too_large(size: int) -> str | None:
    """Return why a member of so many bytes is not read; None if it is."""
    return None if size <= MAX_BYTES else str(TooLargeError(MAX_BYTES, size))


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
