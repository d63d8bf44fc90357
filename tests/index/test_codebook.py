"""Training, assignment and the file of a codebook."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.files import write_file
from ctxdeploy.index import Codebook
from ctxdeploy.index.codebook.assignment import CellAssigner, FlatAssigner
from ctxdeploy.index.codebook.codebook import _identity
from ctxdeploy.index.codebook.training import MAX_PER_WORD, MAX_WORDS, build_cells, choose_words, cluster, fill_cells
from ctxdeploy.index.storage.format import encode, map_file


def vectors(count: int, dim: int = 16, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def test_training_is_reproducible_and_explained() -> None:
    first, second = Codebook.train(vectors(2000), seed=3), Codebook.train(vectors(2000), seed=3)
    assert first.id == second.id and first.training == second.training
    assert Codebook.train(vectors(2000), seed=4).id != first.id
    assert first.centroids.shape == (32, 16) and len(first) == 32 and first.dim == 16
    facts = first.training
    assert (facts["words"], facts["descriptors"], facts["seed"], facts["recall_at_1"]) == (32, 2000, 3, 1.0)
    assert facts["explanation"].startswith("32 words from 2000 descriptors: the largest power of two")
    assert 0 < facts["iterations"] <= 20 and 0 < facts["quantisation_error"] < 16


def test_training_lowers_the_error() -> None:
    data = vectors(3000)
    errors = [cluster(data, 40, seed=0, iterations=count).error for count in (1, 3, 10)]
    assert errors[0] > errors[1] > errors[2]


def test_progress_reaches_its_total() -> None:
    calls: list[tuple[int, int]] = []
    Codebook.train(vectors(200), 16, iterations=5, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (5, 5) and [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_clusters_that_run_empty_move_to_the_farthest_vectors() -> None:
    data = np.concatenate([np.zeros((50, 4)), np.full((1, 4), 9.0), np.full((1, 4), -7.0)]).astype(np.float32)
    found = cluster(data, 4, seed=1, iterations=10)
    assert np.isfinite(found.centroids).all() and found.error == 0.0
    assert {9.0, -7.0, 0.0} <= set(found.centroids[:, 0].tolist())


def test_more_vectors_than_needed_are_sampled() -> None:
    codebook = Codebook.train(vectors(5000, 4), 16, iterations=2)
    assert codebook.training["descriptors"] == 16 * MAX_PER_WORD and codebook.training["descriptors_given"] == 5000
    assert "sample of 1024" in codebook.training["explanation"]


@pytest.mark.parametrize(
    ("descriptors", "words"),
    [(16, 16), (511, 16), (1024, 32), (1500, 32), (32 * MAX_WORDS - 1, MAX_WORDS // 2), (10**9, MAX_WORDS)],
)
def test_chosen_number_of_words(descriptors: int, words: int) -> None:
    assert choose_words(descriptors, None)[0] == words


@pytest.mark.parametrize(
    ("data", "words", "text"),
    [
        (vectors(15), None, "too few"),
        (vectors(15), 16, "16 words from 15"),
        (vectors(15), 0, "0 words: give a whole number in 1"),
        (np.full((20, 4), np.inf), None, "infinity"),
        (np.ones(20), None, "n×D"),
        (np.full((20, 4), "a"), None, "n×D"),
    ],
)
def test_refused_training(data: Any, words: int | None, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Codebook.train(data, words)


def test_one_s_own_centroids() -> None:
    codebook = Codebook.from_centroids([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0]])
    assert codebook.training == {} and codebook.centroids.dtype == np.float32
    assert codebook.assign([[0.9, 0.1], [4, 4]], 2).tolist() == [[1, 0], [2, 0]]
    assert codebook.assign([[0.9, 0.1]], 9).shape == (1, 3)
    assert codebook.assign(np.empty((0, 2)), 2).shape == (0, 2)
    with pytest.raises(ValueError, match="read-only"):
        codebook.centroids[0] = 1
    for wrong in (np.empty((0, 4)), np.ones(3), [[np.nan]]):
        with pytest.raises(ConfigError):
            Codebook.from_centroids(wrong)
    with pytest.raises(ConfigError, match="at least one word"):
        codebook.assign([[0.0, 0.0]], 0)


def test_ties_go_to_the_lower_word() -> None:
    codebook = Codebook.from_centroids([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert codebook.assign([[0.0, 0.0]], 3).tolist() == [[0, 1, 2]]
    assert codebook.assign(np.zeros((50, 2)), 2).tolist() == [[0, 1]] * 50


@pytest.mark.parametrize("words", [300, 5000])
def test_a_descriptor_s_words_do_not_depend_on_its_company(words: int) -> None:
    codebook, data = Codebook.from_centroids(vectors(words, 32)), vectors(90, 32, seed=1)
    together = codebook.assign(data, 5)
    assert np.array_equal(together, np.concatenate([codebook.assign(data[i : i + 1], 5) for i in range(90)]))
    assert np.array_equal(together[:, :1], codebook.assign(data, 1))


def test_exact_assignment_is_the_nearest_in_float64() -> None:
    codebook, data = Codebook.from_centroids(vectors(5000, 8) + 100), vectors(200, 8, seed=1) + 100
    difference = data[:, None].astype(np.float64) - codebook.centroids.astype(np.float64)
    nearest = np.argsort((difference**2).sum(axis=2), axis=1, kind="stable")[:, :5]
    assert np.array_equal(codebook.assign(data, 5, exact=True), nearest)


def test_recall_through_cells_is_measured_and_kept(tmp_path: Path) -> None:
    data = np.repeat(vectors(5000, 8), 2, axis=0) + 0.05 * vectors(10_000, 8, seed=2)
    codebook = Codebook.train(data, 5000, iterations=2)
    facts = codebook.training
    assert (
        facts["assignment"] == f"IVF78 nprobe {codebook.cells.probes}" and facts["recall_on"] == "training descriptors"
    )
    assert facts["recall_at_1"] >= 0.99 and facts["recall_at_5"] >= 0.99 and facts["recall_sample"] == 2000
    codebook.save(tmp_path / "c")
    loaded = Codebook.load(tmp_path / "c")
    assert loaded.cells.probes == codebook.cells.probes and loaded.training == facts
    assert np.array_equal(loaded.assign(data[:300], 5), codebook.assign(data[:300], 5))
    assert b"".join(map(bytes, loaded.encode())) == (tmp_path / "c").read_bytes()


def test_recall_is_measured_on_descriptors_that_were_not_trained_with() -> None:
    data = vectors(45_000, 4)
    first, second = (Codebook.train(data, 5000, iterations=1, threads=threads) for threads in (1, 3))
    assert first.training["recall_on"] == "held-out descriptors" and first.training["descriptors"] == 43_000
    assert first.training["descriptors_given"] == 45_000
    assert first.id == second.id and first.training == second.training
    assert np.array_equal(first.cells.order, np.arange(5000))


def test_recall_of_one_s_own_centroids_is_unknown_until_measured() -> None:
    codebook, data = Codebook.from_centroids(vectors(5000, 8)), vectors(500, 8, seed=1)
    assert codebook.training == {"recall": "not measured"}
    exact = codebook.assign(data, 5, exact=True)
    facts = codebook.measure_recall(data)
    assert codebook.training == facts and facts["recall_sample"] == 500
    assert facts["recall_at_1"] == (codebook.assign(data)[:, 0] == exact[:, 0]).mean()
    with pytest.raises(ConfigError, match="at least one"):
        codebook.measure_recall(data[:0])
    small = Codebook.from_centroids(vectors(20, 8))
    assert small.measure_recall(data) == {"assignment": "flat", "recall_at_1": 1.0, "recall_at_5": 1.0}


def test_cells_too_small_for_the_count_fall_back_to_all_words() -> None:
    centroids = vectors(100, 4)
    assigner = CellAssigner(centroids, fill_cells(centroids, centroids[:50], 1))
    exact = FlatAssigner(centroids).search(vectors(30, 4, seed=3), 40)[0]
    assert np.array_equal(assigner.search(vectors(30, 4, seed=3), 40)[0], exact)
    assert build_cells(centroids) is None


def test_saved_and_loaded(tmp_path: Path) -> None:
    codebook = Codebook.train(vectors(600), seed=1)
    codebook.save(tmp_path / "c.safetensors")
    loaded = Codebook.load(tmp_path / "c.safetensors")
    assert loaded.metadata() == codebook.metadata() and np.array_equal(loaded.centroids, codebook.centroids)
    from safetensors.numpy import load_file

    assert np.array_equal(load_file(tmp_path / "c.safetensors")["centroids"], codebook.centroids)


def test_id_depends_on_the_shape() -> None:
    assert Codebook.from_centroids(np.zeros((2, 3))).id != Codebook.from_centroids(np.zeros((3, 2))).id


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "other"}, "not a codebook"),
        ({"format_version": "4"}, "format_version '4'.*upgrade"),
        ({"format_version": "3"}, "centroids is not W×D float16"),
        ({"id": "0"}, "id is not a sha256"),
        ({"training": "[]"}, "training is not an object"),
        ({"training": "{"}, "damaged"),
        ({"probes": "many"}, "damaged"),
    ],
)
def test_refused_files(tmp_path: Path, change: dict[str, str], text: str) -> None:
    codebook = Codebook.from_centroids(vectors(20))
    facts = {"format": "ctxdeploy-codebook", "format_version": "1", "id": codebook.id, "training": "{}", "probes": "0"}
    write_file(tmp_path / "c", encode({"centroids": codebook.centroids}, {**facts, **change}))
    with pytest.raises(ArchiveError, match=text):
        Codebook.load(tmp_path / "c")


def stored(path: Path, codebook: Codebook, facts: dict[str, str] | None = None, **changed: Any) -> Path:
    """Write a codebook's file with some metadata or tensors (None: without it) replaced."""
    codebook.save(path)
    arrays, metadata = map_file(path)
    tensors = {name: array for name, array in {**arrays, **changed}.items() if array is not None}
    write_file(path, encode(tensors, {**metadata, **(facts or {})}))
    return path


