"""Segments: made of an archive, taken into another; names in several; what does not belong; damage."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ArchiveError, MismatchError, StorageError
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Index, IndexConfig, NewerFormatError, is_segment, open_segment, write_segment

Make = Callable[..., Path]


@pytest.fixture
def make_segment(tmp_path: Path, make_codebook: Any) -> Make:
    """Return a function of (name, {photo: (vectors, time)}, failures) that makes a segment."""

    def make(name: str, photos: dict[str, Any], failures: Any = (), config: IndexConfig | None = None) -> Path:
        work, target = tmp_path / f"{name}-work", tmp_path / name
        with Index.create(work, make_codebook(), config=config) as index:
            for photo, (vectors, time) in photos.items():
                index.add(photo, vectors, file=None if time is None else FileState(size=7, mtime_ns=time))
            index.record_failures(failures)
            index.commit()
            write_segment(index.state, work, target, name, {"of": name})
        shutil.rmtree(work)
        return target

    return make


def names_and_times(path: Path) -> dict[str, int | None]:
    with Index.open(path) as index:
        assert index.verify() == []
        return {name: None if file is None else file.mtime_ns for name, file in index.known().items()}


def test_segments_are_the_archive_of_one_machine(
    tmp_path: Path, make_photos: Any, make_archive: Make, make_segment: Make
) -> None:
    photos = make_photos(9)
    whole = make_archive(photos, name="whole")
    parts = [
        make_segment(f"part{start}", {f"{i:03d}": (photos[i], None) for i in range(start, start + 3)})
        for start in (0, 3, 6)
    ]
    path = make_archive(photos[:0] or [photos[0]], name="empty")
    with Index.open(path, writable=True) as index:
        index.remove("000")
        published = index.publish(parts)
        assert [(one.added, one.failed) for one in published] == [(3, 0)] * 3
    assert open_segment(parts[0]).facts == {"of": "part0"}
    with Index.open(path) as many, Index.open(whole) as one:
        assert many.verify() == [] and list(many.names()) == list(one.names())
        assert many.search_batch(photos, 9) == one.search_batch(photos, 9)
    for archive in (path, whole):
        with Index.open(archive, writable=True) as index:
            index.compact(purge=True)
            index.collect_garbage()
    assert {f.name for f in (path / "shards").iterdir()} == {f.name for f in (whole / "shards").iterdir()}


def test_publishing_twice_changes_nothing_before_and_after_a_compaction(
    make_photos: Any, make_archive: Make, make_segment: Make
) -> None:
    photos = make_photos(6)
    path = make_archive(photos[:2])
    bad = [{"name": "x", "reason": "cut", "size": 5, "mtime_ns": 3}, {"name": "y", "reason": "cut"}]
    parts = [
        make_segment("a", {"005": (photos[2], 4), "000": (photos[3], 4)}, bad),
        make_segment("b", {"005": (photos[4], 5), "x": (photos[5], 3)}, [{"name": "005", "reason": "cut"}]),
    ]
    with Index.open(path, writable=True) as index:
        first = index.publish(parts)
        assert [(one.added, one.replaced, one.unchanged, one.older, one.failed) for one in first] == [
            (1, 1, 0, 0, 2),
            (1, 1, 0, 0, 1),
        ]
        assert [failure["name"] for failure in index.failures()] == ["y"]
    before = names_and_times(path)
    assert before == {"000": 4, "001": None, "005": 5, "x": 3}
    for turn in range(2):
        number = Index.open(path).info()["manifest"]
        with Index.open(path, writable=True) as index:
            again = index.publish(reversed(parts) if turn else parts)
            assert sum(one.added + one.replaced for one in again) == 0
        assert Index.open(path).info()["manifest"] == number and names_and_times(path) == before
        with Index.open(path, writable=True) as index:
            index.compact(purge=True)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_photos_of_a_name_the_file_that_was_changed_last_is_kept(
    make_photos: Any, make_archive: Make, make_segment: Make, order: tuple[int, int]
) -> None:
    photos = make_photos(4)
    path = make_archive(photos[:1])
    parts = [make_segment("old", {"n": (photos[1], 10)}), make_segment("new", {"n": (photos[2], 11)})]
    with Index.open(path, writable=True) as index:
        for number in order:
            (one,) = index.publish([parts[number]])
        assert (one.replaced, one.older) == ((1, 0) if order[1] else (0, 1))
        assert index.search(photos[2], 1)[0].name == "n" and len(index) == 2
    assert names_and_times(path) == {"000": None, "n": 11}


def test_a_photo_that_failed_later_is_listed_and_keeps_its_descriptors(
    make_photos: Any, make_archive: Make, make_segment: Make
) -> None:
    photos = make_photos(3)
    path = make_archive(photos[:1])
    with Index.open(path, writable=True) as index:
        index.record_failures(
            [{"name": "n", "reason": "torn", "size": 7, "mtime_ns": 10}, {"name": "z", "reason": "?"}]
        )
    good = make_segment("good", {"n": (photos[1], 10)})
    torn = make_segment("torn", {}, [{"name": "n", "reason": "torn", "size": 7, "mtime_ns": 12}])
    with Index.open(path, writable=True) as index:
        index.publish([good])
        assert [failure["name"] for failure in index.failures()] == ["z"]
        index.publish([torn])
        assert "n" in index and sorted(failure["name"] for failure in index.failures()) == ["n", "z"]
        index.publish([good])
        assert sorted(failure["name"] for failure in index.failures()) == ["n", "z"]


def test_what_was_removed_comes_back_with_its_segment(make_photos: Any, make_archive: Make, make_segment: Make) -> None:
    photos = make_photos(4)
    path, part = make_archive(photos[:1]), make_segment("a", {"b": (photos[1], 1), "c": (photos[2], 1)})
    with Index.open(path, writable=True) as index:
        index.publish([part])
        index.remove("b")
        index.commit()
        (one,) = index.publish([part])
        assert (one.added, one.unchanged) == (1, 1)
    assert names_and_times(path) == {"000": None, "b": 1, "c": 1}


def test_segments_of_other_archives_are_refused_and_both_are_named(
    make_photos: Any, make_archive: Make, make_segment: Make
) -> None:
    photos = make_photos(3)
    path = make_archive(photos[:1])
    part, other = make_segment("a", {"b": (photos[1], 1)}), make_segment("o", {}, config=IndexConfig(assignment=2))
    with Index.open(path, writable=True) as index:
        with pytest.raises(MismatchError, match=rf"{other} is not for {path}: assignment is 2 there and 1 here"):
            index.publish([other])
        with pytest.raises(MismatchError, match=rf"{part} and {other} are not for one archive: assignment is 1 and 2"):
            index.publish([part, other])
        assert index.state.manifest.number == 1 and "b" not in index


def test_damage_is_found_before_anything_changes(make_photos: Any, make_archive: Make, make_segment: Make) -> None:
    photos = make_photos(3)
    path = make_archive(photos[:1])
    part, sound = make_segment("a", {"b": (photos[1], 1)}), make_segment("s", {"c": (photos[2], 1)})
    facts = json.loads((part / "segment.json").read_text())
    (shard,) = (part / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with Index.open(path, writable=True) as index:
        with pytest.raises(ArchiveError, match=rf"{shard.name} is damaged.*delete the segment, and extract it anew"):
            index.publish([sound, part])
        index.commit()
        index.collect_garbage()
    assert names_and_times(path) == {"000": None} and len(list((path / "shards").iterdir())) == 1
    for change, kind, text in (
        ({"format_version": 2}, NewerFormatError, "format_version 2.*upgrade"),
        ({"id": "another"}, ArchiveError, "checksum is not that of its content"),
        ({"format": "x"}, ArchiveError, "format is not"),
    ):
        (part / "segment.json").write_text(json.dumps(facts | change))
        with pytest.raises(kind, match=text):
            open_segment(part)
    (part / "segment.json").write_text("{")
    with pytest.raises(ArchiveError, match="not valid JSON"):
        open_segment(part)
    with pytest.raises(ArchiveError, match="is not a segment"):
        open_segment(path)
    assert is_segment(part) and not is_segment(path)


def test_an_archive_with_removed_photos_is_compacted_before_it_becomes_a_segment(
    tmp_path: Path, make_photos: Any, make_archive: Make
) -> None:
    path, target = make_archive(make_photos(3)), tmp_path / "segment"
    with Index.open(path, writable=True) as index:
        index.remove("001")
        index.commit()
        with pytest.raises(ArchiveError, match="compact it with purge=True"):
            write_segment(index.state, path, target, "x", {})
        index.compact(purge=True)
        write_segment(index.state, path, target, "x", {})
        with pytest.raises(StorageError):
            write_segment(index.state, path, target, "x", {})


def test_files_are_linked_and_copied_where_there_are_no_links(
    make_photos: Any, make_archive: Make, make_segment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(4)
    path = make_archive(photos[:1])
    linked, copied = make_segment("a", {"b": (photos[1], 1)}), make_segment("c", {"d": (photos[2], 1)})

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with Index.open(path, writable=True) as index:
        index.publish([linked])
        monkeypatch.setattr(os, "link", refuse)
        index.publish([copied])
    for part, links in ((linked, 2), (copied, 1)):
        (shard,) = (part / "shards").iterdir()
        assert shard.stat().st_nlink == links and (path / "shards" / shard.name).read_bytes() == shard.read_bytes()
        shutil.rmtree(part)
    assert names_and_times(path) == {"000": None, "b": 1, "d": 1}
    assert not list(path.rglob(".tmp-*"))
