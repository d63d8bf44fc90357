"""Archives that keep a global vector of each photo, beside postings or alone, against plain loops in float64."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError, ConfigError, MismatchError
from ctxdeploy.core.types import GlobalDescriptor, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Codebook, GlobalQuantiser, Hit, Index, IndexConfig

DIM = 19
KINDS = ("fp32", "fp16", "int8")
Rows = NDArray[np.float32]


def unit_vectors(count: int, seed: int = 0, dim: int = DIM) -> Rows:
    """Return vectors of length 1, the fourth all 0, the sixth and seventh equal."""
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[3], rows[6] = 0, rows[5]
    return rows.astype(np.float32)


def photo(name: str, vector: Rows | None, local: Rows | None = None) -> PhotoDescriptors:
    """Return a photo as an extractor gives it."""
    descriptors = LocalDescriptors(vectors=np.empty((0, 0), np.float32) if local is None else local)
    return PhotoDescriptors(
        name=name,
        descriptors=descriptors,
        global_descriptor=None if vector is None else GlobalDescriptor(vector=vector),
    )


def make(path: Path, rows: Rows, kind: str = "fp32", **settings: Any) -> Path:
    """Make an archive of global vectors alone; photos "000", "001", ..."""
    config = IndexConfig(global_vectors=kind, global_dim=rows.shape[1], **settings)
    with Index.create(path, None, config=config) as index:
        index.add_many(photo(f"{number:03d}", row) for number, row in enumerate(rows))
    return path


def stored(rows: Rows, kind: str) -> NDArray[np.float64]:
    """Return what an archive keeps of vectors, number by number."""
    found = np.zeros(rows.shape)
    for i, row in enumerate(rows):
        step = np.float32(max(abs(row)) / np.float32(127))
        for d, number in enumerate(row):
            if kind == "int8":
                found[i, d] = np.float32(round(number / step) * step) if step else 0.0
            else:
                found[i, d] = np.float16(number) if kind == "fp16" else number
    return found


def by_hand(kept: NDArray[np.float64], query: Rows, names: list[str]) -> list[tuple[str, float]]:
    """Return names and inner products, best first, equal ones by name."""
    scores = []
    for name, row in zip(names, kept, strict=True):
        total = 0.0
        for a, b in zip(row.tolist(), query.tolist(), strict=True):
            total += a * b
        scores.append((-total, name))
    return [(name, -score) for score, name in sorted(scores)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard_images", [64, 7])
def test_equal_to_plain_loops(tmp_path: Path, kind: str, shard_images: int) -> None:
    rows, queries = unit_vectors(40), unit_vectors(8, seed=1)
    path = make(tmp_path / "archive", rows, kind, shard_images=shard_images)
    names = [f"{number:03d}" for number in range(40)]
    kept = stored(rows, kind)
    with Index.open(path) as index:
        assert index.verify() == [] and not index.keeps_local
        assert np.array_equal(index.global_vectors(["007", "002"]), kept[[7, 2]].astype(np.float32))
        for top in (1, 5, 100):
            found = index.search_global(queries, top)
            for query, hits in zip(queries, found, strict=True):
                wanted = by_hand(kept, query, names)[:top]
                assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted], abs=1e-15)
                if query.any():
                    assert [hit.name for hit in hits] == [name for name, _ in wanted]
        zeros = index.search_global(np.zeros((1, DIM)), 3)[0]
        assert [(hit.name, hit.score) for hit in zeros] == [("000", 0.0), ("001", 0.0), ("002", 0.0)]
        own = index.search_global(["005", "010"], 2)
        assert [hit.name for hit in own[0]] == ["005", "006"] and own[1][0].name == "010"


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_in_any_company(tmp_path: Path, kind: str) -> None:
    """Shards, order, other queries, among and removed photos change no bit of a score."""
    rows, queries = unit_vectors(60), unit_vectors(70, seed=3)
    first = make(tmp_path / "a", rows, kind)
    second = tmp_path / "b"
    config = IndexConfig(global_vectors=kind, global_dim=DIM, shard_images=9)
    with Index.create(second, None, config=config) as index:
        index.add("gone", None, global_descriptor=rows[0])
        for number in reversed(range(60)):
            index.add(f"{number:03d}", None, global_descriptor=rows[number])
        index.commit()
        index.remove("gone")
    with Index.open(first) as a, Index.open(second, threads=3) as b:
        expected = a.search_global(queries, 7)
        assert b.search_global(queries, 7) == expected
        assert [b.search_global(query, 7)[0] for query in queries[:5]] == expected[:5]
        among = ["003", "017", "059"]
        scores = {hit.name: hit.score for hit in a.search_global(queries[:1], 60)[0]}
        found = b.search_global(queries[:1], 9, among=among)[0]
        assert sorted(found, key=lambda hit: hit.name) == [Hit(name, scores[name]) for name in among]
        assert b.search_global(queries[:1], 9, among=[]) == [[]]


def test_near_equal_vectors_are_ordered_exactly(tmp_path: Path) -> None:
    """Inner products that float32 cannot tell apart are ordered as in float64."""
    rng = np.random.default_rng(4)
    base = rng.normal(size=512)
    rows = np.tile(base / np.linalg.norm(base), (300, 1)).astype(np.float32)
    for number in range(300):
        rows[number, number] = np.nextafter(rows[number, number], np.float32(2.0))
    query = rng.normal(size=512).astype(np.float32)
    path = make(tmp_path / "archive", rows)
    exact = rows.astype(np.float64) @ query.astype(np.float64)
    names = [f"{number:03d}" for number in range(300)]
    with Index.open(path) as index:
        hits = index.search_global(query, 10)[0]
    wanted = by_hand(rows.astype(np.float64), query, names)[:10]
    assert len(set(np.float32(exact))) < 290 < len(set(exact))
    assert {hit.name for hit in hits} == {name for name, _ in wanted}


@pytest.fixture
def both(tmp_path: Path, make_codebook: Callable[..., Codebook]) -> Path:
    """An archive with postings and global vectors."""
    rng, rows = np.random.default_rng(0), unit_vectors(10)
    config = IndexConfig(global_vectors="fp16", global_dim=DIM, shard_images=4)
    with Index.create(tmp_path / "both", make_codebook(words=16, dim=32), config=config) as index:
        for number, row in enumerate(rows):
            index.add(f"{number:03d}", rng.normal(size=(6, 32)).astype(np.float32), global_descriptor=row)
    return tmp_path / "both"


def test_beside_postings(both: Path) -> None:
    rows = unit_vectors(10)
    with Index.open(both, writable=True) as index:
        local = index.search("002", 3)
        assert local[0].name == "002" and index.search_global(["002"], 1)[0][0].name == "002"
        index.add("002", np.ones((3, 32)), global_descriptor=-rows[2], replace=True)
        index.remove("004")
        index.commit()
        assert index.search_global(rows[2], 20)[0][-1] == Hit("002", pytest.approx(-1, abs=1e-3))
        assert len(index.search_global(rows[2], 20)[0]) == 9
        expected = index.search_global(rows, 20)
        index.compact(purge=True)
        index.collect_garbage()
        assert index.search_global(rows, 20) == expected and index.verify() == []
        assert len(list((both / "vectors").iterdir())) == len(list((both / "shards").iterdir()))
        info = index.info()
    assert info["format_version"] == 4 and info["global"] == {
        "kept": "fp16",
        "dim": DIM,
        "bytes_each": 2 * DIM,
        "search": "exact",
        "cells": 0,
    }


def test_prepare_compiles_what_a_search_needs(tmp_path: Path, both: Path) -> None:
    from ctxdeploy.index.kernels import inner

    loops = [inner.near_products, inner.near_products_of_halves, inner.inner_products]
    alone = [make(tmp_path / kind, unit_vectors(9), kind) for kind in KINDS]
    with Index.create(tmp_path / "empty", None, config=IndexConfig(global_vectors="fp32", global_dim=DIM)) as index:
        index.prepare()
        assert index.search_global(unit_vectors(7)[0]) == [[]]
    for path in (*alone, both):
        with Index.open(path) as index:
            index.prepare()
            compiled = [list(loop.signatures) for loop in loops]
            assert len(index.search_global(unit_vectors(7)[:2])[0]) >= 9
            assert [list(loop.signatures) for loop in loops] == compiled


def test_a_replaced_vector_is_a_change(tmp_path: Path) -> None:
    """Without a codebook the shard stays the same file: its vectors alone say that something changed."""
    rows = unit_vectors(2 + 5)
    path = make(tmp_path / "archive", rows[:1])
    with Index.open(path, writable=True) as index:
        index.add("000", None, global_descriptor=rows[1], replace=True)
    with Index.open(path) as index:
        assert np.array_equal(index.global_vectors(["000"])[0], rows[1]) and len(index) == 1
        assert index.verify() == []


def test_what_is_missing_is_said(tmp_path: Path, both: Path) -> None:
    rows = unit_vectors(8)
    alone = make(tmp_path / "alone", rows)
    with Index.open(alone, writable=True) as index:
        for question in (
            lambda: index.search(np.ones((2, 8))),
            lambda: index.search("001"),
            lambda: index.codebook,
            lambda: index.codebook_path,
            lambda: index.asked(["001"]),
            lambda: index.scores(["001"], ["002"]),
            lambda: list(index.search_all()),
            lambda: index.common_words("001", "002"),
            lambda: index.aggregated(["001"]),
            lambda: index.aggregate(np.ones((2, 8))),
            lambda: index.features(LocalDescriptors(vectors=np.ones((2, 8), np.float32))),
        ):
            with pytest.raises(ConfigError, match="global vectors alone") as caught:
                question()
            assert "\n" not in str(caught.value)
        with pytest.raises(ConfigError, match="'new' has no global descriptor"):
            index.add("new", None)
        with pytest.raises(ConfigError, match="dimension 5, but those of the archive have 19"):
            index.add("new", None, global_descriptor=np.ones(5))
        with pytest.raises(ConfigError, match="length 3: scale it"):
            index.add("new", None, global_descriptor=3 * rows[0])
        with pytest.raises(ConfigError, match="NaN"):
            index.add("new", None, global_descriptor=np.full(DIM, np.nan))
        with pytest.raises(ConfigError, match="not in"):
            index.search_global(["nowhere"])
        with pytest.raises(MismatchError, match="codebook is none here"):
            index.merge(both)
        refused: list[Any] = []
        index.add_many([photo("x", None), photo("y", rows[0])], refused=lambda item, error: refused.append(str(error)))
        assert len(refused) == 1 and "'x' has no global descriptor" in refused[0] and "y" in index
    with Index.open(both) as index:
        assert index.keeps_local
    with pytest.raises(ConfigError, match="without a codebook"):
        Index.create(tmp_path / "none", None)
    with pytest.raises(ConfigError, match="global_dim 0"):
        IndexConfig(global_vectors="fp32")
    with pytest.raises(ConfigError, match="global_dim 3 is not 0"):
        IndexConfig(global_dim=3)
    with pytest.raises(ConfigError, match="global_vectors 'fp8'"):
        IndexConfig(global_vectors="fp8", global_dim=3)


def test_an_archive_without_them_refuses_them(tmp_path: Path, make_archive: Any, make_photos: Any) -> None:
    path = make_archive(make_photos(3))
    with Index.open(path, writable=True) as index:
        with pytest.raises(ConfigError, match="has a global descriptor, but the archive keeps none"):
            index.add("new", np.ones((1, 128)), global_descriptor=unit_vectors(7)[0])
        with pytest.raises(ConfigError, match="keeps no global vectors: make an archive"):
            index.search_global(["000"])
        with pytest.raises(ConfigError, match="keeps no global vectors"):
            index.global_vectors(["000"])
    assert not (path / "vectors").exists()
    assert "global" not in (path / "manifest-000001.json").read_text()


def test_merge_and_other_kinds(tmp_path: Path) -> None:
    rows = unit_vectors(20)
    one, two = make(tmp_path / "one", rows[:12], shard_images=5), make(tmp_path / "two", rows[8:])
    with Index.open(one, writable=True) as index:
        merged = index.merge(two, conflicts="replace")
        assert (merged.added, merged.replaced) == (0, 12)
        index.commit()
        assert np.array_equal(index.global_vectors([f"{number:03d}" for number in range(12)]), rows[8:20])
        assert index.verify() == []
        for other in (make(tmp_path / "half", rows, "fp16"), make(tmp_path / "wide", unit_vectors(9, dim=23))):
            with pytest.raises(MismatchError, match="global_"):
                index.merge(other)


def damaged(path: Path) -> Path:
    """Flip a bit of the first file of vectors."""
    file = sorted((path / "vectors").iterdir())[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_repaired(tmp_path: Path, kind: str) -> None:
    rows = unit_vectors(12)
    path = make(tmp_path / "archive", rows[:5], kind)
    for start in (5, 10):
        with Index.open(path, writable=True) as index:
            index.add_many(photo(f"{start + i:03d}", row) for i, row in enumerate(rows[start : start + 5]))
    file = damaged(path)
    assert [file.name in problem for problem in Index.problems(path)] == [True]
    with Index.open(path, writable=True) as index, pytest.raises(ArchiveError, match=file.name):
        index.compact()
    report = Index.repair(path)
    assert len(report.lost) in (2, 5) and report.unnamed == 0
    with Index.open(path, writable=True) as index:
        numbers = [int(name) for name in report.lost]
        index.add_many(photo(f"{number:03d}", rows[number]) for number in numbers)
        index.commit()
        index.collect_garbage()
        assert index.verify() == [] and len(index) == 12
        assert np.array_equal(
            index.global_vectors([f"{number:03d}" for number in range(12)]), stored(rows, kind).astype(np.float32)
        )
    for file in (path / "vectors").iterdir():
        file.unlink()
    with pytest.raises(ArchiveError, match="repair"):
        Index.open(path)
    assert len(Index.repair(path).lost) == 12


def test_vectors_of_another_shard_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "archive", unit_vectors(10), shard_images=5)
    first, second = sorted((path / "vectors").iterdir())
    data = first.read_bytes(), second.read_bytes()
    first.write_bytes(data[1])
    second.write_bytes(data[0])
    with pytest.raises(ArchiveError, match="shard is"):
        Index.open(path)


def test_snapshots_keep_vectors(tmp_path: Path) -> None:
    rows = unit_vectors(12)
    path = make(tmp_path / "archive", rows, "int8")
    with Index.open(path, writable=True) as index:
        before = index.search_global(rows, 12)
        index.snapshot("before")
        index.remove(["001", "002"])
        index.compact(purge=True)
        index.collect_garbage()
        after = index.search_global(rows, 12)
    with Index.open(path, at="before") as index:
        assert index.search_global(rows, 12) == before != after
    with Index.open(path, writable=True) as index:
        index.remove_snapshot("before")
        index.collect_garbage()
        assert index.search_global(rows, 12) == after and len(list((path / "vectors").iterdir())) == 1


def test_files_are_named_by_their_content(tmp_path: Path) -> None:
    one, two = (make(tmp_path / name, unit_vectors(9), "int8") for name in ("one", "two"))
    (first,), (second,) = ((path / "vectors").iterdir() for path in (one, two))
    assert first.read_bytes() == second.read_bytes() and first.name == second.name
    assert first.stem == hashlib.sha256(first.read_bytes()).hexdigest()


def clustered(count: int, seed: int = 0, dim: int = 32) -> Rows:
    """Return vectors of length 1 around 40 directions."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(40, dim))
    rows = directions[rng.integers(0, 40, count)] + 0.5 * rng.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> GlobalQuantiser:
    """A quantiser with words and cells."""
    config = IndexConfig(global_vectors="pq", global_dim=32, global_search="ivf")
    return GlobalQuantiser.train(clustered(600, 1), config, cells=16)


