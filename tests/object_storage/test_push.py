"""Publishing: all or nothing, whatever fails; nothing of anybody is lost."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ctxdeploy
from ctxdeploy.core.errors import ArchiveError, ConfigError, CtxdeployError, StorageError
from ctxdeploy.index import Index
from ctxdeploy.object_storage.fetch import fetch, update
from ctxdeploy.object_storage.push import DivergedError
from ctxdeploy.object_storage.record import RECORD
from tests.reference.s3_proxy import SECRET, SILENT, Bucket, Proxy, at, copied, grow, send

# 500 and other answers go the way of 503.
FAULTS = (503, "lost", "unanswered", "cut")
CHILD = Path(__file__).parent / "children" / "push.py"


def uploads(proxy: Proxy) -> list[str]:
    return [path for method, path in proxy.requests if method == "PUT" and "/files/" in path]


def test_what_lies_there(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    receipt = send(archive, bucket.url)
    assert (receipt.images, receipt.manifest, receipt.changed, receipt.is_guarded) == (5, 1, True, True)
    keys = bucket.all_keys()
    assert {key.split("/")[1] for key in keys} == {"CURRENT", "files", "states"}
    for key in keys:
        if "/files/" in key:
            assert hashlib.sha256(bucket.get(key)).hexdigest() == key.rpartition("/")[2]
    assert bucket.get("a.ctxindex/CURRENT") == bucket.get(f"a.ctxindex/states/{receipt.state}.json")
    assert proxy.requests[-1] == ("PUT", "/photos/a.ctxindex/CURRENT")
    assert receipt.uploaded == len(uploads(proxy)) == 6  # codebook, manifest, shard, names, and two of the model


def test_only_what_is_missing_is_sent(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    proxy.reset()
    assert not send(archive, bucket.url).changed
    assert not [path for method, path in proxy.requests if method == "PUT"]
    grow(archive)
    proxy.reset()
    assert send(archive, bucket.url).uploaded == len(uploads(proxy)) == 3  # manifest, shard, names
    assert bucket.state() == 2


def test_a_large_file_goes_in_parts(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    (archive / "model" / "model.onnx").write_bytes(hashlib.shake_256(b"large").digest(9 << 20))
    failed = []

    def fault(number: int, method: str, path: str) -> int | None:
        if "partNumber=2" in path and not failed:
            failed.append(path)
            return 500
        return None

    proxy.reset(fault)
    send(archive, bucket.url)
    assert sum("uploadId" in path and method == "PUT" for method, path in proxy.requests) == 3
    assert bucket.state() == 1


def test_parts_of_a_large_file_that_fails_are_given_up(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    (archive / "model" / "model.onnx").write_bytes(hashlib.shake_256(b"large").digest(9 << 20))
    proxy.reset(lambda number, method, path: 503 if "partNumber=2" in path else None)
    with pytest.raises(StorageError, match=r"^s3://photos/a\.ctxindex/files/[0-9a-f]+ cannot be written: .* 503"):
        send(archive, bucket.url)
    assert list(bucket.raw.multipart_uploads.all()) == []
    assert bucket.state() == 0


# Half of the faults here, the others from one request on, below: ten seconds each.
@pytest.mark.slow
@pytest.mark.parametrize("fault", [*(pytest.param(fault, marks=pytest.mark.long) for fault in FAULTS[:2]), *FAULTS[2:]])
def test_each_request_fails_once(bucket: Bucket, archive: Path, proxy: Proxy, fault: int | str) -> None:
    """One failure in each request of a commit in turn: it is tried again, and all is there."""
    send(archive, bucket.url)
    before = bucket.content()
    grow(archive)
    record = (archive / RECORD).read_bytes()
    count, number = 1, 0
    while number < count:
        chosen = number
        proxy.reset(lambda n, method, path, chosen=chosen: fault if n == chosen else None)
        assert send(archive, bucket.url).changed
        assert bucket.state() == 2
        count, number = len(proxy.requests), number + 1
        bucket.delete(*(bucket.all_keys() - set(before)))
        bucket.put("a.ctxindex/CURRENT", before["a.ctxindex/CURRENT"])
        (archive / RECORD).write_bytes(record)
    assert number > 8


@pytest.mark.slow
@pytest.mark.parametrize("fault", [503, "lost", *(pytest.param(fault, marks=pytest.mark.long) for fault in FAULTS[2:])])
def test_the_store_goes_away_in_each_request(bucket: Bucket, archive: Path, proxy: Proxy, fault: int | str) -> None:
    """From one request on, all fail: an error, a whole state, that before or after; and the next run does the rest."""
    send(archive, bucket.url)
    before = bucket.content()
    grow(archive)
    record = (archive / RECORD).read_bytes()
    seen = set[int]()
    number = 0
    while True:
        chosen = number
        proxy.reset(lambda n, method, path, chosen=chosen: fault if n >= chosen else None)
        try:
            send(archive, bucket.url)
        except (StorageError, ArchiveError) as error:
            assert str(error).startswith("s3://photos/a.ctxindex")
            assert SECRET not in str(error)
        else:
            break
        seen.add(bucket.state())
        proxy.reset()
        send(archive, bucket.url)
        assert bucket.state() == 2
        number += 1
        bucket.delete(*(bucket.all_keys() - set(before)))
        bucket.put("a.ctxindex/CURRENT", before["a.ctxindex/CURRENT"])
        (archive / RECORD).write_bytes(record)
    assert number > 8
    assert 1 in seen
    # A commit whose answer was lost may be done although it failed.
    assert seen <= ({1, 2} if fault in ("unanswered", "cut") else {1})


@pytest.mark.slow
def test_a_publisher_is_killed_in_each_request(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    """SIGKILL before each request that writes, with a process of its own."""
    send(archive, bucket.url)
    before, record = bucket.content(), (archive / RECORD).read_bytes()
    grow(archive)
    # The code that is tested here, wherever it was imported from.
    path = os.pathsep.join([str(Path(ctxdeploy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    number = 0
    while True:
        killer = Killer(number)
        proxy.reset(killer)
        environment = os.environ | {"PYTHONPATH": path.strip(os.pathsep)}
        killer.child = subprocess.Popen([sys.executable, str(CHILD), str(archive), bucket.url], env=environment)
        code = killer.child.wait(timeout=600)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert bucket.state() == 1
        assert set(before) <= bucket.all_keys()
        number += 1
        bucket.delete(*(bucket.all_keys() - set(before)))
        (archive / RECORD).write_bytes(record)
    assert number == 5  # three files, the state, CURRENT
    assert bucket.state() == 2


class Killer:
    """Kills a process when it has written so many objects and asks for the next one."""

    def __init__(self, count: int) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self._count, self._writes, self._lock = count, 0, threading.Lock()

    def __call__(self, number: int, method: str, path: str) -> str | None:
        if method != "PUT":
            return None
        with self._lock:
            self._writes += 1
            is_last = self._writes > self._count
        if is_last and self.child is not None:
            self.child.kill()
            return "lost"
        return None


def test_a_commit_of_another_machine_is_not_overwritten(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    other = copied(archive, "b.ctxindex")
    grow(archive, prefix="mine-")
    grow(other, prefix="theirs-")
    send(other, bucket.url)
    here = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    with pytest.raises(DivergedError, match=r"a\.ctxindex does not come from.*ctxdeploy fetch"):
        send(archive, bucket.url)
    assert here == {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    # What the message says.
    moved = archive.with_name("moved.ctxindex")
    archive.rename(moved)
    fetch(at(bucket.url), archive, SILENT)
    with Index.open(archive, writable=True) as index:
        index.merge(moved, conflicts="keep")
    send(archive, bucket.url)
    with Index.open(archive) as index:
        assert {"mine-5.jpg", "theirs-5.jpg", "0.jpg"} <= set(index.names())
    # Or theirs gives way.
    assert send(other, bucket.url, replace=True).changed
    assert bucket.state() == 2


def test_two_commit_at_the_same_moment(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    """Another publisher commits when this one has looked, sent all, and is about to commit."""
    send(archive, bucket.url)
    other = copied(archive, "b.ctxindex")
    grow(archive, prefix="mine-")
    grow(other, prefix="theirs-")
    went: list[object] = []

    def fault(number: int, method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/CURRENT") and not went:
            went.append(None)
            went.append(send(other, bucket.url))

    proxy.reset(fault)
    with pytest.raises(DivergedError):
        send(archive, bucket.url)
    assert len(went) == 2
    fetch(at(bucket.url), archive.with_name("c.ctxindex"), SILENT)
    with Index.open(archive.with_name("c.ctxindex")) as index:
        assert "theirs-5.jpg" in index
    with Index.open(archive) as index:
        assert "mine-5.jpg" in index


def test_the_first_of_two_new_archives_stays(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    other = copied(archive, "b.ctxindex")
    grow(other)

    def fault(number: int, method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/CURRENT") and not bucket.state():
            proxy.reset()
            send(other, bucket.url)

    proxy.reset(fault)
    with pytest.raises(DivergedError):
        send(archive, bucket.url)
    assert bucket.state() == 2


def test_a_former_copy_does_not_take_the_place_of_a_newer_one(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    backup = copied(archive, "backup.ctxindex")
    grow(archive)
    send(archive, bucket.url)
    with pytest.raises(DivergedError):
        send(backup, bucket.url)
    assert update(at(bucket.url), backup, SILENT)
    with Index.open(backup) as index:
        assert len(index) == 6
    assert not send(backup, bucket.url).changed
    assert not update(at(bucket.url), backup, SILENT)


def test_what_is_newer_here_is_not_updated(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    grow(archive)
    assert not update(at(bucket.url), archive, SILENT)
    other = copied(archive, "b.ctxindex")
    grow(other)
    send(other, bucket.url)
    with pytest.raises(DivergedError):
        update(at(bucket.url), archive, SILENT)


def test_a_crash_after_the_commit_is_no_fork(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    """The answer to the commit was lost, the archive went on, and its manifests were collected meanwhile."""
    send(archive, bucket.url)
    grow(archive)
    answered: list[str] = []

    def fault(number: int, method: str, path: str) -> str | None:
        if answered or (method == "PUT" and path.endswith("CURRENT")):
            answered.append(path)
            return "unanswered" if len(answered) == 1 else "lost"
        return None

    proxy.reset(fault)
    with pytest.raises(StorageError):
        send(archive, bucket.url)
    assert bucket.state() == 2
    grow(archive)
    with Index.open(archive, writable=True) as index:
        index.collect_garbage()
    proxy.reset()
    assert not update(at(bucket.url), archive, SILENT)
    send(archive, bucket.url)
    assert bucket.state() == 3


def test_a_damaged_file_is_not_published(bucket: Bucket, archive: Path) -> None:
    shard = next((archive / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ArchiveError, match="is damaged: its size or sha256"):
        send(archive, bucket.url)
    assert bucket.state() == 0


def test_a_file_that_was_damaged_there_is_sent_again(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    shard = next((archive / "shards").iterdir())
    bucket.put(f"a.ctxindex/files/{shard.stem}", b"x" * shard.stat().st_size)
    assert not send(archive, bucket.url).changed
    send(archive, bucket.url, check=True)
    assert bucket.state() == 1


def test_a_damaged_current_there_can_be_replaced(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    bucket.put("a.ctxindex/CURRENT", bucket.get("a.ctxindex/CURRENT").replace(b"manifest-000001", b"manifest-000002"))
    with pytest.raises(ArchiveError, match="CURRENT is damaged: checksum"):
        send(archive, bucket.url)
    send(archive, bucket.url, replace=True)
    assert bucket.state() == 1


def test_an_archive_that_was_copied_up_file_by_file(bucket: Bucket, archive: Path) -> None:
    for path in archive.rglob("*"):
        if path.is_file():
            bucket.put(f"a.ctxindex/{path.relative_to(archive)}", path.read_bytes())
    with pytest.raises(ArchiveError, match="copied file by file"):
        send(archive, bucket.url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/a.ctxindex", r"^s3://no-such-bucket/a\.ctxindex/.*"),
        ("s3://key:not-to-be-shown@no-such-bucket/a", r"^s3://no-such-bucket/a/.*"),
        ("https://example.invalid/a.ctxindex", "not from web servers"),
        ("s3://", "names no bucket"),
        ("reference://x/a", "is not read"),
    ],
)
def test_places_that_are_none(bucket: Bucket, archive: Path, url: str, message: str) -> None:
    with pytest.raises(CtxdeployError, match=message) as caught:
        send(archive, url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["memory://photos/a.ctxindex", "file://{tmp}/out/a.ctxindex"])
def test_other_stores(proxy: Proxy, archive: Path, tmp_path: Path, url: str) -> None:
    url = url.format(tmp=tmp_path)
    receipt = send(archive, url)
    assert (receipt.changed, receipt.is_guarded) == (True, False)
    grow(archive)
    assert send(archive, url).uploaded == 3
    backup = tmp_path / "fetched.ctxindex"
    fetch(at(url), backup, SILENT)
    with Index.open(backup, writable=True) as index:
        assert len(index) == 6
        assert index.verify() == []
    grow(backup)
    send(backup, url)
    with pytest.raises(DivergedError):
        send(archive, url, replace=False)
    assert update(at(url), archive, SILENT)
    at(url).remove([stored.key for stored in at(url).list("files")])
    at(url).remove(["files/none", "CURRENT", *(stored.key for stored in at(url).list("states"))])
    assert at(url).tag("CURRENT") is None


def test_a_fetch_is_whole_or_not_there(bucket: Bucket, archive: Path, tmp_path: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    target = tmp_path / "there.ctxindex"
    proxy.reset(lambda number, method, path: 500 if number > 3 else None)
    with pytest.raises(ArchiveError, match="answered 500"):
        fetch(at(bucket.url), target, SILENT)
    assert not target.exists()
    proxy.reset()
    fetch(at(bucket.url), target, SILENT)
    with Index.open(target) as index:
        assert len(index) == 5
        assert index.verify() == []
    assert (target / "model" / "model.onnx").read_bytes() == (archive / "model" / "model.onnx").read_bytes()
    with pytest.raises(StorageError, match=r"there\.ctxindex"):
        fetch(at(bucket.url), target, SILENT)


def test_snapshots_go_with_it(bucket: Bucket, archive: Path, tmp_path: Path) -> None:
    with Index.open(archive, writable=True) as index:
        index.snapshot("before")
    grow(archive, 3)
    send(archive, bucket.url)
    assert bucket.state() == 2
    target = tmp_path / "there.ctxindex"
    fetch(at(bucket.url), target, SILENT)
    with Index.open(target, at="before") as index:
        assert len(index) == 5
    shutil.rmtree(target)


def test_no_such_grace() -> None:
    from ctxdeploy.object_storage.garbage import collect

    with pytest.raises(ConfigError, match="less than a day"):
        collect(at("memory://x/a"), 3600)
