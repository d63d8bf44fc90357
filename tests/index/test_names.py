"""Finding a name among many: colliding hashes, names that are no text, and as many as an archive has."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index import Index, IndexConfig
from ctxdeploy.index.kernels import build as build_kernels
from ctxdeploy.index.storage.names import NameIndex, name_tensors


class Named:
    """A shard as far as a table of names sees it."""

    def __init__(self, names: list[str]) -> None:
        tensors = name_tensors(names)
        self.names, self.name_offsets, self.count = tensors["names"], tensors["name_offsets"], len(names)

    def __len__(self) -> int:
        return self.count


ODD = ["", "a", "aa", "\x00", "é", os.fsdecode(b"\xff\xfe"), "日本", "x" * 70_000, "x" * 70_000 + "y", "a\x00", "🙂"]


@pytest.fixture
def colliding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every name have the same hash."""

    def constant(names: Any, offsets: Any) -> Any:
        return np.full(len(offsets) - 1, 7, np.uint64)

    monkeypatch.setattr(build_kernels, "hash_names", constant)


def places(table: NameIndex, shards: list[list[str]]) -> None:
    """Every name is found where it is, and nowhere else."""
    for name in {name for shard in shards for name in shard}:
        expected = [(s, n) for s, shard in enumerate(shards) for n, other in enumerate(shard) if other == name]
        assert sorted(table.find(name)) == expected
    for name in ("b", "x" * 69_999, "aaa", os.fsdecode(b"\xfe")):
        assert list(table.find(name)) == []


@pytest.mark.parametrize("shards", [[ODD], [ODD[:4], [], ODD[4:], ["a", ""]], []])
def test_odd_names(shards: list[list[str]]) -> None:
    places(NameIndex([Named(shard) for shard in shards]), shards)


def test_colliding_hashes(colliding: None) -> None:
    shards = [ODD[:4], ODD[4:], ["a", ""]]
    table = NameIndex([Named(shard) for shard in shards])
    places(table, shards)
    assert table.suspects(Named(["b", "a"])).tolist() == [0, 1], "suspects are compared by whoever asks"


def test_an_archive_whose_names_all_collide(
    colliding: None, tmp_path: Path, make_codebook: Any, make_photos: Any, make_archive: Any
) -> None:
    photos = make_photos(3)
    other = make_archive(photos, name="other")
    with Index.create(tmp_path / "a", make_codebook(), config=IndexConfig(shard_images=3)) as index:
        for name in ODD:
            index.add(name, photos[0])
        index.commit()
        assert all(name in index for name in ODD) and "b" not in index
        assert index.remove(["a", "b", "é"]) == 2
        index.add("é", photos[1])
        merged = index.merge(other)
        assert (merged.added, merged.replaced, merged.kept) == (3, 0, 0)
        merged = index.merge(other, conflicts="keep")
        assert (merged.added, merged.kept) == (0, 3)
    with Index.open(tmp_path / "a") as index:
        assert sorted(index.names()) == sorted([*(name for name in ODD if name != "a"), "000", "001", "002"])
        assert "a" not in index and "é" in index and index.verify() == []


@given(st.lists(st.lists(st.binary(max_size=3), max_size=12), max_size=4))
def test_any_names(shards: list[list[bytes]]) -> None:
    texts = [[os.fsdecode(name) for name in shard] for shard in shards]
    table = NameIndex([Named(shard) for shard in texts])
    for name in {name for shard in texts for name in shard}:
        expected = [(s, n) for s, shard in enumerate(texts) for n, other in enumerate(shard) if other == name]
        assert sorted(table.find(name)) == expected


def test_a_shard_that_is_written_later() -> None:
    table = NameIndex([Named(["a", "b"])])
    table.append(1, {"c": 0, "a": 1})
    assert list(table.find("c")) == [(1, 0)] and sorted(table.find("a")) == [(0, 0), (1, 1)]
    table.append(1, {"d": 0})
    assert list(table.find("c")) == [] and list(table.find("d")) == [(1, 0)]


def test_a_hundred_thousand_names() -> None:
    names = [f"folder/{number % 97}/IMG_{number:07d}.jpg" for number in range(100_000)]
    shards = [names[begin : begin + 65_536] for begin in range(0, len(names), 65_536)]
    table = NameIndex([Named(shard) for shard in shards])
    for number in range(0, 100_000, 101):
        assert list(table.find(names[number])) == [(number // 65_536, number % 65_536)]
    assert list(table.find("folder/0/IMG_0000001.jpg")) == []
    assert len(table.suspects(Named([*names[::1000], "no", "nor"]))) == 100


def test_a_name_that_cannot_be_stored_is_in_no_archive(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(1))
    with Index.open(path, writable=True) as index:
        for name in ("\ud800", 7, None):
            assert name not in index
        assert index.remove(["\ud800"]) == 0
        with pytest.raises(ConfigError, match="surrogates"):
            index.add("\ud800", make_photos(1)[0])
    with Index.open(path) as reader:
        assert "\ud800" not in reader
        with pytest.raises(ConfigError):
            reader.features("\ud800")


def test_names_that_are_not_printed_as_they_are(make_photos: Any, make_archive: Any) -> None:
    names = ["plain ~.jpg", "caf\u00e9.jpg", "a\nb", "raw\udce9", "\x7f", "\u200b", "gone\n", "\u65e5\u672c"]
    with Index.open(make_archive(make_photos(1)), writable=True) as index:
        for name in names:
            index.add(name, make_photos(1)[0])
        index.remove("gone\n")
        index.commit()
        assert index.state.unprintable == ("a\nb", "raw\udce9", "\x7f", "\u200b")
        assert set(index.state.unprintable) == {name for name in index.names() if not name.isprintable()}
