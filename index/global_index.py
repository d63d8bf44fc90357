"""Search by global vectors: the photos whose vectors have the largest inner products with a query's.

Every vector is compared in float32 by whatever instructions and sums are fastest; how far such a sum can be off is
known, and the photos that so may be among the best are compared again in float64, in one order. So hits and scores are
the same with every processor, on any number of threads, in any shards and in any company.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.config import Hit, IndexConfig
from ctxdeploy.index.ranking import Part, merge
from ctxdeploy.index.storage.shard import Shard
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.storage.vectors import GlobalVectors

# Queries that are searched together, and bytes of widened vectors at a time, which stay in the processor's cache.
_TOGETHER = 64
_BLOCK_BYTES = 1 << 21
# No kept vector is longer: lengths of 0.99 to 1.01 are taken, and int8 rounds each number by half a step at most.
_LONGEST = {"fp32": 1.05, "fp16": 1.05, "int8": 1.5}


class _Near(NamedTuple):
    """What float32 found in a shard: approximate scores, and numbers in the state."""

    scores: NDArray[np.float32]
    numbers: NDArray[np.int64]


def search_global(
    state: State, queries: NDArray[np.float32], top: int, *, among: Sequence[tuple[int, int]] | None = None
) -> list[list[Hit]]:
    """Return for each query the ``top`` photos of the largest inner products; equal ones: by name (its bytes).

    Args:
        state: of an archive with global vectors.
        queries: Q×D' float32, finite.
        top: hits at most; an inner product may be below 0.
        among: shard and number of the photos that may be hits; None for all.
    """
    wanted = min(top, max(len(state), 1))
    chosen = _photos(state, among)
    found: list[list[Hit]] = []
    for start in range(0, len(queries), _TOGETHER):
        group = queries[start : start + _TOGETHER]
        errors = _errors(group, state.manifest.config)
        near: list[list[_Near]] = [[] for _ in group]
        for number, photos in enumerate(chosen):
            if len(photos):
                _scan(state, number, photos, group, errors, wanted, near)
        for query, parts, error in zip(group, near, errors, strict=True):
            found.append(merge(state, _compared(state, query, parts, error, wanted), wanted))
    return found


def _photos(state: State, among: Sequence[tuple[int, int]] | None) -> list[NDArray[np.int64]]:
    """Return the rising numbers of the photos of each shard that may be hits."""
    if among is None:
        return [np.flatnonzero(shard.live[: len(shard)]) for shard in state.shards]
    places = np.array(list(among), np.int64).reshape(-1, 2)
    return [np.unique(places[places[:, 0] == number, 1]) for number in range(len(state.shards))]


def _errors(queries: NDArray[np.float32], config: IndexConfig) -> NDArray[np.float64]:
    """Return how far an inner product in float32, summed in any order, may be from the exact one, for each query."""
    unit = 2.0**-24
    terms = config.global_dim + 8
    lengths: NDArray[np.float64] = np.linalg.norm(queries.astype(np.float64), axis=1)
    return lengths * (_LONGEST[config.global_vectors] * terms * unit / (1 - terms * unit))


def _scan(
    state: State,
    number: int,
    photos: NDArray[np.int64],
    queries: NDArray[np.float32],
    errors: NDArray[np.float64],
    top: int,
    near: list[list[_Near]],
) -> None:
    """Compare photos of a shard with a group of queries; keep for each what may be among the best."""
    scores = np.empty((len(queries), len(photos)), np.float32)
    column = 0
    for block in _blocks(state.shards[number], photos, state.manifest.config.global_dim):
        np.matmul(queries, block.T, out=scores[:, column : column + len(block)])
        column += len(block)
    for row, error, parts in zip(scores, errors, near, strict=True):
        kept = _candidates(row, top, error)
        parts.append(_Near(row[kept], photos[kept] + state.bases[number]))


def _blocks(shard: Shard, photos: NDArray[np.int64], dim: int) -> Iterator[NDArray[np.float32]]:
    vectors, size = _kept(shard), max(_BLOCK_BYTES // (4 * dim), 1)
    whole = len(photos) == len(vectors)
    for start in range(0, len(photos), size):
        rows = vectors.rows(slice(start, start + size) if whole else photos[start : start + size])
        yield rows.vectors if rows.vectors.dtype == np.float32 else rows.widened()


def _candidates(scores: NDArray[np.float32], top: int, error: float) -> NDArray[np.int64]:
    """Return the places of scores that may be among the ``top`` best of the exact ones."""
    if len(scores) <= top:
        return np.arange(len(scores))
    bar = float(np.partition(scores, -top)[-top]) - 2 * error
    return np.flatnonzero(scores >= np.nextafter(np.float32(bar), np.float32(-np.inf)))


def _compared(state: State, query: NDArray[np.float32], parts: Sequence[_Near], error: float, top: int) -> list[Part]:
    from ctxdeploy.index.kernels.inner import inner_products

    if not parts:
        return []
    joined = np.concatenate([part.numbers for part in parts])
    numbers = np.sort(joined[_candidates(np.concatenate([part.scores for part in parts]), top, error)])
    scores = np.empty(len(numbers), np.float64)
    size = max(_BLOCK_BYTES // (4 * len(query)), 1)
    for start in range(0, len(numbers), size):
        rows = vectors_of(state, numbers[start : start + size])
        inner_products(rows, np.ascontiguousarray(query), scores[start : start + size])
    sound = np.isfinite(scores)  # of a damaged file they may not be
    return [(scores[sound], numbers[sound])]


def vectors_of(state: State, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the global vectors of photos by number in the state, N×D' float32."""
    found = np.empty((len(numbers), state.manifest.config.global_dim), np.float32)
    shards = np.searchsorted(state.bases, numbers, side="right") - 1
    for number in np.unique(shards).tolist():
        rows = np.flatnonzero(shards == number)
        found[rows] = _kept(state.shards[number]).rows(numbers[rows] - state.bases[number]).widened()
    return found


def _kept(shard: Shard) -> GlobalVectors:
    if shard.vectors is None:  # the manifest says that there are
        raise ValueError(f"{shard.path} has no global vectors")
    return shard.vectors
