"""An archive that several machines use: two writers, one that slept, readers of another machine, and what is told."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core import heartbeat, host
from ctxdeploy.core.errors import ArchiveError, ConfigError, LeaseLostError, StorageError
from ctxdeploy.core.locks import LockedError
from ctxdeploy.index import Index
from ctxdeploy.index.storage import holder, lease, sharing
from ctxdeploy.index.storage.lease import break_lease, writer_of

CHILD = Path(__file__).parent / "children" / "hosts.py"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def archive(tmp_path: Path, make_photos: Any, make_archive: Any) -> Path:
    """An archive of two photos that several machines use."""
    path: Path = make_archive(make_photos(2))
    (path / "readers").mkdir()
    return path


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts ``children/hosts.py``; all its processes end with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object, seconds: float = 1.0) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(CHILD), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"CTXDEPLOY_LEASE_SECONDS": str(seconds)},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put this process on a machine of its own, which has no locks and takes a second of silence for death."""
    here = host.Host(name="here", boot="boot of here", machine="machine here")
    for module in (holder, lease, sharing):
        monkeypatch.setattr(module, "this_host", lambda: here)
    monkeypatch.setattr("fcntl.flock", lambda *arguments: None)
    monkeypatch.setenv("CTXDEPLOY_LEASE_SECONDS", "1")


def wait_for(process: "subprocess.Popen[str]", word: str) -> None:
    """Read a line of a process."""
    assert process.stdout is not None and process.stdin is not None
    line = process.stdout.readline()
    assert line == f"{word}\n", (line, process.stderr and process.poll() is not None and process.stderr.read())


def told(process: "subprocess.Popen[str]", line: str = "") -> tuple[int, str]:
    """Give a process a line, and return its exit code and its last words."""
    _, err = process.communicate(line)
    return process.returncode, err


# --- two writers


@pytest.mark.usefixtures("elsewhere")
def test_a_writer_that_lives_is_waited_for_no_longer_than_its_next_sign_of_life(archive: Path, start: Start) -> None:
    first = start("a-host", "-", "write", archive, "x", seconds=6000)
    wait_for(first, "ready")
    expected = rf"is being written by process {first.pid} on a-host \(hosts.py, since .*\): wait until it ends"
    with pytest.raises(LockedError, match=expected) as caught:
        Index.open(archive, writable=True)
    assert caught.value.exit_code == 15
    assert told(first, "\n") == (0, "")
    with Index.open(archive, writable=True) as index:  # it has ended: at once
        assert "x" in index


@pytest.mark.usefixtures("elsewhere")
def test_a_writer_that_was_stopped_commits_nothing_when_it_wakes(archive: Path, start: Start) -> None:
    first = start("a-host", "-", "write", archive, "x")
    wait_for(first, "ready")
    first.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
    with Index.open(archive, writable=True) as index:
        index.remove(next(iter(index.names())))
        index.commit()
        index.compact(purge=True)
        first.send_signal(signal.SIGCONT)
        code, text = told(first, "\n")
        assert code == LeaseLostError.exit_code == 28
        assert re.search(
            r"was taken by process \d+ on here \(.*\), as this process gave no sign of life for 1 sec", text
        )
        index.collect_garbage()
    with Index.open(archive) as index:
        assert "x" not in index and len(index) == 1 and index.verify() == []


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("moment", ["CURRENT", "manifest-000002.json"])
def test_a_command_that_is_stopped_in_the_middle_of_its_commit(archive: Path, start: Start, moment: str) -> None:
    """Its files are written, and only their renaming is left to do."""
    with Index.open(archive) as index:
        gone, stays = index.names()
    first = start("a-host", moment, "cli", "remove", archive, gone)
    wait_for(first, "stopped")
    os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
    with Index.open(archive, writable=True) as index:
        index.remove(stays)
    first.send_signal(signal.SIGCONT)
    code, text = told(first)
    assert code == 28 and "nothing since its last commit is in the archive; run it again" in text, text
    with Index.open(archive) as index:
        assert list(index.names()) == [gone] and index.verify() == []
    second = start("a-host", "-", "cli", "remove", archive, gone)
    assert told(second)[0] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_a_writer_that_was_killed_is_followed(archive: Path, start: Start) -> None:
    first = start("a-host", "-", "write", archive, "x")
    wait_for(first, "ready")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with Index.open(archive, writable=True) as index:
        assert "x" not in index


