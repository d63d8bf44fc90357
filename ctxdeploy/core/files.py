"""Durable files: the only module that moves files into place. Also hashes.

What is written appears under its name whole, or not at all: it is made under a temporary name in the same folder,
synced, renamed, and the folder is synced. A crash leaves the old content or the new one, and at most a file or folder
whose name begins with ``TEMPORARY``.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import json_ready

TEMPORARY = ".tmp-"
# write(2) takes at most 2 GiB - 4 KiB at once.
_MAX_WRITE = 1 << 30
# What file systems say that have no such call (FUSE, FAT, NFS, SMB, 9P).
_NO_SUCH_CALL = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
# No fsync of folders there, or none that may be opened: their names are as durable as they can be.
_NO_FOLDER_SYNC = (*_NO_SUCH_CALL, errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM)
_NO_HARD_LINKS = (*_NO_SUCH_CALL, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV)

Piece = bytes | NDArray[np.generic]


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a regular file's bytes, read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """Return the hex sha256 of a JSON-serialisable mapping, the same whatever the order of its keys."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def checksum(facts: Mapping[str, Any]) -> str:
    """Return the hex sha256 of everything in a JSON object but its own ``checksum``, for a file that checks itself."""
    text = json.dumps({key: value for key, value in facts.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def storing(path: Path, *, advice: str = "", but: type[OSError] | None = None) -> Iterator[None]:
    """Turn any ``OSError`` of the block, except ``but``, into ``StorageError`` with the path and the cause.

    Args:
        path: named in the message; beside it the file that failed, where that is another one, such as one to be copied.
        advice: what the user can do, such as ``choose another -o``.
        but: raised as it is.
    """
    try:
        yield
    except OSError as error:
        if but is not None and isinstance(error, but):
            raise
        raise _cannot_write(path, error, advice) from error


def _cannot_write(path: Path, error: OSError, advice: str) -> StorageError:
    what_to_do = f"; {advice}" if advice else ""
    reason = error.strerror or str(error)
    is_one = isinstance(error.filename, str | bytes) and error.filename2 is None
    failed = os.fsdecode(error.filename) if is_one else None
    if failed is not None and not _is_about(Path(failed).absolute(), path.absolute()):
        reason = f"{failed}: {reason}"
    return StorageError(f"{path} cannot be written: {reason}{what_to_do}")


def _is_about(failed: Path, path: Path) -> bool:
    """Return whether a file is the one that is written: itself, under its temporary name, within it or above it."""
    if failed.is_relative_to(path) or path.is_relative_to(failed):
        return True
    if not failed.is_relative_to(path.parent):
        return False
    return any(part.startswith(TEMPORARY) for part in failed.relative_to(path.parent).parts)


def sync_file(path: Path) -> None:
    """Write a file's bytes to the disk, if the file system can do that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Write a folder's names to the disk, so that they survive a power cut, if the file system can do that."""
    with storing(path):
        try:
            sync_file(path)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise


def make_folder(path: Path, *, advice: str = "") -> None:
    """Create a folder and its parents, if missing, durably: the parent of each new one is synced."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with storing(path, advice=advice):
        path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def check_target(path: Path, *, advice: str = "") -> None:
    """Raise ``StorageError`` before the work whose result has no place: ``path`` is a folder, or its own is missing."""
    with storing(path, advice=advice):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISDIR(path.parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent))


@contextmanager
def replacing(path: Path, *, exclusive: bool = False, advice: str = "", through: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path for the block to write a file to; then sync that file and rename it to ``path``.

    If the block raises, the temporary file is removed, and ``path`` is as it was. A device or a pipe is not replaced:
    the block writes to it.

    Args:
        path: of the file.
        exclusive: do not replace a file that exists.
        advice: for the message, see ``storing``.
        through: a folder of the same file system in which the temporary file is made; None for that of ``path``. Who
            removes that folder keeps this file from appearing.

    Raises:
        StorageError: permission, disk full, read-only file system, or another ``OSError`` of the block.
        FileExistsError: ``exclusive``, and ``path`` exists; it is left as it is.
    """
    with storing(path, advice=advice, but=FileExistsError if exclusive else None):
        if _is_device(path):
            yield path
            return
        temporary = _temporary(path if through is None else through / path.name)
        try:
            yield temporary
            sync_file(temporary)
            if exclusive:
                _move_to_free_name(temporary, path)
            else:
                os.replace(temporary, path)  # noqa: PTH105 (tests count the calls of os)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    sync_folder(path.parent)


def _move_to_free_name(temporary: Path, path: Path) -> None:
    """Rename a file; ``FileExistsError`` if there is one, which a rename would replace."""
    try:
        try:
            os.link(temporary, path)
        except FileExistsError:
            if not path.samefile(temporary):  # NFS asks again where the reply was lost, and is refused what it has
                raise
        temporary.unlink()
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # The empty file takes the name; only one who is killed now leaves it so.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            os.replace(temporary, path)  # noqa: PTH105 (tests count the calls of os)
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise


def write_file(
    path: Path, pieces: Iterable[Piece], *, exclusive: bool = False, advice: str = "", through: Path | None = None
) -> int:
    """Write a file from its pieces, one after the other; return its bytes. Arguments and errors as ``replacing``."""
    total = 0
    with replacing(path, exclusive=exclusive, advice=advice, through=through) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for piece in pieces:
                total += _write_all(handle, piece_bytes(piece))
        finally:
            os.close(handle)
    return total


def write_text(path: Path, text: str, *, advice: str = "") -> None:
    """Write a text for people, in UTF-8. Where ``path`` is a symbolic link, the file that it names is replaced."""
    with storing(path, advice=advice):
        target = path if _is_device(path) else path.resolve()
    write_file(target, [text.encode("utf-8")], advice=advice)


def write_json(path: Path, content: Any, *, advice: str = "") -> None:
    """Write what ``json_ready`` makes, indented, in UTF-8; ``ValueError`` for a number that JSON does not have."""
    text = json.dumps(json_ready(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, [text.encode("utf-8")], advice=advice)


def copy_file(source: Path, target: Path, *, advice: str = "") -> None:
    """Copy a file's bytes, in place of the file that is there."""
    with replacing(target, advice=advice) as temporary:
        shutil.copyfile(source, temporary)


def link_file(source: Path, target: Path) -> bool:
    """Give a file that is never changed a second name, in place of the file that is there; return whether that worked.

    False where the file system has no hard links, or the two are on different ones: nothing was done then.

    Raises:
        StorageError: ``target`` cannot be written.
    """
    try:
        if target.samefile(source):
            return True  # a rename of one name of a file onto another does nothing, and leaves both
    except OSError:
        pass
    with storing(target):
        temporary = _temporary(target)
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return False
        try:
            sync_file(temporary)
            os.replace(temporary, target)  # noqa: PTH105 (tests count the calls of os)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    sync_folder(target.parent)
    return True


@contextmanager
def working_folder(path: Path, *, advice: str = "") -> Iterator[Path]:
    """Yield a new, empty folder beside ``path``, on the same file system; it is removed after the block.

    Missing parents of ``path`` are made.

    Raises:
        StorageError: the folder cannot be made, or another ``OSError`` of the block.
    """
    with storing(path, advice=advice):
        folder = _temporary(path)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(path: Path, *, advice: str = "") -> Iterator[Path]:
    """Yield an empty folder for the block to fill; then sync all that is in it and rename it to ``path``.

    If the block raises, nothing of it is left.

    Raises:
        StorageError: as ``replacing``; or there is a file, or a folder that is not empty, at ``path``.
    """
    with working_folder(path, advice=advice) as folder:
        yield folder
        move(folder, path, advice=advice)


def write_beside(path: Path, pieces: Iterable[Piece]) -> Path:
    """Write a file under a temporary name in the folder of ``path`` and return that name, for ``move``.

    Raises:
        StorageError: it cannot be written; nothing is left of it.
    """
    temporary = _temporary(path)
    with storing(path):
        try:
            write_file(temporary, pieces)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    return temporary


def move(source: Path, target: Path, *, exclusive: bool = False, advice: str = "") -> None:
    """Sync a file, or a folder with all that is in it, and rename it to ``target`` on the same file system.

    A file replaces a file that is there, a folder only an empty folder.

    Args:
        source, target: their paths.
        exclusive: a file that is there is not replaced.
        advice: for the message, see ``storing``.

    Raises:
        StorageError: it cannot be moved.
        FileExistsError: ``exclusive``, and there is a file at ``target``; both are left as they are.
    """
    with storing(target, advice=advice, but=FileExistsError if exclusive else None):
        for folder, _, files in os.walk(source):
            for name in files:
                sync_file(Path(folder, name))
            sync_folder(Path(folder))
        if source.is_file():
            sync_file(source)
        if exclusive:
            _move_to_free_name(source, target)
        else:
            os.replace(source, target)  # noqa: PTH105 (tests count the calls of os)
    for parent in {source.parent, target.parent}:
        sync_folder(parent)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there; also after an interruption it is whole under its name, or gone.

    Raises:
        StorageError: it cannot be removed.
    """
    removed = _temporary(path)
    try:
        os.replace(path, removed)  # noqa: PTH105 (tests count the calls of os)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EXDEV:  # a container's folder that came with its image has only copies renamed
            raise StorageError(f"{path} cannot be removed: {error.strerror or error}") from error
        removed = path
    sync_folder(path.parent)
    shutil.rmtree(removed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what interrupted writers left in a folder, whose lock the caller holds."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def piece_bytes(piece: Piece) -> memoryview:
    """Return the bytes of a piece without a copy, where it is contiguous."""
    if isinstance(piece, bytes):
        return memoryview(piece)
    return np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data


def _write_all(handle: int, view: memoryview) -> int:
    done = 0
    while done < len(view):
        done += os.write(handle, view[done : done + _MAX_WRITE])
    return done


def _is_device(path: Path) -> bool:
    """Return whether there is a device or a pipe, which cannot be replaced by a file."""
    return path.exists() and not (path.is_file() or path.is_dir())


def _temporary(path: Path) -> Path:
    # The end of the name only: with the prefix, a name of 255 bytes would be too long.
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name[-40:]}")


def folder_bytes(path: Path) -> int:
    """Return the bytes of all files in a folder, of links what they lead to; those that vanish count nothing."""
    total = 0
    for place, _, files in os.walk(path):
        for file in files:
            try:
                total += (Path(place) / file).stat().st_size
            except OSError:
                continue
    return total