def quantised(path: Path, rows: Rows, quantiser: GlobalQuantiser, kind: str = "pq", search: str = "ivf") -> Path:
    """Make an archive with a quantiser."""
    config = IndexConfig(global_vectors=kind, global_dim=32, global_search=search, shard_images=90)
    with Index.create(path, None, config=config, quantiser=quantiser) as index:
        index.add_many(photo(f"{number:03d}", row) for number, row in enumerate(rows))
    return path


def test_product_quantisation_by_hand(tmp_path: Path, trained: GlobalQuantiser) -> None:
    """Codes are the nearest words by plain loops, and scores the products with what codes stand for."""
    rows, queries = clustered(70), clustered(20, 5)
    path = quantised(tmp_path / "archive", rows, trained)
    assert trained.parts is not None and trained.parts.shape == (4, 256, 8)
    kept = np.zeros(rows.shape)
    for i, row in enumerate(rows):
        for m, words in enumerate(trained.parts):
            gaps = [sum((float(a) - float(b)) ** 2 for a, b in zip(word, row[8 * m :], strict=False)) for word in words]
            kept[i, 8 * m : 8 * m + 8] = words[gaps.index(min(gaps))]
    names = [f"{number:03d}" for number in range(70)]
    with Index.open(path) as index:
        assert np.array_equal(index.global_vectors(names), kept.astype(np.float32))
        for query, hits in zip(queries, index.search_global(queries, 6), strict=True):
            wanted = by_hand(kept, query, names)[:6]
            assert [hit.name for hit in hits] == [name for name, _ in wanted]
            assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted], abs=1e-14)
        assert index.info()["global"] == {"kept": "pq", "dim": 32, "bytes_each": 6, "search": "ivf", "cells": 16}
        assert index.verify() == []


