"""One writer at a time. The kernel holds the lock, so that it goes with its process, however that ends."""

import errno
import fcntl
import os
from pathlib import Path

from ctxdeploy.errors import ArchiveError, StorageError
from ctxdeploy.index.storage import storing

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
