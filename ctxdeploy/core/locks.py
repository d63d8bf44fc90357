"""One writer of a folder at a time."""

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ctxdeploy.core.errors import ArchiveError, CtxdeployError, StorageError
from ctxdeploy.core.files import storing

LOCK = "LOCK"
# What file systems say that have no locks, or none that reach the other machines.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


class LockedError(ArchiveError):
    """Another process, or another object of this one, writes the archive; it may be free in a while."""


class WriterLock:
    """An exclusive ``flock`` on the file ``LOCK`` of a folder, which also holds the writer's process id.

    Args:
        folder: that is to have one writer.
        busy: the error to raise where there is another writer.
        file: its path in the folder.
        needed: raise where the file system has no locks; else ``works`` says so.
        holder: says who the other writer is, if more is known of it than its process id.

    Attributes:
        works: whether the file system has locks.

    Raises:
        CtxdeployError: ``busy``: another process, or another object of this one, writes the folder.
        StorageError: the folder cannot be written, or its file system has no locks.
    """

    _handle: int | None = None

    def __init__(
        self,
        folder: Path,
        *,
        busy: type[CtxdeployError] = LockedError,
        file: str = LOCK,
        needed: bool = True,
        holder: Callable[[str], str] | None = None,
    ) -> None:
        path = folder / file
        self.works = True
        self._path, self._process = folder, os.getpid()
        with storing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self._close()
            who = owner if holder is None else holder(owner)
            raise busy(f"{folder} is being written by process {who}: wait until it ends, or stop it") from error
        except OSError as error:
            self.works = False
            if needed or error.errno not in _NO_LOCKS:
                self._close()
                raise StorageError(
                    f"{path} cannot be locked: {error.strerror or error}; choose a folder on a local disk"
                ) from error
        try:
            with storing(path):
                self._write_owner()
        except BaseException:
            self.release()
            raise

    def _write_owner(self) -> None:
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
                with suppress(OSError):  # what led here is worth knowing; closing the file unlocks it too
                    fcntl.flock(self._handle, fcntl.LOCK_UN)
            self._close()

    def __del__(self) -> None:
        """Let another writer in where an archive was dropped without being closed."""
        self.release()

    def _close(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            with suppress(OSError):  # nothing in it needs to reach the disk
                os.close(handle)
