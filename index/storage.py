"""Durable writing: a file appears whole under its name or not at all, whatever happens meanwhile."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import StorageError

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
