"""Garbage of a published archive: what is needed stays, whoever is at work."""

import hashlib
import time
from pathlib import Path

import pytest

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index import Index
from ctxdeploy.object_storage import push
from ctxdeploy.object_storage.garbage import collect
from tests.reference.s3_proxy import Bucket, Proxy, at, grow, send

DAY = 86400.0


def compacted(archive: Path) -> None:
    with Index.open(archive, writable=True) as index:
        index.compact()
        index.collect_garbage()


def test_former_states_go_after_the_grace_time(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    grow(archive)
    send(archive, bucket.url)
    compacted(archive)
    send(archive, bucket.url)
    before = bucket.all_keys()
    kept = collect(at(bucket.url), DAY)
    assert (kept.files, kept.states) == (0, 0)
    assert bucket.all_keys() == before
    done = collect(at(bucket.url), DAY, now=time.time() + 2 * DAY)
    assert done.states == 2
    # Two manifests, two shards with their names.
    assert done.files == 6
    assert bucket.state() == 3
    assert len([key for key in bucket.all_keys() if "/files/" in key]) == done.kept
    again = collect(at(bucket.url), DAY, now=time.time() + 2 * DAY)
    assert again.files == 0
    grow(archive)
    send(archive, bucket.url)
    assert bucket.state() == 4


def test_what_an_interrupted_publisher_sent_goes(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    (archive / "model" / "model.onnx").write_bytes(b"x" * (9 << 20))
    send(archive, bucket.url)
    grow(archive)
    proxy.reset(lambda n, method, path: 500 if path.endswith("/CURRENT") and method == "PUT" else None)
    with pytest.raises(Exception, match="answered 500"):
        send(archive, bucket.url)
    proxy.reset()
    bucket.raw.Object("a.ctxindex/files/part").initiate_multipart_upload()
    done = collect(at(bucket.url), DAY, now=time.time() + 2 * DAY)
    assert (done.files, done.states, done.uploads) == (3, 1, 1)
    assert bucket.state() == 1
    send(archive, bucket.url)
    assert bucket.state() == 2


def test_snapshots_keep_their_files(bucket: Bucket, archive: Path) -> None:
    with Index.open(archive, writable=True) as index:
        index.snapshot("before")
    grow(archive)
    compacted(archive)
    send(archive, bucket.url)
    compacted(archive)
    done = collect(at(bucket.url), DAY, now=time.time() + 2 * DAY)
    assert done.files == 0
    assert bucket.state() >= 2


def test_a_publisher_that_slept_looks_again(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    """It has sent all and is about to commit; days later its files are gone, and it must not commit without them."""
    send(archive, bucket.url)
    grow(archive)
    slept: list[int] = []

    def fault(number: int, method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/CURRENT") and not slept:
            slept.append(0)
            slept.append(collect(at(bucket.url), DAY, now=time.time() + 3 * DAY).files)

    proxy.reset(fault)
    send(archive, bucket.url)
    assert slept == [0, 3]
    assert bucket.state() == 2


def test_old_garbage_is_not_relied_on(
    bucket: Bucket, archive: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(archive, bucket.url)
    grow(archive)
    proxy.reset(lambda n, method, path: 500 if path.endswith("/CURRENT") and method == "PUT" else None)
    with pytest.raises(Exception, match="answered 500"):
        send(archive, bucket.url)
    proxy.reset()
    monkeypatch.setattr(push, "REUSED_SECONDS", -1.0)
    assert send(archive, bucket.url).uploaded == 3
    assert bucket.state() == 2


def test_nothing_is_removed_where_a_state_cannot_be_read(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    grow(archive)
    send(archive, bucket.url)
    manifest = (archive / "manifest-000001.json").read_bytes()
    bucket.put(f"a.ctxindex/files/{hashlib.sha256(manifest).hexdigest()}", b"damaged")
    before = bucket.all_keys()
    with pytest.raises(ArchiveError, match="not valid JSON"):
        collect(at(bucket.url), DAY)
    assert bucket.all_keys() == before
    with pytest.raises(ArchiveError, match="nothing to collect"):
        collect(at("s3://photos/none"), DAY)