@pytest.fixture(scope="module")
def large() -> Codebook:
    """Return 5000 words in 78 cells."""
    codebook = Codebook.from_centroids(vectors(5000, 8))
    assert codebook.cells is not None and len(codebook.cells.centres) == 78
    return codebook


def changed(array: Any, place: int, value: int) -> Any:
    result = array.copy()
    result[place] = value
    return result


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("order", lambda a: changed(a, 7, 5000), "order does not hold every word once"),
        ("order", lambda a: changed(a, 7, -1), "order does not hold every word once"),
        ("order", lambda a: changed(a, 7, int(a[8])), "order does not hold every word once"),
        ("order", lambda a: a[:-1].copy(), "order is not 5000 int32"),
        ("order", lambda a: a.astype(np.int64), "order is not 5000 int32"),
        ("order", lambda a: None, "order is not 5000 int32"),
        ("cell_offsets", lambda a: changed(a, 0, 1), "cell_offsets do not rise"),
        ("cell_offsets", lambda a: changed(a, -1, 4999), "cell_offsets do not rise"),
        ("cell_offsets", lambda a: changed(a, 3, 5001), "cell_offsets do not rise"),
        ("cell_offsets", lambda a: changed(a, 3, -1), "cell_offsets do not rise"),
        ("cell_offsets", lambda a: a[:-1].copy(), "cell_offsets is not 79 int32"),
        ("cell_offsets", lambda a: None, "cell_offsets is not 79 int32"),
        ("cells", lambda a: a[:, :4].copy(), "cells and centroids have different dimensions"),
        ("cells", lambda a: a[:0].copy(), "cells is not"),
        ("cells", lambda a: np.zeros((5001, 8), np.float32), "cells is not"),
        ("centroids", lambda a: a.astype(np.int32), "centroids is not"),
        ("centroids", lambda a: np.zeros((2, 5000), np.float32), "centroids is not"),
    ],
)
def test_refused_cells(tmp_path: Path, large: Codebook, name: str, change: Any, text: str) -> None:
    tensors = {"order": large.cells.order, "cell_offsets": large.cells.offsets, "cells": large.cells.centres}
    path = stored(tmp_path / "c", large, **{name: change({**tensors, "centroids": large.centroids}[name])})
    with pytest.raises(ArchiveError, match=f"c is damaged: {text}"):
        Codebook.load(path)


