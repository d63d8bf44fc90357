"""Snapshots and pins: which states garbage collection keeps, for whom, and until when."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.index import Index, IndexConfig

# Opens an archive as it is told to, says so, and holds it until its input ends; then answers once more.
HOLDER = """
import json, sys
import numpy as np
from ctxdeploy.index import Index
index = Index.open(sys.argv[1], **json.loads(sys.argv[2]))
query = np.array(json.loads(sys.argv[3]), np.float32)
print(json.dumps([[hit.name, hit.score] for hit in index.search(query, 99)]), flush=True)
sys.stdin.read()
print(json.dumps([[hit.name, hit.score] for hit in index.search(query, 99)]), flush=True)
"""


@contextmanager
def held(path: Path, query: Any, **how: Any) -> Iterator[Any]:
    """Let another process hold an archive; yield what it finds, and check that it finds the same at the end."""
    command = [sys.executable, "-c", HOLDER, str(path), json.dumps(how), json.dumps(query.tolist())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        yield first
    finally:
        rest = process.communicate(timeout=600)[0]
    assert json.loads(rest) == first and process.returncode == 0


@pytest.fixture
def archive(make_photos: Any, make_archive: Any) -> Path:
    """Return an archive of 6 photos in two shards, manifest 1."""
    path: Path = make_archive(make_photos(6), IndexConfig(shard_images=3))
    return path


def change(path: Path, photos: Any) -> list[str]:
    """Replace everything, and collect garbage; return what was removed."""
    with Index.open(path, writable=True) as index:
        for number, vectors in enumerate(reversed(photos)):
            index.add(f"{number:03d}", vectors, replace=True)
        index.add("another", photos[0], replace=True)
        index.compact(purge=True)
        return index.collect_garbage()


def test_a_snapshot_stays_whatever_happens(archive: Path, make_photos: Any) -> None:
    photos = make_photos(6)
    with Index.open(archive) as index:
        before = index.search_batch(photos, 99)
        info = index.snapshot("trip-2024.1_b")
        assert (info.name, info.manifest) == ("trip-2024.1_b", 1) and index.snapshots() == [info]
        assert index.info()["snapshots"] == ["trip-2024.1_b"]
    for _ in range(3):
        change(archive, photos)
    with Index.open(archive, at="trip-2024.1_b") as old, Index.open(archive) as new:
        assert old.search_batch(photos, 99) == before != new.search_batch(photos, 99)
        assert new.verify() == [] and len(old) == 6 and len(new) == 7
    with Index.open(archive, writable=True) as index:
        index.remove_snapshot("trip-2024.1_b")
        removed = index.collect_garbage()
        assert len([name for name in removed if name.startswith("shards/")]) == 2 and index.snapshots() == []
        assert "manifest-000001.json" in removed
    with pytest.raises(ConfigError, match=r"there is no snapshot 'trip-2024\.1_b' in"):
        Index.open(archive, at="trip-2024.1_b")


def test_a_writers_snapshot_holds_its_changes(archive: Path, make_photos: Any) -> None:
    with Index.open(archive, writable=True) as index:
        index.add("new", make_photos(1)[0])
        index.snapshot("with-new")
        index.remove("new")
    with Index.open(archive, at="with-new") as index:
        assert "new" in index and "new" not in Index.open(archive)


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "../x", "a b", "é", "x" * 101, "a\n", 7, None])
def test_names_that_are_refused(archive: Path, name: Any) -> None:
    with Index.open(archive) as index:
        with pytest.raises(ConfigError, match=r"is not 1\.\.100 letters, digits"):
            index.snapshot(name)
        with pytest.raises(ConfigError, match=r"is not 1\.\.100 letters, digits"):
            index.remove_snapshot(name)
        assert index.snapshots() == []


def test_a_name_that_exists_is_refused(archive: Path, make_photos: Any) -> None:
    with Index.open(archive) as index:
        index.snapshot("x" * 100)
    change(archive, make_photos(6))
    with Index.open(archive) as index:
        with pytest.raises(ConfigError, match="exists: choose another name"):
            index.snapshot("x" * 100)
        assert [info.manifest for info in index.snapshots()] == [1]
        with pytest.raises(ConfigError, match="there is no snapshot 'y'"):
            index.remove_snapshot("y")


def test_states_by_number(archive: Path, make_photos: Any) -> None:
    photos = make_photos(6)
    with Index.open(archive, writable=True) as index:
        index.add("new", photos[0])
    with Index.open(archive, at=1) as old, Index.open(archive, at=2) as new:
        assert "new" not in old and "new" in new
    with Index.open(archive, writable=True) as index:
        index.collect_garbage()
    for number in (1, 3, -1):
        with pytest.raises(ArchiveError, match=f"has no manifest {number}: it was removed as garbage, or never was"):
            Index.open(archive, at=number)
    for at in (2, "x"):
        with pytest.raises(ConfigError, match="can only be read: leave out writable or at"):
            Index.open(archive, at=at, writable=True)
    with pytest.raises(ArchiveError, match="is not an archive"):
        Index.open(archive.parent, at=1)


@pytest.mark.parametrize("at", [None, 1])
def test_garbage_collection_keeps_what_a_reader_holds(archive: Path, make_photos: Any, at: Any) -> None:
    photos = make_photos(6)
    reader = Index.open(archive, at=at)
    before = reader.search_batch(photos, 99)
    assert "manifest-000001.json" not in change(archive, photos)
    assert len(list((archive / "shards").iterdir())) > 2
    assert reader.search_batch(photos, 99) == before
    reader.close()
    with Index.open(archive, writable=True) as index:
        assert "manifest-000001.json" in index.collect_garbage()
        assert len(list((archive / "shards").iterdir())) == index.info()["shards"] and index.verify() == []


def test_garbage_collection_keeps_what_a_reader_in_another_process_holds(archive: Path, make_photos: Any) -> None:
    photos = make_photos(6)
    with held(archive, photos[1]) as found:
        assert "manifest-000001.json" not in change(archive, photos)
        with Index.open(archive, at=1) as index:
            assert [[hit.name, hit.score] for hit in index.search(photos[1], 99)] == found
    with Index.open(archive, writable=True) as index:
        assert "manifest-000001.json" in index.collect_garbage()


def test_a_reader_that_was_killed_holds_nothing(archive: Path, make_photos: Any) -> None:
    photos = make_photos(6)
    command = [sys.executable, "-c", HOLDER, str(archive), "{}", json.dumps(photos[1].tolist())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    assert "manifest-000001.json" not in change(archive, photos)
    process.kill()
    process.communicate()
    with Index.open(archive, writable=True) as index:
        assert "manifest-000001.json" in index.collect_garbage()


def test_a_reader_that_is_dropped_holds_nothing(archive: Path, make_photos: Any) -> None:
    reader = Index.open(archive)
    assert len(reader) == 6
    del reader
    assert "manifest-000001.json" in change(archive, make_photos(6))


def test_a_snapshot_is_made_while_another_process_writes(archive: Path, make_photos: Any) -> None:
    photos = make_photos(6)
    with held(archive, photos[1], writable=True):
        with pytest.raises(ArchiveError, match="is being written"):
            Index.open(archive, writable=True)
        with Index.open(archive) as index:
            index.snapshot("meanwhile")
    change(archive, photos)
    with Index.open(archive, at="meanwhile") as index:
        assert index.info()["manifest"] == 1 and len(index) == 6


def test_a_snapshot_of_an_old_state_that_is_held(archive: Path, make_photos: Any) -> None:
    photos = make_photos(6)
    with Index.open(archive) as reader:
        change(archive, photos)
        assert reader.snapshot("late").manifest == 1
    assert "manifest-000001.json" not in change(archive, photos)
    assert len(Index.open(archive, at="late")) == 6


def test_damaged_snapshots_are_named_and_stop_garbage_collection(archive: Path) -> None:
    with Index.open(archive) as index:
        index.snapshot("x")
    file = archive / "snapshots" / "x.json"
    text = file.read_text()
    for content, what in (
        ("{", "is damaged"),
        ("[]", "format is not"),
        (
            text.replace('"format_version": 1', '"format_version": 2'),
            "format_version 2, this ctxdeploy reads 1: upgrade",
        ),
        (text.replace("manifest-000001", "manifest-000002"), "checksum is not that of its content"),
        (text.replace('"created": "2', '"created": "3'), "checksum is not that of its content"),
    ):
        file.write_text(content)
        with pytest.raises(ArchiveError, match=what) as caught:
            Index.open(archive, at="x")
        assert "x.json" in str(caught.value)
        with Index.open(archive, writable=True) as index:
            assert any("snapshot x" in problem for problem in index.verify())
            index.record_failures([{"name": "bad", "reason": content[:1]}])
            index.commit()
            with pytest.raises(ArchiveError, match=r"x\.json"):
                index.collect_garbage()
            index.forget_failures(["bad"])
    assert (archive / "manifest-000001.json").exists()
    with Index.open(archive, writable=True) as index:
        index.remove_snapshot("x")
        index.collect_garbage()
        assert index.verify() == [] and not (archive / "manifest-000001.json").exists()


def test_a_closed_archive_makes_no_snapshot(archive: Path) -> None:
    index = Index.open(archive)
    index.close()
    with pytest.raises(ArchiveError, match="is closed"):
        index.snapshot("x")


def test_a_number_in_digits_opens_a_manifest_unless_a_snapshot_has_that_name(archive: Path, make_photos: Any) -> None:
    with Index.open(archive, at="0") as former:
        number = former.info()["manifest"]
    assert number == 0
    with Index.open(archive, writable=True) as index:
        index.add("new", make_photos(1)[0])
        index.snapshot("0")
    with Index.open(archive, at="0") as kept:
        assert "new" in kept


def test_what_the_archive_says_without_being_opened(archive: Path, tmp_path: Path) -> None:
    assert Index.problems(archive) == []
    assert Index.problems(tmp_path / "none")[0].endswith("make one with  ctxdeploy index")
    Index.check_free(tmp_path / "none")
    with pytest.raises(ArchiveError, match="is an archive already"):
        Index.check_free(archive)
    with Index.open(archive) as index:
        assert index.codebook_path.is_file() and index.state.posting_bytes == 18
