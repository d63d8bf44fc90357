"""The compiled loops beside numpy, at sizes that archives of the other tests do not reach."""

from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxdeploy.index import kernels

LENGTHS = (0, 1, 7, kernels.BLOCK - 1, kernels.BLOCK, kernels.BLOCK + 1, 0, 5 * kernels.BLOCK + 13)


def lists(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Return offsets, images and the words of postings whose lists are shorter and longer than a block."""
    offsets = np.cumsum([0, *LENGTHS]).astype(np.uint32)
    images = np.concatenate([np.sort(rng.permutation(65536)[:length]) for length in LENGTHS]).astype(np.uint16)
    return offsets, images, np.repeat(np.arange(len(LENGTHS)), LENGTHS)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_binary_scores(columns: int) -> None:
    rng = np.random.default_rng(columns)
    offsets, images, words = lists(rng)
    codes = rng.integers(0, 1 << 64, (columns, len(images)), dtype=np.uint64)
    query = rng.integers(0, 1 << 64, (len(LENGTHS), columns), dtype=np.uint64)
    table = rng.random(64 * columns + 1, dtype=np.float32)
    weights = rng.random(len(LENGTHS), dtype=np.float32)
    distances = np.bitwise_count(codes ^ query[words].T).sum(axis=0)
    expected = np.zeros(65536)
    np.add.at(expected, images, table[distances].astype(np.float64) * weights[words])
    for kernel in [kernels.score_codes] + [kernels.score_pairs] * (columns == 2):
        scores = np.zeros(65536, np.float32)
        kernel(offsets, images, codes, np.arange(len(LENGTHS), dtype=np.int32), query, weights, table, scores)
        assert np.allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("dim", [5, 16, 50, 128])
def test_float_scores(dim: int) -> None:
    rng = np.random.default_rng(dim)
    offsets, images, words = lists(rng)
    residues = rng.normal(size=(len(images), dim)).astype(np.float32)
    query = rng.normal(size=(len(LENGTHS), dim)).astype(np.float32)
    weights = rng.random(len(LENGTHS), dtype=np.float32)
    similarity = (residues.astype(np.float64) * query[words]).sum(axis=1)
    expected = np.zeros(65536)
    np.add.at(expected, images, np.where(similarity >= 0, similarity, 0) ** 2 * weights[words])
    scores = np.zeros(65536, np.float32)
    order = np.arange(len(LENGTHS), dtype=np.int32)
    kernels.score_floats(offsets, images, residues, order, query, weights, 2.0, 0.0, scores)
    assert np.allclose(scores, expected, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(-2, 6), max_size=60), st.integers(1, 70))
@settings(max_examples=200, deadline=None)
def test_the_best_are_selected_with_the_lower_place_among_equals(values: list[int], count: int) -> None:
    scores = np.zeros(65536, np.float32)
    scores[: len(values)] = values
    found, places = kernels.select(scores, np.ones(len(values)), count)
    expected = sorted((-value, place) for place, value in enumerate(values) if value > 0)[:count]
    assert sorted(zip((-found).tolist(), places.tolist(), strict=True)) == expected


def test_nan_is_never_selected() -> None:
    scores = np.full(65536, np.nan, np.float32)
    scores[3] = 1
    assert kernels.select(scores, np.ones(10), 5)[1].tolist() == [3]


def test_the_hamming_loop_counts_eight_codes_at_once() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx512_vpopcntdq" not in flags:
        pytest.skip("the processor has no vector popcount")
    fresh = numba.njit(nogil=True, error_model="numpy")(kernels.score_pairs.py_func)  # type: ignore[attr-defined]
    empty = np.zeros((2, 8), np.uint64)
    arrays = (np.zeros(2, np.uint32), np.zeros(8, np.uint16), empty, np.zeros(1, np.int32), empty.T.copy())
    fresh(*arrays, np.ones(1, np.float32), np.zeros(129, np.float32), np.zeros(65536, np.float32))
    (assembly,) = fresh.inspect_asm().values()
    assert "vpopcntq" in assembly and "prefetch" in assembly
