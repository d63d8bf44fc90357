"""Merging: names in both, what belongs together, and shards that both archives have."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ArchiveError, ConfigError, MismatchError
from ctxdeploy.index import DescriptorSource, Index, IndexConfig


@pytest.fixture
def two(tmp_path: Path, make_photos: Any, make_archive: Any) -> tuple[Path, Path, Any]:
    """Return two archives of photos 000 to 003, and 000 to 005 of which 004 has none; and all photos."""
    photos = make_photos(6)
    return make_archive(photos[:4], name="a"), make_archive([*photos[3::-1], *photos[4:]], name="b"), photos


def test_a_merge_is_visible_with_the_commit_and_the_other_archive_stays(two: Any) -> None:
    path, other, photos = two
    with Index.open(other, writable=True) as index:
        index.remove([f"00{number}" for number in range(4)])
    files = {file: file.read_bytes() for file in other.rglob("*") if file.is_file()}
    with Index.open(path, writable=True) as index:
        merged = index.merge(other)
        assert (merged.added, merged.replaced, merged.kept) == (2, 0, 0)
        assert len(index) == 6 and "005" in index and len(Index.open(path)) == 4
    assert {file: file.read_bytes() for file in other.rglob("*") if file.is_file()} == files
    shutil.rmtree(other)
    with Index.open(path) as index:
        assert index.verify() == [] and sorted(index.names()) == [f"00{number}" for number in range(6)]
        assert [hit.name for hit in index.search(photos[5], 1)] == ["005"]


@pytest.mark.parametrize(("conflicts", "found"), [("keep", 0), ("replace", 3)])
def test_names_in_both(two: Any, conflicts: str, found: int) -> None:
    path, other, photos = two
    with Index.open(path, writable=True) as index:
        with pytest.raises(ConfigError, match=r"4 photos are in both archives, such as '000'.*--conflicts"):
            index.merge(other)
        with pytest.raises(ConfigError, match="'newest' is not one of"):
            index.merge(other, conflicts="newest")
        merged = index.merge(other, conflicts=conflicts)
        assert (merged.added, merged.replaced, merged.kept) == ((2, 0, 4) if conflicts == "keep" else (2, 4, 0))
        index.commit()
        assert len(index) == 6 and index.verify() == []
        # In the other archive 000 to 003 are these photos the other way round.
        assert index.search(photos[0], 1)[0].name == f"00{found}"
        index.compact(purge=True)
        assert index.search(photos[0], 1)[0].name == f"00{found}" and len(index) == 6


def test_archives_that_do_not_belong_together(tmp_path: Path, two: Any, make_codebook: Any) -> None:
    path, _, _ = two
    source = DescriptorSource(model="m", preprocessing="p")
    with Index.open(path, writable=True) as index:
        for number, (facts, text) in enumerate(
            [
                ({"codebook": make_codebook(seed=8)}, "codebook is"),
                ({"config": IndexConfig(binary=False)}, "binary is True here and False there"),
                ({"config": IndexConfig(assignment=2)}, "assignment is 1 here and 2 there"),
                ({"config": IndexConfig(geometry=True)}, "geometry is none here"),
                ({"source": source}, "model is None here and m there"),
            ]
        ):
            other = tmp_path / f"other{number}"
            Index.create(other, **{"codebook": make_codebook(), **facts}).close()
            with pytest.raises(MismatchError, match=text) as caught:
                index.merge(other)
            assert caught.value.exit_code == 16
        with pytest.raises(ConfigError, match="cannot be merged into itself"):
            index.merge(path)
        with pytest.raises(ArchiveError, match="is not an archive"):
            index.merge(tmp_path)
        assert not index.info()["removed"] and len(index) == 4
    assert Index.open(path).info()["manifest"] == 1, "nothing was changed, so nothing is published"


def test_a_damaged_archive_is_not_taken(two: Any) -> None:
    path, other, _ = two
    shard = next((other / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-30] ^= 1
    shard.write_bytes(data)
    with Index.open(path, writable=True) as index:
        with pytest.raises(ArchiveError, match=f"{shard.name} is damaged: its sha256"):
            index.merge(other, conflicts="keep")
        assert len(index) == 4 and index.verify() == []
        index.commit()
        index.collect_garbage()
        assert len(list((path / "shards").iterdir())) == 1


def test_settings_of_the_search_may_differ(tmp_path: Path, make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(6)
    path = make_archive(photos[:3], IndexConfig(idf=True, alpha=2.0))
    other = make_archive(photos[:3], IndexConfig(shard_images=2, query_assignment=2), "b")
    whole = make_archive([*photos[:3], *photos[:3]], IndexConfig(idf=True, alpha=2.0), "whole")
    with Index.open(other, writable=True) as index:
        for number in range(3):
            index.add(f"00{number + 3}", photos[number])
        index.remove(["000", "001", "002"])
    with Index.open(path, writable=True) as index:
        index.merge(other)
        assert index.search(photos[1], 9) == Index.open(whole).search(photos[1], 9)
    assert Index.open(path).verify() == []


def test_the_same_shard_with_other_photos_removed_is_a_change(
    tmp_path: Path, make_photos: Any, make_archive: Any
) -> None:
    """As many photos of the same file are removed before and after, but not the same ones."""
    path = make_archive(make_photos(2))
    other = tmp_path / "other"
    shutil.copytree(path, other)
    for place, name in ((path, "000"), (other, "001")):
        with Index.open(place, writable=True) as index:
            index.remove(name)
    with Index.open(path, writable=True) as index:
        index.remove("001")
        index.merge(other)
        assert list(index.names()) == ["000"]
    with Index.open(path) as index:
        assert list(index.names()) == ["000"] and index.verify() == []


def test_garbage_of_a_merge_that_was_undone_is_collected(tmp_path: Path, two: Any) -> None:
    path, other, _ = two
    shutil.copytree(path, tmp_path / "copy")
    with Index.open(path, writable=True) as index:
        index.collect_garbage()
        before = {file for file in path.rglob("*") if file.is_file()}
        index.merge(other, conflicts="replace")
        index.remove(["004", "005"])
        index.merge(tmp_path / "copy", conflicts="replace")
        index.commit()
        index.collect_garbage()
        assert {file for file in path.rglob("*") if file.is_file()} == before


def test_photos_that_are_merged_are_no_failures_any_more(tmp_path: Path, two: Any) -> None:
    path, other, _ = two
    with Index.open(path, writable=True) as index:
        index.record_failures([{"name": "005", "reason": "cut"}, {"name": "x", "reason": "mine"}])
    with Index.open(other, writable=True) as index:
        index.record_failures([{"name": name, "reason": "theirs"} for name in ("x", "y")])
    with Index.open(path, writable=True) as index:
        index.merge(other, conflicts="keep")
        assert [(f["name"], f["reason"]) for f in index.failures()] == [("x", "mine"), ("y", "theirs")]