@pytest.mark.parametrize("probes", ["0", "-1", "79", "many"])
def test_refused_probes(tmp_path: Path, large: Codebook, probes: str) -> None:
    with pytest.raises(ArchiveError, match="is damaged: "):
        Codebook.load(stored(tmp_path / "c", large, {"probes": probes}))


def test_version_1_has_no_lists_of_words_and_opens_all_the_same(tmp_path: Path, large: Codebook) -> None:
    """They are found again, as every word lies in the cell whose centre is nearest."""
    path = stored(tmp_path / "c", large, {"format_version": "1"}, order=None, cell_offsets=None)
    loaded, data = Codebook.load(path), vectors(200, 8, seed=1)
    assert np.array_equal(loaded.assign(data, 5), large.assign(data, 5))
    assert b"".join(map(bytes, loaded.encode())) == b"".join(map(bytes, large.encode()))
    assert map_file(path)[1]["format_version"] == "1"


def test_a_codebook_without_cells_is_still_version_1(tmp_path: Path) -> None:
    Codebook.from_centroids(vectors(20)).save(tmp_path / "c")
    assert map_file(tmp_path / "c")[1]["format_version"] == "1" and list(map_file(tmp_path / "c")[0]) == ["centroids"]


def test_loading_reads_no_centroids_and_a_check_reads_all(tmp_path: Path, large: Codebook) -> None:
    broken = large.centroids.copy()
    broken[77, 3] += 1
    loaded = Codebook.load(stored(tmp_path / "c", large, centroids=broken))
    assert loaded.id == large.id and not loaded.centroids.flags.owndata and not loaded.centroids.flags.writeable
    with pytest.raises(ArchiveError, match="here is damaged: id does not fit"):
        loaded.check("here")
    Codebook.load(stored(tmp_path / "c", large)).check("here")
    large.check("here")