def test_on_one_machine_a_killed_writer_is_followed_at_once(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Index.open(archive, writable=True)
    monkeypatch.setattr(lease, "_wait", lambda *arguments: pytest.fail("nobody has to be waited for"))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert writer_of(archive) is not None  # a child that ends releases nothing
    first.close()
    code = "import os, sys; from ctxdeploy.index import Index; i = Index.open(sys.argv[1], writable=True); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(archive)], check=False).returncode == 9
    found = writer_of(archive)
    assert found is not None and found[0].process != os.getpid()
    Index.open(archive, writable=True).close()
    assert writer_of(archive) is None


@pytest.mark.usefixtures("elsewhere")
def test_silence_is_measured_by_what_was_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that stood still for an hour has not seen an hour of silence."""
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        now[0] += 3600.0

    monkeypatch.setattr(heartbeat.time, "sleep", sleep)
    contents = iter([{"x": b"1", "y": b"1"}, {"x": b"1", "y": b"1"}, {"x": b"2", "y": b"1"}, *[{"y": b"1"}] * 100])
    assert heartbeat.silent(lambda: next(contents), 60.0) == {"y"}
    assert now[0] == 30 * 3600.0


# --- readers


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_a_reader_of_another_machine_keeps_its_files(archive: Path, start: Start) -> None:
    reader = start("r-host", "-", "read", archive, seconds=6000)
    wait_for(reader, "ready")
    shards = sorted((archive / "shards").iterdir())
    with Index.open(archive, writable=True) as index:
        index.remove(next(iter(index.names())))
        index.compact(purge=True)
        index.collect_garbage()
        assert all(shard.exists() for shard in shards)
        reader.stdin.write("\n")  # type: ignore[union-attr]
        reader.stdin.flush()  # type: ignore[union-attr]
        assert reader.stdout.readline().endswith("[]\n")  # type: ignore[union-attr]
        assert told(reader)[0] == 0
        assert not list((archive / "readers").iterdir())
        index.collect_garbage()
        assert not any(shard.exists() for shard in shards)


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_a_reader_that_was_killed_keeps_nothing(archive: Path, start: Start) -> None:
    reader = start("r-host", "-", "read", archive)
    wait_for(reader, "ready")
    reader.send_signal(signal.SIGKILL)
    reader.communicate()
    assert len(list((archive / "readers").iterdir())) == 1
    with Index.open(archive, writable=True) as index:
        index.remove(next(iter(index.names())))
        index.commit()
        assert "manifest-000001.json" in index.collect_garbage()
    assert not list((archive / "readers").iterdir())


@pytest.mark.usefixtures("elsewhere")
def test_a_reader_that_comes_while_garbage_is_collected(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so before the manifest goes, or it finds the manifest gone: it is never left without its files."""
    writer = Index.open(archive, writable=True)
    old = writer.state.manifest.number
    writer.remove(next(iter(writer.names())))
    writer.commit()
    real, opened = os.replace, []

    def racing(source: Any, target: Any) -> None:
        if (
            Path(source).name == f"manifest-{old:06d}.json"
            and Path(target).parent.parent.name == "lease"
            and not opened
        ):
            opened.append(Index.open(archive, at=old))
        real(source, target)

    monkeypatch.setattr(os, "replace", racing)
    removed = writer.collect_garbage()
    assert opened and f"manifest-{old:06d}.json" not in removed
    assert opened[0].verify() == [] and len(opened[0]) == 2
    opened[0].close()
    assert f"manifest-{old:06d}.json" in writer.collect_garbage()
    writer.close()
    with pytest.raises(ArchiveError, match=f"has no manifest {old}"):
        Index.open(archive, at=old)


@pytest.mark.usefixtures("elsewhere")
def test_a_manifest_that_was_about_to_be_removed_comes_back(archive: Path) -> None:
    """The collector was killed after it took it away, and before it saw that it is read."""
    with Index.open(archive) as reader, Index.open(archive, writable=True) as index:
        index.remove(next(iter(index.names())))
        index.commit()
        place = max((archive / "lease").iterdir())
        (archive / "manifest-000001.json").rename(place / "manifest-000001.json")
        with pytest.raises(ArchiveError):
            Index.open(archive, at=1)
        break_lease(archive)
        assert len(Index.open(archive, at=1)) == 2 and reader.verify() == []
        with pytest.raises(LeaseLostError):
            index.collect_garbage()


# --- the file system, and older versions


def test_no_hard_links_and_no_locks(archive: Path, monkeypatch: pytest.MonkeyPatch, make_photos: Any) -> None:
    def failing(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK if len(arguments) == 2 and isinstance(arguments[0], int) else errno.EPERM, "no")

    shutil.rmtree(archive / "readers")
    monkeypatch.setattr("fcntl.flock", failing)
    monkeypatch.setattr(os, "link", failing)
    with Index.open(archive, writable=True) as index:
        assert (archive / "readers").is_dir(), "without locks all readers say what they read"
        index.add("new", make_photos(1)[0])
        index.snapshot("kept")
        with Index.open(archive) as reader:
            index.remove("new")
            index.compact(purge=True)
            index.collect_garbage()
            assert reader.verify() == []
            assert len(list((archive / "readers").iterdir())) == 1
    assert Index.open(archive, at="kept").verify() == []


@pytest.mark.parametrize("cause", [errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOSYS])
def test_segments_are_copied_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_photos: Any, make_codebook: Any, cause: int
) -> None:
    from ctxdeploy.index import write_segment

    def failing(*arguments: Any) -> None:
        raise OSError(cause, os.strerror(cause))

    codebook, photos = make_codebook(), make_photos(2)
    with Index.create(tmp_path / "part", codebook) as part:
        part.add("x", photos[0])
        part.commit()
        monkeypatch.setattr(os, "link", failing)
        write_segment(part.state, tmp_path / "part", tmp_path / "x.ctxsegment", "1" * 64, {})
    with Index.create(tmp_path / "whole", codebook) as whole:
        whole.publish([tmp_path / "x.ctxsegment"])
        whole.snapshot("kept")
        assert "x" in whole and whole.verify() == []


