"""A full disk, and a second writer: the last committed state stays. For kill -9 see ``test_kill_points``."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ArchiveError, StorageError
from ctxdeploy.index import Index


def test_a_full_disk(tmp_path: Path, make_photos: Any, make_codebook: Any, monkeypatch: Any) -> None:
    photos = make_photos(4)
    real, left = os.write, 0

    def full(handle: int, data: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data[:1000])

    index = Index.create(tmp_path / "a", make_codebook())
    index.add("a", photos[0])
    index.commit()
    index.add("b", photos[1])
    monkeypatch.setattr(os, "write", full)
    for writes in range(30):
        left = writes
        try:
            index.commit()
        except StorageError as error:
            assert "No space left" in str(error) and str(tmp_path) in str(error)
            assert len(Index.open(tmp_path / "a")) == 1 and not list((tmp_path / "a").rglob(".tmp-*"))
        else:
            break
    assert writes > 3 and len(Index.open(tmp_path / "a")) == 2
    left = 0
    with pytest.raises(StorageError, match="No space left"):
        Index.create(tmp_path / "b", make_codebook())
    with pytest.raises(StorageError, match="No space left"):
        index.codebook.save(tmp_path / "c")
    assert not (tmp_path / "c").exists()
    index.close()


def test_one_writer_in_a_process(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(2))
    first = Index.open(path, writable=True)
    with pytest.raises(ArchiveError, match=f"is being written by process {os.getpid()}"):
        Index.open(path, writable=True)
    assert len(Index.open(path)) == 2, "readers need no lock"
    first.close()
    first.close()
    Index.open(path, writable=True).close()


def test_a_writer_in_another_process_alive_then_killed(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(2))
    code = "import sys; from ctxdeploy.index import Index; i = Index.open(sys.argv[1], writable=True);"
    code += "print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"1\n"
        with pytest.raises(ArchiveError, match=rf"process {other.pid} on .* \(.*, since .*\): wait until it ends"):
            Index.open(path, writable=True)
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert (path / "LOCK").read_text() == f"{other.pid}\n"
    with Index.open(path, writable=True) as index:
        assert (path / "LOCK").read_text() == f"{os.getpid()}\n"
        index.add("x", make_photos(1)[0])
    assert len(Index.open(path)) == 3


def test_a_lock_that_cannot_be_written(make_photos: Any, make_archive: Any, monkeypatch: Any) -> None:
    path = make_archive(make_photos(2))
    real = os.open

    def denied(name: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, flags, *rest, **named)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StorageError, match="LOCK cannot be written: Permission denied"):
        Index.open(path, writable=True)
    assert len(Index.open(path)) == 2


def test_no_lock_is_left_by_an_archive_that_does_not_open(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(2))
    shutil.move(path / "codebook.safetensors", path / "away")
    for _ in range(2):
        with pytest.raises(ArchiveError, match="missing"):
            Index.open(path, writable=True)
    shutil.move(path / "away", path / "codebook.safetensors")
    Index.open(path, writable=True).close()


def test_a_full_disk_does_not_keep_out_garbage_collection(
    make_photos: Any, make_archive: Any, monkeypatch: Any
) -> None:
    path = make_archive(make_photos(2))
    cause = errno.ENOSPC

    def full(*arguments: Any) -> int:
        raise OSError(cause, os.strerror(cause))

    monkeypatch.setattr(os, "pwrite", full)
    with Index.open(path, writable=True) as index:
        assert index.collect_garbage() == ["manifest-000000.json"]
        with pytest.raises(ArchiveError, match="is being written by process unknown"):
            Index.open(path, writable=True)
    cause = errno.EIO
    with pytest.raises(StorageError, match="LOCK cannot be written: Input/output error"):
        Index.open(path, writable=True)
    monkeypatch.undo()
    Index.open(path, writable=True).close()