def test_a_check_refuses_what_is_not_finite(tmp_path: Path, large: Codebook) -> None:
    centroids, centres = large.centroids.copy(), large.cells.centres.copy()
    centroids[4, 0] = np.nan
    centres[4, 0] = np.inf
    loaded = Codebook.load(stored(tmp_path / "c", large, {"id": _identity(centroids)}, centroids=centroids))
    with pytest.raises(ArchiveError, match="here is damaged: centroids"):
        loaded.check("here")
    words = loaded.assign(vectors(50, 8, seed=1), 5)
    assert words.min() >= 0 and words.max() < 5000
    loaded = Codebook.load(stored(tmp_path / "c", large, cells=centres))
    with pytest.raises(ArchiveError, match="here is damaged: cells"):
        loaded.check("here")
    words = loaded.assign(vectors(50, 8, seed=1), 5)
    assert words.min() >= 0 and words.max() < 5000


def test_refused_tensors(tmp_path: Path) -> None:
    facts = {"format": "ctxdeploy-codebook", "format_version": "1", "id": "0" * 64, "training": "{}", "probes": "1"}
    good, wrong = vectors(4), np.zeros(4, np.float32)
    for tensors in (
        {},
        {"centroids": wrong},
        {"centroids": good, "cells": wrong},
        {"centroids": good, "cells": good.T},
    ):
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        write_file(tmp_path / "c", encode(arrays, facts))
        with pytest.raises(ArchiveError, match="damaged"):
            Codebook.load(tmp_path / "c")
    with pytest.raises(ArchiveError, match="missing"):
        Codebook.load(tmp_path / "none")


@pytest.mark.parametrize("words", [300, 4200])
def test_a_compact_file_holds_rounded_centroids_exactly(tmp_path: Path, words: int) -> None:
    made = Codebook.from_centroids(vectors(words))
    codebook = made.rounded()
    assert codebook.id != made.id and np.abs(codebook.centroids - made.centroids).max() < 2e-3
    codebook.save(tmp_path / "full")
    codebook.save(tmp_path / "compact", compact=True)
    arrays, metadata = map_file(tmp_path / "compact")
    assert metadata["format_version"] == "3" and arrays["centroids"].dtype == np.float16
    loaded = Codebook.load(tmp_path / "compact")
    loaded.check("compact")
    assert loaded.id == codebook.id and loaded.training["rounded"] == "float16"
    assert np.array_equal(loaded.centroids, codebook.centroids) and loaded.centroids.dtype == np.float32
    data = vectors(200, seed=1)
    assert np.array_equal(loaded.assign(data, 5), Codebook.load(tmp_path / "full").assign(data, 5))
    with pytest.raises(ValueError, match="read-only"):
        loaded.centroids[0] = 1
    saved = (tmp_path / "compact").stat().st_size / (tmp_path / "full").stat().st_size
    assert saved < (0.7 if words > 4096 else 0.55)
    assert codebook.rounded().id == codebook.id
    loaded.save(tmp_path / "again", compact=True)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "compact").read_bytes()


def test_what_float16_does_not_hold_is_not_written_compactly(tmp_path: Path) -> None:
    codebook = Codebook.from_centroids([[1 / 3, 70_000.0]])
    with pytest.raises(ConfigError, match=r"round them first, with  rounded\(\)"):
        codebook.save(tmp_path / "c", compact=True)
    assert not (tmp_path / "c").exists()
    with pytest.raises(ConfigError, match="infinity"):
        codebook.rounded()
