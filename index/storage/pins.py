"""Readers hold the manifest that they opened, so that no garbage collection takes its files away.

A pin is a shared ``flock`` on the manifest's file: the kernel releases it with its process, however that ends. Garbage
collection removes a manifest only under an exclusive lock on it, which it gets only where nobody reads that state. In
an archive that several machines use, a reader puts a file into ``readers/`` as well (see ``sharing``).
"""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.reading import MAX_DESCRIPTION, NOT_REGULAR
from ctxdeploy.index.storage.format import unreadable
from ctxdeploy.index.storage.manifest import CURRENT, Manifest, parse, parse_pointer, read_pointer
from ctxdeploy.index.storage.sharing import ReaderMark, mark_reader

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
# A writer may collect garbage between our reading of CURRENT and of the manifest.
_ATTEMPTS = 100
_PAUSE = 0.002


class Pin:
    """A manifest that is being read, until ``release``.

    Attributes:
        manifest: the state.
        pointer: its file's name and sha256, as in ``CURRENT``.
    """

    def __init__(self, manifest: Manifest, pointer: str, handle: int, mark: ReaderMark | None) -> None:
        self._handle: int | None = handle
        self._mark = mark
        self.manifest = manifest
        self.pointer = pointer

    def release(self) -> None:
        """Let the state be collected; may be called twice."""
        if self._mark is not None:
            self._mark.release()
        if self._handle is not None:
            handle, self._handle = self._handle, None
            with suppress(OSError):  # nothing was written
                os.close(handle)

    def __del__(self) -> None:
        """Release a state whose reader was dropped without being closed."""
        self.release()


def pin_current(folder: Path) -> Pin:
    """Open the state in force and hold it.

    Raises:
        ArchiveError: no archive, damaged, or of a newer format; the text names the file and the field.
    """
    for _ in range(_ATTEMPTS):
        pointer = read_pointer(folder)
        try:
            return pin(folder, pointer, str(folder / CURRENT))
        except ArchiveError:
            if read_pointer(folder) == pointer:
                raise
        time.sleep(_PAUSE)
    raise ArchiveError(f"{folder} changes faster than it can be opened: try again")


def pin(folder: Path, pointer: str, where: str) -> Pin:
    """Open and hold the manifest that ``pointer`` names (the text of ``CURRENT``, say, at ``where``).

    Raises:
        ArchiveError: it is missing, damaged, of a newer format, or being removed.
    """
    name, sha256 = parse_pointer(pointer, where)
    path, mark = folder / name, mark_reader(folder, name)
    try:
        held = _hold(path, pointer, where, sha256, mark)
    except BaseException:
        if mark is not None:
            mark.release()
        raise
    return held


def _hold(path: Path, pointer: str, where: str, sha256: str, mark: ReaderMark | None) -> Pin:
    try:
        handle = _open(path, patient=mark is not None)
    except OSError as error:
        raise unreadable(path, error, f", but {Path(where).name} names it") from error
    try:
        _share(handle, path)
        text = _read_all(handle, path)
        if hashlib.sha256(text).hexdigest() != sha256:
            raise ArchiveError(f"{path} is damaged: its sha256 is not the one in {Path(where).name}")
        return Pin(parse(text, str(path)), pointer, handle, mark)
    except BaseException:
        os.close(handle)
        raise


def _open(path: Path, *, patient: bool) -> int:
    """Open a manifest without waiting for what a pipe may give; ``patient``: it may be away for a moment, while
    somebody looks whether it may be removed."""
    for _ in range(_ATTEMPTS if patient else 0):
        try:
            return os.open(path, _FLAGS)
        except FileNotFoundError:
            time.sleep(_PAUSE)
    return os.open(path, _FLAGS)


def _share(handle: int, path: Path) -> None:
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody looks whether it may be removed: that takes microseconds
            time.sleep(_PAUSE)
            continue
        except OSError:  # a file system without locks
            return
        break
    if os.fstat(handle).st_nlink == 0:
        raise ArchiveError(f"{path} has been removed: open the archive again")


def _read_all(handle: int, path: Path) -> bytes:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise ArchiveError(f"{path} is damaged: {NOT_REGULAR}")
    parts, size = [], 0
    while part := os.read(handle, 1 << 24):
        parts.append(part)
        size += len(part)
        if size > MAX_DESCRIPTION:
            raise ArchiveError(f"{path} is damaged: it has more than {MAX_DESCRIPTION >> 20} MiB")
    return b"".join(parts)


def read_current(folder: Path) -> Manifest:
    """Return the state in force without holding it; errors as ``pin_current``."""
    held = pin_current(folder)
    held.release()
    return held.manifest


@contextmanager
def unpinned(path: Path) -> Iterator[bool]:
    """Yield whether no reader holds a manifest; if so, none can begin to, inside the ``with`` block."""
    handle = _open_to_lock(path)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            pass
        yield True
    finally:
        os.close(handle)


def _open_to_lock(path: Path) -> int:
    try:
        # NFS gives exclusive locks on files alone that are open for writing.
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return os.open(path, _FLAGS)