@pytest.mark.parametrize("kind", ["pq", "fp16"])
def test_cells_are_looked_into(tmp_path: Path, trained: GlobalQuantiser, kind: str) -> None:
    """All cells give what an exact search gives; one cell gives its own photos alone, whatever the shards."""
    rows, queries = clustered(200), clustered(9, 5)
    quantiser = GlobalQuantiser(parts=trained.parts if kind == "pq" else None, cells=trained.cells)
    path = quantised(tmp_path / "archive", rows, quantiser, kind)
    assert trained.cells is not None
    nearest = [min(range(16), key=lambda c: float(((trained.cells[c] - row) ** 2).sum())) for row in rows]
    with Index.open(path, writable=True, threads=2) as index:
        exact = index.search_global(queries, 200)
        assert index.search_global(queries, 200, probes=16) == exact == index.search_global(queries, 200, probes=0)
        for query, hits, complete in zip(queries, index.search_global(queries, 200, probes=1), exact, strict=True):
            cell = min(range(16), key=lambda c: float(((trained.cells[c] - query) ** 2).sum()))
            assert 0 < len(hits) < 200
            assert hits == [hit for hit in complete if nearest[int(hit.name)] == cell]
        index.remove([f"{number:03d}" for number in range(0, 200, 3)])
        some = index.search_global(queries, 30, probes=3)
        index.compact(purge=True)
        assert index.search_global(queries, 30, probes=3) == some and index.verify() == []
        index.collect_garbage()
        with pytest.raises(ConfigError, match="-1 probes"):
            index.search_global(queries, 30, probes=-1)


