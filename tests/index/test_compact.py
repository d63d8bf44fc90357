"""Compaction: which shards it takes, that answers stay, and that nothing of a purged photo is left."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Index, IndexConfig
from ctxdeploy.index.maintenance import compact as compaction
from ctxdeploy.index.maintenance.compact import choose_groups, is_worth_it
from ctxdeploy.index.storage.manifest import FileEntry, ShardEntry


def entry(images: int, removed: int = 0, size: int = 100) -> ShardEntry:
    """Return the facts of a shard."""
    names = FileEntry(file="names/x", bytes=1, sha256="0" * 64)
    return ShardEntry(
        file="x", bytes=size, sha256="0" * 64, images=images, postings=1, removed=removed, names=names, tombstones=names
    )


@pytest.mark.parametrize(
    ("shards", "purge", "groups"),
    [
        ([], False, []),
        ([(10, 0)], False, []),
        ([(10, 0), (10, 0)], False, [[0, 1]]),
        ([(100, 0), (10, 0), (100, 0), (10, 0)], False, [[1, 3]]),
        ([(49, 0), (49, 0), (49, 0)], False, [[0, 1]]),
        ([(50, 0), (50, 0)], False, []),
        ([(100, 20)], False, []),
        ([(100, 21)], False, [[0]]),
        ([(100, 1)], True, [[0]]),
        ([(100, 1), (100, 0)], True, [[0]]),
        ([(10, 1)], False, [[0]]),
        ([(100, 60), (100, 60), (100, 60)], False, [[0, 1], [2]]),
        ([(10, 0)] * 25, False, [list(range(10)), list(range(10, 20)), list(range(20, 25))]),
    ],
)
def test_which_shards_are_merged(shards: list[tuple[int, int]], purge: bool, groups: list[list[int]]) -> None:
    parts = [entry(*shard) for shard in shards]
    assert choose_groups(parts, 100, purge=purge) == groups


def test_shards_above_half_a_gigabyte_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MAX_BYTES", 1000)
    parts = [entry(10, 0, size) for size in (499, 500, 400, 200)]
    assert choose_groups(parts, 100, purge=False) == [[0, 2]]


def test_when_it_is_worth_it() -> None:
    assert not is_worth_it([entry(10)] * 7, 100) and is_worth_it([entry(10)] * 8, 100)
    assert not is_worth_it([entry(100, 20)], 100) and is_worth_it([entry(100, 21)], 100)
    assert not is_worth_it([entry(100)] * 50, 100)


@pytest.mark.parametrize("binary", [True, False])
def test_answers_stay_and_shards_become_few(tmp_path: Path, make_photos: Any, make_codebook: Any, binary: bool) -> None:
    photos = make_photos(40)
    calls: list[tuple[int, int]] = []
    with Index.create(tmp_path / "a", make_codebook(), config=IndexConfig(binary=binary, shard_images=16)) as index:
        for number, vectors in enumerate(photos):
            index.add(f"{number:03d}", vectors, file=FileState(size=number, mtime_ns=-1))
            if number % 3 == 0:
                index.commit()
        index.remove(["003", "017", "039"])
        expected = index.search_batch(photos, 99), index.known()
        idf = index.search_batch(photos, 99, idf=True)
        before = index.info()["shards"]
        merged = index.compact(purge=True, progress=lambda done, total: calls.append((done, total)))
        assert merged == before == 14 and index.info()["shards"] == 3 and index.info()["removed"] == 0
        assert calls[-1] == (37, 37) and [done for done, _ in calls] == sorted(done for done, _ in calls)
        assert (index.search_batch(photos, 99), index.known()) == expected
        assert index.search_batch(photos, 99, idf=True) == idf and index.verify() == []
        number = index.info()["manifest"]
        assert index.compact(purge=True) == 0 and index.compact_if_worth_it() == 0
        assert index.search_batch(photos, 99) == expected[0] and index.info()["manifest"] == number


def test_the_same_photos_give_the_same_shard(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(9)
    whole = make_archive(photos, name="whole")
    parts = make_archive(photos[:2], name="parts")
    for number in range(2, 9):
        with Index.open(parts, writable=True) as index:
            index.add(f"{number:03d}", photos[number])
    with Index.open(parts, writable=True) as index:
        assert index.compact_if_worth_it() == 8
        index.collect_garbage()
    for kind in ("shards", "names"):
        (a,), (b,) = (list((path / kind).iterdir()) for path in (whole, parts))
        assert a.name == b.name and a.read_bytes() == b.read_bytes()
        assert a.name == f"{hashlib.sha256(a.read_bytes()).hexdigest()}.safetensors"


def test_nothing_of_a_purged_photo_is_left(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(5)
    path = make_archive(photos)
    with Index.open(path, writable=True) as index:
        index.add("a very private name", photos[2])
        index.commit()
        index.remove("a very private name")
        index.compact(purge=True)
        index.collect_garbage()
    for file in path.rglob("*"):
        assert not file.is_file() or b"private" not in file.read_bytes()


def test_everything_removed(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(5), IndexConfig(shard_images=2, idf=True))
    with Index.open(path, writable=True) as index:
        assert index.remove(list(index.names())) == 5
        assert index.compact(purge=True) == 0 and len(index) == 0 and index.search(make_photos(1)[0]) == []
        index.collect_garbage()
        assert index.verify() == [] and not list((path / "shards").iterdir())


def test_a_shard_whose_counts_are_wrong_is_not_rewritten(
    make_photos: Any, make_archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxdeploy.core.files import piece_bytes
    from ctxdeploy.index.storage.format import decode, encode

    path = make_archive(make_photos(5))
    (shard,) = (path / "shards").iterdir()
    arrays, metadata = decode(shard.read_bytes(), "x")
    arrays["counts"] = arrays["counts"] + 1
    shard.write_bytes(b"".join(piece_bytes(piece) for piece in encode(arrays, metadata)))
    with Index.open(path, writable=True) as index:
        index.remove("000")
        with pytest.raises(ArchiveError, match="its sha256 is not that of the manifest"):
            index.compact(purge=True)
        monkeypatch.setattr(compaction, "check_whole", lambda folder, entry: None)
        with pytest.raises(ArchiveError, match="images and counts of a shard contradict"):
            index.compact(purge=True)
        assert len(index) == 4
