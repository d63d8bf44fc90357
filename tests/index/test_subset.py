"""Photos by their names and what these begin with, against loops over all names; searches among them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index import Codebook, Index, IndexConfig, Subset
from ctxdeploy.index.storage.names import NameIndex

RANDOM = np.random.default_rng(0)
DIM, WORDS = 32, 16
NAMES = [
    *(f"{folder}/{number}.jpg" for folder in ("2024", "2024/é", "x", "日本") for number in range(12)),
    "x",
    "",
    "x/",
    "a\nb",
    "caf\udce9.jpg",
]
PREFIXES = ["2024/", "2024/é", "2024/é/1", "x", "日", "日本/11.jpg", "caf\udce9", "", "y", "2024/\udcff", "\ud800"]


def vectors(count: int = 3) -> "np.typing.NDArray[np.float32]":
    found = RANDOM.normal(size=(count, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Several shards, photos that were replaced, and some that are gone."""
    path = tmp_path_factory.mktemp("subset") / "a"
    config = IndexConfig(shard_images=20, global_vectors="fp32", global_dim=DIM)
    with Index.create(path, Codebook(vectors(WORDS)), config=config) as made:
        for name in [*NAMES, "gone/1.jpg", "2024/gone.jpg"]:
            made.add(name, vectors(), global_descriptor=vectors(1)[0])
        made.remove(["gone/1.jpg", "2024/gone.jpg", "x/3.jpg"])
        made.commit()
        made.add("x/5.jpg", vectors(), global_descriptor=vectors(1)[0], replace=True)
        made.remove("2024/7.jpg")
    with Index.open(path) as opened:
        yield opened


def names_of(index: Index, subset: Subset) -> list[str]:
    names = []
    for shard, photos in zip(index.state.shards, subset.photos, strict=True):
        assert photos.dtype == np.int64 and (np.diff(photos) > 0).all()
        names += [shard.name(int(photo)) for photo in photos]
    assert len(names) == len(subset)
    return sorted(names)


@given(
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=4),
    names=st.none() | st.lists(st.sampled_from([*NAMES, "gone/1.jpg", "nobody", "\ud800", "caf\udcc3\udca9"])),
)
def test_a_subset_is_what_a_loop_over_all_names_finds(
    index: Index, prefixes: list[str], names: list[str] | None
) -> None:
    all_names = list(index.names())
    begun = [name for name in all_names if not prefixes or any(name.startswith(prefix) for prefix in prefixes)]
    subset = index.subset(prefixes=prefixes, names=names)
    assert names_of(index, subset) == sorted(name for name in begun if names is None or name in names)
    assert list(subset.unknown) == [name for name in names or () if name not in all_names]
    assert list(subset.unused) == [prefix for prefix in prefixes if not any(n.startswith(prefix) for n in all_names)]


def test_names_of_equal_hashes_are_told_apart(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxdeploy.index.kernels import build as build_kernels

    monkeypatch.setattr(build_kernels, "hash_names", lambda names, ends: np.full(len(ends) - 1, 7, np.uint64))
    table, found = NameIndex(index.state.shards), dict[str, list[tuple[int, int]]]()
    asked = ["x/5.jpg", "nobody", "x", "x/5.jpg"]
    for rows, shard, numbers in table.find_all(asked):
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            found.setdefault(f"{row} {asked[row]}", []).append((shard, number))
    assert sorted(found) == ["0 x/5.jpg", "2 x", "3 x/5.jpg"]
    assert sorted(found["0 x/5.jpg"]) == sorted(table.find("x/5.jpg")) and len(found["3 x/5.jpg"]) == 2


@pytest.mark.parametrize("expand", [0, 3])
def test_a_search_among_a_subset_is_one_among_its_names(index: Index, expand: int) -> None:
    subset = index.subset(prefixes=["2024/", "日"], names=[name for name in NAMES if "1" in name])
    query = vectors(20)
    found = index.search_batch([query, "x/5.jpg"], 9, among=subset, expand=expand)
    assert found == index.search_batch([query, "x/5.jpg"], 9, among=names_of(index, subset), expand=expand)
    if not expand:
        chosen = set(names_of(index, subset))
        ranking = [hit for hit in index.search(query, len(index)) if hit.name in chosen]
        assert found[0] == ranking[:9] and len(found[0]) > 3
    wanted = [hit for hit in index.search_global(query[:1], len(index))[0] if hit.name in names_of(index, subset)]
    assert index.search_global(query[:1], 9, among=subset)[0] == wanted[:9]


def test_nothing_is_found_among_nothing(index: Index) -> None:
    nothing = index.subset(names=["nobody"])
    assert len(nothing) == 0 and nothing.unknown == ("nobody",)
    assert index.search(vectors(9), 5, among=nothing, expand=2) == []
    assert index.search_global(vectors(1), 5, among=nothing) == [[]]


def test_a_subset_of_another_state_is_refused(index: Index, tmp_path: Path) -> None:
    with Index.create(tmp_path / "b", Codebook(vectors(WORDS))) as other:
        other.add("x", vectors())
        other.commit()
        with pytest.raises(ConfigError, match=r"another state of .*: choose anew"):
            index.search(vectors(3), among=other.subset(prefixes=["x"]))


def test_an_empty_archive_has_an_empty_subset(tmp_path: Path) -> None:
    with Index.create(tmp_path / "b", Codebook(vectors(WORDS))) as empty:
        subset = empty.subset(prefixes=["x"], names=["x"])
        assert (len(subset), subset.unknown, subset.unused) == (0, ("x",), ("x",))