def test_a_quantiser_belongs_to_its_archive(tmp_path: Path, trained: GlobalQuantiser) -> None:
    rows = clustered(60)
    path = quantised(tmp_path / "archive", rows, trained)
    other = GlobalQuantiser.train(clustered(600, 2), IndexConfig(global_vectors="pq", global_dim=32))
    assert other.cells is None and other.id != trained.id
    stranger = quantised(tmp_path / "stranger", rows, other, search="exact")
    with Index.open(path, writable=True) as index:
        with pytest.raises(MismatchError, match="global_search"):
            index.merge(stranger)
        assert index.merge(quantised(tmp_path / "same", rows[:9], trained), conflicts="replace").replaced == 9
        index.commit()
        index.collect_garbage()
        assert (path / "quantiser.safetensors").exists() and index.verify() == []
    with Index.open(stranger) as index, pytest.raises(ConfigError, match="has no cells"):
        index.search_global(rows, probes=2)
    pq = IndexConfig(global_vectors="pq", global_dim=32)
    for quantiser, text in ((None, "need a quantiser: train"), (trained, "does not fit the archive: global_search")):
        with pytest.raises(ConfigError, match=text):
            Index.create(tmp_path / "new", None, config=pq, quantiser=quantiser)
    with pytest.raises(ConfigError, match="needs a quantiser for"):
        GlobalQuantiser.train(rows, IndexConfig(global_vectors="fp32", global_dim=32))
    with pytest.raises(ConfigError, match="60 global vectors are too few"):
        GlobalQuantiser.train(rows, pq)
    file = path / "quantiser.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert any("quantiser.safetensors is damaged" in problem for problem in Index.problems(path))
    with pytest.raises(ArchiveError, match="quantiser"):
        Index.open(path, writable=True)
    with pytest.raises(ArchiveError, match="put a copy of it in its place"):
        Index.repair(path)


def test_training_does_not_depend_on_threads() -> None:
    config = IndexConfig(global_vectors="pq", global_dim=32, global_search="ivf")
    one, two = (GlobalQuantiser.train(clustered(500, 1), config, threads=count) for count in (1, 3))
    assert one.id == two.id and one.cells is not None and len(one.cells) == 8
