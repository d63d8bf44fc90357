"""kill -9 at every write, a full disk, and a second writer: the last committed state stays."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.errors import ArchiveError, StorageError
from ctxdeploy.index import Index

# Forks a child for each n, which kills itself in its n-th write, sync or rename: half of the bytes are written then.
KILLED = """
import os, shutil, signal, sys
import numpy as np
import ctxdeploy.index.build_kernels, faiss
from ctxdeploy.index import Codebook, Index, IndexConfig

base, target, job = sys.argv[1:]
faiss.omp_set_num_threads(1)
left = 0

def dying(name):
    real = getattr(os, name)
    def call(*arguments):
        global left
        left -= 1
        if left == 0:
            if name == "write":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    setattr(os, name, call)

def add(path):
    rng = np.random.default_rng(5)
    with Index.open(path, writable=True) as index:
        for name in ("new1", "new2", "new3"):
            index.add(name, rng.normal(size=(9, 128)).astype(np.float32))
        index.record_failures([{"name": "bad", "reason": "r", "stage": "decode"}])

def create(path):
    Index.create(path, Codebook.from_centroids(np.ones((4, 8), np.float32))).close()

if job == "add":  # compiles in the parent, for all children
    shutil.copytree(base, f"{target}/000")
    add(f"{target}/000")

for number in range(1, 200):
    path = f"{target}/{number:03d}"
    if job == "add":
        shutil.copytree(base, path)
    child = os.fork()
    if child == 0:
        left = number
        for name in ("write", "fsync", "replace"):
            dying(name)
        {"add": add, "create": create}[job](path)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        print(number - 1, os.waitstatus_to_exitcode(status))
        break
"""


def kill_everywhere(base: Path, target: Path, job: str) -> int:
    """Return the number of points at which the job was killed."""
    target.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(base), str(target), job], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    points, code = map(int, result.stdout.split())
    assert code == 0
    return points


def test_killed_while_committing(tmp_path: Path, make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(3)
    base = make_archive(photos)
    expected = Index.open(base).search(photos[0])
    points = kill_everywhere(base, tmp_path / "killed", "add")
    assert points > 20
    states = []
    for number in range(1, points + 1):
        path = tmp_path / "killed" / f"{number:03d}"
        with Index.open(path) as index:
            states.append(len(index))
            assert index.verify() == []
            if len(index) == 3:
                assert index.search(photos[0]) == expected and index.failures() == []
            else:
                assert len(index) == 6 and len(index.failures()) == 1
        with Index.open(path, writable=True) as index:
            index.add("after", photos[0])
            index.commit()
            index.collect_garbage()
            assert index.verify() == [] and index.search(photos[0])[0].score > 0
            assert not list(path.rglob(".tmp-*"))
            assert len(list((path / "shards").iterdir())) == index.info()["shards"]
    # Only the sync of the folder comes after the rename of CURRENT.
    assert states == [3] * (points - 1) + [6]


def test_killed_while_creating(tmp_path: Path, make_codebook: Any) -> None:
    points = kill_everywhere(tmp_path, tmp_path / "killed", "create")
    for number in range(1, points + 1):
        path = tmp_path / "killed" / f"{number:03d}"
        if number < points:
            with pytest.raises(ArchiveError, match="is not an archive"):
                Index.open(path)
            Index.create(path, make_codebook()).close()
        assert Index.open(path).verify() == []


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
        with pytest.raises(ArchiveError, match=f"process {other.pid}: wait until it ends"):
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
