"""The compiled loops beside numpy, at sizes that archives of the other tests do not reach."""

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.index.kernels import batch as batch_kernels
from ctxdeploy.index.kernels import scores as kernels
from ctxdeploy.index.kernels import select as select_kernels
from ctxdeploy.index.kernels.intrinsics import has_wide_popcount

BLOCK = kernels.PAIR_BLOCK
LENGTHS = (0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 0, 5 * BLOCK + 13)
WORDS = np.arange(len(LENGTHS), dtype=np.int32)


def lists(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Return offsets, images and the words of postings whose lists are shorter and longer than a block."""
    offsets = np.cumsum([0, *LENGTHS]).astype(np.uint32)
    images = np.concatenate([np.sort(rng.permutation(65536)[:length]) for length in LENGTHS]).astype(np.uint16)
    return offsets, images, np.repeat(WORDS, LENGTHS)


def entries(queries: int) -> tuple[Any, Any]:
    """Return starts and owners where each of the queries has each of the words."""
    return np.arange(len(LENGTHS) + 1) * queries, np.tile(np.arange(queries), len(LENGTHS))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_binary_scores(columns: int) -> None:
    rng = np.random.default_rng(columns)
    offsets, images, words = lists(rng)
    begins, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    codes = rng.integers(0, 1 << 64, (columns, len(images)), dtype=np.uint64)
    query = rng.integers(0, 1 << 64, (3 * len(LENGTHS), columns), dtype=np.uint64)
    table = rng.random(64 * columns + 1, dtype=np.float32)
    table[80 * columns // 2 :] = 0
    weights = np.repeat(rng.random(len(LENGTHS), dtype=np.float32), 3)
    starts, owners = entries(3)
    lists_of_all = (begins, ends, images, codes, starts, owners, query, weights, table, 0)
    rows = np.zeros((3, 65536), np.float32)
    kernels.score_codes(*lists_of_all, rows)
    for owner in range(3):
        mine = query[owner::3]
        distances = np.bitwise_count(codes ^ mine[words].T).sum(axis=0)
        expected = np.zeros(65536)
        np.add.at(expected, images, table[distances].astype(np.float64) * weights[::3][words])
        assert np.allclose(rows[owner], expected, rtol=1e-6)
        if columns == 2:
            scores = np.zeros(65536, np.float32)
            kernels.score_pairs(begins, ends, images, codes, mine.copy(), weights[::3].copy(), table, scores)
            assert np.array_equal(scores, rows[owner])
    if columns == 2:
        plain = {"_append": batch_kernels._append_plain}
        for kernel in (
            batch_kernels.score_pairs_of_many,
            changed(**plain),
            changed(KEPT=700),
            changed(KEPT=1, **plain),
        ):
            many = np.zeros((3, 65536), np.float32)
            kernel(*lists_of_all, kept_of(3), many)
            assert np.array_equal(many, rows)


def kept_of(queries: int) -> Any:
    """Return the memory that the loop for many queries asks for."""
    return np.zeros(queries * (batch_kernels.KEPT + batch_kernels.SPARE), np.uint32)


def changed(**names: Any) -> Any:
    """Return the loop for many queries with other values of its module's names: as processors without vector popcount
    run it, or with little place for what is kept.
    """

    def compile_anew(function: Any, names: dict[str, Any]) -> Any:
        plain = type(function.py_func)(function.__code__, {**function.py_func.__globals__, **names})
        return numba.njit(nogil=True, error_model="numpy")(plain)

    spend = compile_anew(batch_kernels._spend, names)
    return compile_anew(batch_kernels.score_pairs_of_many, {**names, "_spend": spend})


@pytest.mark.parametrize("weights", ["equal", "by word"])
def test_a_batch_that_fills_its_memory_many_times(weights: str) -> None:
    rng = np.random.default_rng(1)
    queries, words, length = 5, 120, 700
    images = np.concatenate([np.sort(rng.permutation(900)[:length]) for _ in range(words)]).astype(np.uint16)
    codes = rng.integers(0, 1 << 64, (2, len(images)), dtype=np.uint64)
    begins = np.arange(words) * length
    has = rng.random((words, queries)) < 0.7
    starts, owners = np.cumsum([0, *has.sum(axis=1)]), np.nonzero(has)[1].copy()
    query = rng.integers(0, 1 << 64, (len(owners), 2), dtype=np.uint64)
    drawn = np.ones(words, np.float32) if weights == "equal" else rng.integers(1, 4, words) / np.float32(3)
    each = np.repeat(drawn, has.sum(axis=1)).astype(np.float32)
    table = rng.random(129, dtype=np.float32)
    arrays = (begins, begins + length, images, codes, starts, owners, query, each, table, 0)
    rows, expected = np.zeros((queries, 1024), np.float32), np.zeros((queries, 1024), np.float32)
    batch_kernels.score_pairs_of_many(*arrays, kept_of(queries), rows)
    kernels.score_codes(*arrays, expected)
    assert has.sum(axis=0).min() * length > 2 * batch_kernels.KEPT
    assert np.array_equal(rows, expected)
    if has_wide_popcount():
        with pytest.raises(numba.TypingError):
            batch_kernels.score_pairs_of_many(*arrays[:5], np.repeat(owners, 2)[::2], *arrays[6:], kept_of(5), rows)


@pytest.mark.parametrize("postings", [1, 15, 16, 17, 40])
def test_lists_at_the_end_of_a_small_shard(postings: int) -> None:
    rng = np.random.default_rng(postings)
    images = np.arange(postings, dtype=np.uint16)
    codes = rng.integers(0, 1 << 64, (2, postings), dtype=np.uint64)
    table = rng.random(129, dtype=np.float32)
    query = rng.integers(0, 1 << 64, (4, 2), dtype=np.uint64)
    begins = np.array([0, postings // 2, postings - 1, postings], np.int64)
    ends = np.array([postings, postings, postings, postings], np.int64)
    starts, owners, weights = np.arange(5), np.zeros(4, np.int64), np.ones(4, np.float32)
    rows, scores = np.zeros((1, 64), np.float32), np.zeros(65536, np.float32)
    arrays = (begins, ends, images, codes, starts, owners, query, weights, table, 0, kept_of(1), rows)
    batch_kernels.score_pairs_of_many(*arrays)
    kernels.score_pairs(begins, ends, images, codes, query, weights, table, scores)
    assert np.array_equal(rows[0], scores[:64]) and rows.any()


def test_numbers_of_a_damaged_shard_stay_within_the_scores() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 65536, 5000).astype(np.uint16)
    codes, query = np.zeros((2, 5000), np.uint64), np.zeros((1, 2), np.uint64)
    begins, ends, one = np.array([0]), np.array([5000]), np.ones(1, np.float32)
    rows = np.zeros((1, 16), np.float32)
    table = np.ones(129, np.float32)
    arrays = (begins, ends, images, codes, np.array([0, 1]), np.array([0]), query, one, table, 100)
    batch_kernels.score_pairs_of_many(*arrays, kept_of(1), rows)
    again = np.zeros((1, 16), np.float32)
    kernels.score_codes(*arrays, again)
    assert rows.sum() == 5000 and np.array_equal(rows, again)
    places = select_kernels.split_lists(np.array([0, 5000], np.uint32), images, np.zeros(1, np.int32), 65536, 30000)
    assert 0 <= places[0] <= 5000


@pytest.mark.parametrize("dim", [5, 16, 50, 128])
def test_float_scores(dim: int) -> None:
    rng = np.random.default_rng(dim)
    offsets, images, words = lists(rng)
    residues = rng.normal(size=(len(images), dim)).astype(np.float32)
    query = rng.normal(size=(2 * len(LENGTHS), dim)).astype(np.float32)
    weights = np.repeat(rng.random(len(LENGTHS), dtype=np.float32), 2)
    starts, owners = entries(2)
    rows = np.zeros((2, 65536), np.float32)
    bounds = (offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64))
    kernels.score_floats(*bounds, images, residues, starts, owners, query, weights, 2.0, 0.0, 0, rows)
    for owner in range(2):
        similarity = (residues.astype(np.float64) * query[owner::2][words]).sum(axis=1)
        expected = np.zeros(65536)
        np.add.at(expected, images, np.where(similarity >= 0, similarity, 0) ** 2 * weights[::2][words])
        assert np.allclose(rows[owner], expected, rtol=1e-4, atol=1e-4)


@given(st.lists(st.lists(st.integers(0, 299), unique=True), min_size=1, max_size=30), st.integers(0, 300))
def test_lists_are_divided_by_photo(photos: list[list[int]], bound: int) -> None:
    offsets = np.cumsum([0, *map(len, photos)]).astype(np.uint32)
    images = np.concatenate([np.sort(np.array(part, np.uint16)) for part in photos])
    places = select_kernels.split_lists(offsets, images, np.arange(len(photos), dtype=np.int32), 300, bound)
    expected = [int(offsets[i]) + sum(photo < bound for photo in part) for i, part in enumerate(photos)]
    assert places.tolist() == expected


@given(st.lists(st.integers(-2, 6), max_size=60), st.integers(1, 70), st.integers(0, 700))
def test_the_best_are_selected_with_all_that_equal_the_last(values: list[int], count: int, gap: int) -> None:
    scores = np.zeros(len(values) + gap, np.float32)
    scores[gap:] = values
    found, places = select_kernels.select(scores, np.ones(len(scores)), 2.0, count, 0.0)
    positive = sorted((2.0 * value for value in values if value > 0), reverse=True)
    last = positive[:count][-1] if positive else 0.0
    expected = [(2.0 * value, place + gap) for place, value in enumerate(values) if value > 0 and 2.0 * value >= last]
    assert list(zip(found.tolist(), places.tolist(), strict=True)) == expected


def test_what_is_no_number_and_what_is_removed_is_never_selected() -> None:
    scores = np.full(65536, np.nan, np.float32)
    scores[3:7] = 1, np.inf, 2, -1
    factors = np.ones(65536)
    factors[5] = 0
    assert select_kernels.select(scores, factors, 1.0, 5, 0.0)[1].tolist() == [3]


@pytest.mark.parametrize("kernel", [kernels.score_pairs, batch_kernels.score_pairs_of_many])
def test_the_hamming_loops_count_eight_codes_at_once(kernel: Any) -> None:
    if not has_wide_popcount():
        pytest.skip("the processor has no vector popcount")
    fresh = numba.njit(nogil=True, error_model="numpy")(kernel.py_func)
    fresh.compile(kernel.signatures[0] if kernel.signatures else signature(kernel))
    (assembly,) = fresh.inspect_asm().values()
    assert "vpopcntq" in assembly and "prefetch" in assembly
    assert kernel is kernels.score_pairs or "vpcompressd" in assembly


def signature(kernel: Any) -> Any:
    """Return the types of a call of the loop."""
    bounds, images, codes = np.zeros(1, np.int64), np.zeros(1, np.uint16), np.zeros((2, 1), np.uint64)
    floats, scores = np.zeros(129, np.float32), np.zeros((1, 65536), np.float32)
    if kernel is kernels.score_pairs:
        arguments: tuple[Any, ...] = (bounds, bounds, images, codes, codes.T.copy(), floats, floats, scores[0])
    else:
        owners = np.zeros(1, np.int64)
        code = codes.T.copy()
        arguments = (bounds, bounds, images, codes, np.zeros(2, np.int64), owners, code, floats, floats, 0)
        arguments = (*arguments, kept_of(1), scores)
    return tuple(map(numba.typeof, arguments))
