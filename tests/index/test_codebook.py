"""Training, assignment and the file of a codebook."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.errors import ArchiveError, ConfigError
from ctxdeploy.index import Codebook
from ctxdeploy.index.assignment import CellAssigner, FlatAssigner
from ctxdeploy.index.format import encode
from ctxdeploy.index.kmeans import build_cells, cluster, fill_cells
from ctxdeploy.index.storage import write_file
from ctxdeploy.index.training import MAX_PER_WORD, MAX_WORDS, choose_words


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
        (vectors(15), 0, "outside"),
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
    assert codebook.training["assignment"].startswith("IVF78 nprobe")
    assert codebook.training["recall_at_1"] > 0.99 and codebook.training["recall_at_5"] > 0.9
    codebook.save(tmp_path / "c")
    loaded = Codebook.load(tmp_path / "c")
    assert loaded.cells is not None and codebook.cells is not None and loaded.cells.probes == codebook.cells.probes
    assert np.array_equal(loaded.assign(data[:300], 5), codebook.assign(data[:300], 5))


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
        ({"format_version": "3"}, "format_version '3'.*upgrade"),
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


def test_refused_tensors(tmp_path: Path) -> None:
    facts = {"format": "ctxdeploy-codebook", "format_version": "1", "id": "", "training": "{}", "probes": "0"}
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
