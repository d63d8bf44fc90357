"""Residual sums and codes of one photo."""

from typing import Any

import numpy as np
import pytest

from ctxdeploy.index.codebook.aggregation import aggregate, code_bits, code_columns


def bits_of(codes: Any, dim: int) -> Any:
    shifts = np.arange(64, dtype=np.uint64)
    return ((codes[:, :, None] >> shifts) & np.uint64(1)).reshape(len(codes), -1)[:, :dim].astype(bool)


@pytest.mark.parametrize("dim", [1, 63, 64, 100, 128, 1024])
@pytest.mark.parametrize("assignment", [1, 3])
def test_equals_a_loop_over_words(dim: int, assignment: int) -> None:
    rng = np.random.default_rng(dim)
    vectors = rng.normal(size=(40, dim)).astype(np.float32)
    centroids = rng.normal(size=(12, dim)).astype(np.float32)
    words = np.array([rng.permutation(12)[:assignment] for _ in range(40)], np.int32)
    sums = {w: (vectors[(words == w).any(axis=1)] - centroids[w]).sum(0) for w in np.unique(words).tolist()}
    binary = aggregate(vectors, words, centroids, binary=True)
    assert binary.words.dtype == np.int32 and binary.words.tolist() == sorted(sums)
    assert binary.codes.dtype == np.uint64 and binary.codes.shape == (len(sums), code_columns(dim))
    assert np.array_equal(bits_of(binary.codes, dim), np.array([sums[w] > 0 for w in sorted(sums)]))
    if dim % 64:
        assert not (binary.codes[:, -1] >> np.uint64(dim % 64)).any()
    floats = aggregate(vectors, words, centroids, binary=False)
    expected = np.array([sums[w] / (np.linalg.norm(sums[w]) + 1e-6) for w in sorted(sums)])
    assert floats.codes.dtype == np.float32 and np.allclose(floats.codes, expected, rtol=1e-6, atol=1e-7)


def test_a_descriptor_counts_once_in_each_of_its_words() -> None:
    vectors, centroids = np.array([[3.0, 0.0], [0.0, 1.0]], np.float32), np.zeros((2, 2), np.float32)
    twice = aggregate(vectors, np.array([[1, 1], [1, 0]], np.int32), centroids, binary=False)
    once = aggregate(vectors, np.array([[1], [1]], np.int32), centroids, binary=False)
    assert np.array_equal(twice.codes[1], once.codes[0])


def test_a_residual_of_zero_has_no_bits_and_no_nan() -> None:
    centroids = np.ones((1, 4), np.float32)
    words = np.zeros((1, 1), np.int32)
    assert aggregate(centroids, words, centroids, binary=True).codes.tolist() == [[0]]
    assert aggregate(centroids, words, centroids, binary=False).codes.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("binary", [True, False])
def test_no_descriptors(binary: bool) -> None:
    nothing = aggregate(
        np.empty((0, 100), np.float32), np.empty((0, 1), np.int32), np.ones((3, 100), np.float32), binary=binary
    )
    assert nothing.words.shape == (0,) and nothing.codes.shape == ((0, 2) if binary else (0, 100))


def test_lengths_of_codes() -> None:
    assert [code_columns(dim) for dim in (1, 64, 65, 128)] == [1, 1, 2, 2]
    assert [code_bits(dim) for dim in (1, 32, 33, 96, 100)] == [32, 32, 64, 96, 128]