@pytest.mark.parametrize("cause", [errno.EINVAL, errno.EPERM, errno.EBADF, errno.EACCES, errno.EOPNOTSUPP])
def test_folders_that_cannot_be_synced(
    archive: Path, monkeypatch: pytest.MonkeyPatch, make_photos: Any, cause: int
) -> None:
    real = os.fsync

    def failing(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(cause, os.strerror(cause))
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with Index.open(archive, writable=True) as index:
        index.add("new", make_photos(1)[0])
        index.snapshot("kept")
        index.compact(purge=True)
        index.collect_garbage()
    assert Index.open(archive).verify() == []


def test_an_older_ctxdeploy_is_kept_out_of_a_shared_archive(archive: Path, make_photos: Any) -> None:
    """It opens LOCK for writing, which is a folder now, and says so; on a machine alone it stays a file."""
    Index.open(archive, writable=True).close()
    with pytest.raises(IsADirectoryError):
        os.open(archive / "LOCK", os.O_RDWR | os.O_CREAT)
    with Index.open(archive, writable=True), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        Index.open(archive, writable=True)


def test_a_commit_by_somebody_without_a_lease_is_not_overwritten(archive: Path, make_photos: Any) -> None:
    with Index.open(archive, writable=True) as index:
        index.add("mine", make_photos(1)[0])
        (archive / "CURRENT").write_text(f"manifest-000009.json {'0' * 64}\n")
        with pytest.raises(ArchiveError, match="changed by a process that does not know leases"):
            index.commit()
        index.close()


def test_a_full_disk_without_room_for_a_lease(
    tmp_path: Path, make_photos: Any, make_archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage collection makes room: with the lease that was there, or, in an archive that never had one, without."""
    path = make_archive(make_photos(2))
    real = os.mkdir
    with monkeypatch.context() as patch:

        def full(*arguments: Any, **named: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "mkdir", full)
        with Index.open(path, writable=True) as index:
            assert index.collect_garbage() == ["manifest-000000.json"]
        assert writer_of(path) is None
        (path / "shards" / ("0" * 64)).write_bytes(b"garbage")
        shutil.rmtree(path / "lease")
        with Index.open(path, writable=True) as index:
            assert index.collect_garbage() == [f"shards/{'0' * 64}"]
            index.remove(next(iter(index.names())))
            patch.setattr(os, "mkdir", real)
            index.commit()
            assert writer_of(path) is not None
        here = host.Host(name="other", boot="other", machine="other")
        patch.setattr(lease, "this_host", lambda: here)
        patch.setattr(os, "mkdir", full)
        with pytest.raises(StorageError, match="No space left"):
            Index.open(path, writable=True)


# --- by hand


@pytest.mark.usefixtures("elsewhere")
def test_a_lease_is_broken_by_hand(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_wait", lambda *arguments: pytest.fail("nobody has to be waited for"))
    index = Index.open(archive, writable=True)
    index.remove(next(iter(index.names())))
    found = break_lease(archive)
    assert found is not None and found[0].process == os.getpid() and found[0].host == "here"
    assert break_lease(archive) is None
    with pytest.raises(LeaseLostError, match="was taken by another process"):
        index.commit()
    index.close()
    with Index.open(archive, writable=True) as index:
        assert len(index) == 2
    shutil.rmtree(archive / "lease")  # by hand indeed
    Index.open(archive, writable=True).close()


def test_which_file_systems_other_machines_may_see() -> None:
    assert all(map(host.is_network_type, ("nfs", "nfs4", "cifs", "lustre", "9p", "virtiofs", "fuse.sshfs")))
    assert not any(map(host.is_network_type, ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuse.fuse-overlayfs")))
    assert not host.is_network_folder(Path("/none"))


def test_a_wrong_number_of_seconds_is_named(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("0", "soon", "1e9", "nan"):
        monkeypatch.setenv("CTXDEPLOY_LEASE_SECONDS", text)
        with pytest.raises(ConfigError, match=f"CTXDEPLOY_LEASE_SECONDS='{text}' is not a number of seconds"):
            Index.open(archive, writable=True)
