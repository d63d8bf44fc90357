"""Files: written durably (whole under their name or not at all), locked, hashed."""

import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError, StorageError


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """Return the hex sha256 of a JSON-serialisable mapping, the same whatever the order of its keys."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


TEMPORARY = ".tmp-"
# write(2) takes at most 2 GiB - 4 KiB at once.
_PIECE = 1 << 30

Piece = bytes | NDArray[np.generic]


@contextmanager
def storing(path: Path, but: type[OSError] | None = None) -> Iterator[None]:
    """Turn any ``OSError`` of writing, except ``but``, into ``StorageError`` with the path and the cause."""
    try:
        yield
    except OSError as error:
        if but is not None and isinstance(error, but):
            raise
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    with storing(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, if missing, durably: the parent of each new one is synced."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with storing(path):
        path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def piece_bytes(piece: Piece) -> memoryview:
    """Return the bytes of a piece without a copy, where it is contiguous."""
    if isinstance(piece, bytes):
        return memoryview(piece)
    return np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data


def write_file(path: Path, pieces: Iterable[Piece], *, exclusive: bool = False) -> int:
    """Write ``pieces`` to a temporary file, sync it, rename it to ``path``, sync the folder; return the bytes.

    Raises:
        StorageError: permission, disk full, read-only file system; nothing is left then.
        FileExistsError: ``exclusive``, and ``path`` exists; it is left as it is.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}-{path.name}")
    total = 0
    with storing(path, FileExistsError if exclusive else None):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                for piece in pieces:
                    total += _write_all(handle, piece_bytes(piece))
                os.fsync(handle)
            finally:
                os.close(handle)
            if exclusive:
                os.link(temporary, path)  # unlike a rename, this never replaces
                temporary.unlink()
            else:
                os.replace(temporary, path)  # noqa: PTH105 (tests count the calls of os)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)
    return total


def _write_all(handle: int, view: memoryview) -> int:
    done = 0
    while done < len(view):
        done += os.write(handle, view[done : done + _PIECE])
    return done


LOCK = "LOCK"


class WriterLock:
    """An exclusive ``flock`` on the file ``LOCK`` of an archive, which also holds the writer's process id.

    Raises:
        ArchiveError: another process (or another ``Index`` of this one) writes the archive.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        self._path, self._process = folder, os.getpid()
        with storing(path):
            self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise ArchiveError(
                f"{folder} is being written by process {owner}: wait until it ends, or stop it"
            ) from error
        except OSError as error:  # a file system without locks
            self.release()
            raise StorageError(f"{path} cannot be locked: {error.strerror or error}") from error
        try:
            with storing(path):
                self._say_who()
        except BaseException:
            self.release()
            raise

    def _say_who(self) -> None:
        if self._handle is None:
            return
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            # The id is for messages alone: a full disk must not keep out the garbage collection that frees it.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def check(self) -> None:
        """Raise ``ArchiveError`` in a forked child: it and its parent would overwrite each other's states."""
        if os.getpid() != self._process:
            raise ArchiveError(f"{self._path} is written by process {self._process}, of which this one was forked")

    def release(self) -> None:
        """Let another writer in; the file stays, since removing it would let two writers lock two files."""
        if self._handle is not None:
            if os.getpid() == self._process:  # a forked child shares the lock, and would keep it for its own life
                fcntl.flock(self._handle, fcntl.LOCK_UN)
            os.close(self._handle)
            self._handle = None
