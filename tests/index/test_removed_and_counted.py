"""Files of removed photos and of statistics: what is wrong in them, though every hash is right, is named."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index import Index, IndexConfig


@pytest.fixture
def archive(make_photos: Any, make_archive: Any) -> Path:
    """Return an archive with idf of ten photos, of which 003 and 007 were removed."""
    path: Path = make_archive(make_photos(10), IndexConfig(idf=True))
    with Index.open(path, writable=True) as index:
        index.remove(["003", "007"])
        index.commit()
        index.collect_garbage()
    return path


@pytest.fixture
def rewrite(load_child: Callable[[str], ModuleType]) -> Callable[..., str]:
    """Return a function that changes tensors or metadata of a file of an archive and makes every hash right."""
    mutants = load_child("mutants")

    def change(path: Path, kind: str, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
        files = mutants.read_all(path)
        (name,) = (name for name in files if name.startswith(kind))
        header, arrays = mutants.arrays_of(files[name])
        header["__metadata__"].update(metadata)
        position = 0
        for key in mutants.by_offset(header):
            arrays[key] = np.asarray(tensors.get(key, arrays[key]), tensors.get(key, arrays[key]).dtype)
            end = position + arrays[key].nbytes
            header[key].update(shape=list(arrays[key].shape), data_offsets=[position, end])
            position = end
        data = mutants.build(header, b"".join(arrays[key].tobytes() for key in mutants.by_offset(header)))
        for changed, content in mutants.consistent(files, name, data).items():
            (path / changed).write_bytes(content)
        return Path(name).name

    return change


@pytest.mark.parametrize(
    ("removed", "metadata", "text"),
    [
        ([3, 10], {}, "removed does not rise below 10"),
        ([3, 65535], {}, "removed does not rise below 10"),
        ([3, 3], {}, "removed does not rise below 10"),
        ([7, 3], {}, "removed does not rise below 10"),
        ([3], {}, r"removed is uint16 \(1,\)"),
        ([3, 7, 8], {}, r"removed is uint16 \(3,\)"),
        ([3, 7], {"shard": "0" * 64}, "shard is '0000"),
        ([3, 7], {"format": "x"}, "format is 'x'"),
        ([3, 7], {"format_version": "2"}, "format_version '2', this ctxdeploy reads 1: upgrade it"),
    ],
)
def test_removed_photos(archive: Path, rewrite: Any, removed: list[int], metadata: dict[str, str], text: str) -> None:
    name = rewrite(archive, "tombstones/", {"removed": np.array(removed, np.uint16)}, metadata)
    with pytest.raises(ArchiveError, match=text) as caught:
        Index.open(archive)
    assert name in str(caught.value) and ("upgrade" in text or "ctxdeploy repair" in str(caught.value))


def test_other_photos_than_those_removed(archive: Path, rewrite: Any, make_photos: Any) -> None:
    """No hash says it; the statistics do."""
    rewrite(archive, "tombstones/", {"removed": np.array([0, 1], np.uint16)}, {})
    with Index.open(archive) as index:
        assert "003" in index and "000" not in index and len(index) == 8
        assert all(hit.name not in ("000", "001") for hit in index.search(make_photos(1)[0], 99))
        assert any("word_counts or norms are not those of the shards" in problem for problem in index.verify())


@pytest.mark.parametrize(
    ("tensors", "metadata", "text"),
    [
        ({"word_counts": np.zeros(63, np.uint32)}, {}, "word_counts is"),
        ({"norms": np.zeros(8)}, {}, "norms is"),
        ({}, {"format_version": "2"}, "format_version '2'"),
        ({}, {"format": "ctxdeploy-names"}, "format is 'ctxdeploy-names'"),
    ],
)
def test_statistics(archive: Path, rewrite: Any, tensors: Any, metadata: dict[str, str], text: str) -> None:
    name = rewrite(archive, "statistics-", tensors, metadata)
    with pytest.raises(ArchiveError, match=text) as caught:
        Index.open(archive)
    assert name in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e308])
def test_norms_that_are_wrong_do_no_harm_and_are_found(
    archive: Path, rewrite: Any, make_photos: Any, value: float
) -> None:
    rewrite(archive, "statistics-", {"norms": np.full(10, value)}, {})
    with Index.open(archive) as index:
        hits = index.search(make_photos(1)[0], 99)
        assert all(0 < hit.score < np.inf for hit in hits) and (value > 1 or not hits)
        assert index.search(make_photos(1)[0], 99, idf=False)
        assert any("word_counts or norms are not those of the shards" in problem for problem in index.verify())


def test_counts_that_are_wrong_are_found(archive: Path, rewrite: Any) -> None:
    rewrite(archive, "statistics-", {"word_counts": np.full(64, 3, np.uint32)}, {})
    with Index.open(archive) as index:
        assert any("word_counts or norms are not those of the shards" in problem for problem in index.verify())


def test_statistics_follow_every_commit_and_are_those_of_a_new_archive(
    archive: Path, make_photos: Any, make_archive: Any
) -> None:
    photos = make_photos(10)
    kept = [number for number in range(10) if number not in (3, 7)]
    with Index.open(archive) as index, Index.open(make_archive([photos[i] for i in kept], name="new")) as other:
        for photo in photos:
            found = {hit.name: hit.score for hit in index.search(photo, 99)}
            wanted = {f"{kept[int(hit.name)]:03d}": hit.score for hit in other.search(photo, 99, idf=True)}
            assert found == wanted
    names = [json.loads(file.read_text())["statistics"]["file"] for file in archive.glob("manifest-*.json")]
    assert sorted(names) == sorted(file.name for file in archive.glob("statistics-*"))
