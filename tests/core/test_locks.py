"""One writer of a folder at a time."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ArchiveError, StorageError
from ctxdeploy.core.locks import LockedError, WriterLock


def test_one_writer_and_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = WriterLock(tmp_path)
    with pytest.raises(LockedError, match=f"is being written by process {os.getpid()}"):
        WriterLock(tmp_path)
    assert issubclass(LockedError, ArchiveError)
    with pytest.raises(StorageError, match=f"is being written by process {os.getpid()}"):
        WriterLock(tmp_path, busy=StorageError)
    lock.release()
    WriterLock(tmp_path).release()

    def failing(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    handles = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(fcntl, "flock", failing)
    with pytest.raises(
        StorageError, match=r"LOCK cannot be locked: No locks available; choose a folder on a local disk"
    ):
        WriterLock(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= handles  # fewer where those of another test were collected


def test_a_lock_is_released_whatever_unlocking_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = WriterLock(tmp_path)

    def failing(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(fcntl, "flock", failing)
        try:
            raise ZeroDivisionError
        finally:
            lock.release()
    WriterLock(tmp_path).release()
