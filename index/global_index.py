"""Search by global vectors: the photos whose vectors have the largest inner products with a query's.

Every vector is compared in float32 by whatever instructions and sums are fastest; how far such a sum can be off is
known, and the photos that so may be among the best are compared again in float64, in one order. So hits and scores are
the same with every processor, on any number of threads, in any shards and in any company. Where the archive has cells,
only the photos of those nearest to the query are compared, which may miss some.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.config import Hit
from ctxdeploy.index.ranking import Part, merge
from ctxdeploy.index.storage.shard import Shard
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.storage.vectors import GlobalVectors
from ctxdeploy.index.threads import ALONE, SearchThreads

# Fewer photos are compared one and all: 30 ms at 2048 numbers of float32.
MIN_IVF_PHOTOS = 1 << 15
# Queries that are searched together; from so many on, widened vectors are multiplied by BLAS, below each is read where
# it lies. Bytes of vectors at a time, which stay in the processor's cache, and photos of a thread's task.
_TOGETHER = 64
_FOR_BLAS = 16
_BLOCK_BYTES = 1 << 21
_TASK_PHOTOS = 1 << 12
# No kept vector is longer: lengths of 0.99 to 1.01 are taken, and int8 rounds each number by half a step at most.
_LONGEST = {"fp32": 1.05, "fp16": 1.05, "int8": 1.5}


class _Near(NamedTuple):
    """What float32 found in a shard: approximate scores, and numbers in the state."""

    scores: NDArray[np.float32]
    numbers: NDArray[np.int64]


def checked_probes(state: State, probes: Any) -> int:
    """Return into how many cells a search looks, 0 for all photos.

    Raises:
        ConfigError: not a whole number from 0 on, or cells where the archive has none.
    """
    cells = None if state.quantiser is None else state.quantiser.cells
    if probes is None:
        return 0 if state.quantiser is None or len(state) < MIN_IVF_PHOTOS else state.quantiser.probes
    if isinstance(probes, bool) or not isinstance(probes, (int, np.integer)) or probes < 0:
        raise ConfigError(f"{probes!r} probes: give a whole number of cells, or 0 to compare all photos")
    if probes and cells is None:
        raise ConfigError(
            f"{probes} probes, but the archive has no cells: it was not made with --global-cells (global_search 'ivf')"
        )
    return min(int(probes), 0 if cells is None else len(cells))


def search_global(
    state: State,
    queries: NDArray[np.float32],
    top: int,
    *,
    among: Sequence[NDArray[np.int64]] | None = None,
    threads: SearchThreads = ALONE,
    probes: int = 0,
) -> list[list[Hit]]:
    """Return for each query the ``top`` photos of the largest inner products; equal ones: by name (its bytes).

    Args:
        state: of an archive with global vectors.
        queries: Q×D' float32, finite.
        top: hits at most; an inner product may be below 0.
        among: rising numbers in each shard of the photos that may be hits, all of which are compared; None for all.
        threads: that compare.
        probes: cells to look into; 0 for all photos.
    """
    wanted = min(top, max(len(state), 1))
    errors = _errors(state, queries)
    near: list[list[_Near]] = [[] for _ in queries]
    if probes and among is None:
        for query, error, parts, cells in zip(queries, errors, near, _cells(state, queries, probes), strict=True):
            for number, shard in enumerate(state.shards):
                _scan(state, number, _photos_in(shard, cells), query[None], [error], wanted, [parts], threads)
    else:
        chosen = [np.flatnonzero(shard.live[: len(shard)]) for shard in state.shards] if among is None else among
        for start in range(0, len(queries), _TOGETHER):
            group = slice(start, start + _TOGETHER)
            for number, photos in enumerate(chosen):
                _scan(state, number, photos, queries[group], errors[group], wanted, near[group], threads)
    return [
        merge(state, _compared(state, query, parts, error, wanted), wanted)
        for query, parts, error in zip(queries, near, errors, strict=True)
    ]


def vectors_of(state: State, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the global vectors of photos by number in the state, N×D' float32."""
    found = np.empty((len(numbers), state.manifest.config.global_dim), np.float32)
    shards = np.searchsorted(state.bases, numbers, side="right") - 1
    for number in np.unique(shards).tolist():
        rows = np.flatnonzero(shards == number)
        kept = _kept(state.shards[number]).rows(numbers[rows] - state.bases[number])
        found[rows] = kept.widened(state.quantiser)
    return found


def _cells(state: State, queries: NDArray[np.float32], probes: int) -> NDArray[np.int32]:
    """Return the cells that are nearest to each query, scaled to length 1 as the photos are."""
    if state.quantiser is None:
        raise ValueError("the archive has no cells")
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    scaled = np.divide(queries, lengths, out=np.zeros(queries.shape), where=lengths > 0)
    return state.quantiser.cells_of(scaled.astype(np.float32), probes)


def _photos_in(shard: Shard, cells: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the rising numbers of the photos of these cells."""
    order, starts = _kept(shard).by_cell
    numbers = np.sort(np.concatenate([order[starts[cell] : starts[cell + 1]] for cell in cells.tolist()]))
    live: NDArray[np.int64] = numbers[shard.live[numbers]]
    return live


def _errors(state: State, queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how far an inner product in float32, summed in any order, may be from the exact one, for each query."""
    config, unit = state.manifest.config, 2.0**-24
    longest = _LONGEST.get(config.global_vectors, 0.0) if state.quantiser is None else state.quantiser.longest
    longest = longest or _LONGEST[config.global_vectors]
    terms = config.global_dim + 8
    lengths: NDArray[np.float64] = np.linalg.norm(queries.astype(np.float64), axis=1)
    return lengths * (longest * terms * unit / (1 - terms * unit))


def _scan(
    state: State,
    number: int,
    photos: NDArray[np.int64],
    queries: NDArray[np.float32],
    errors: Sequence[float] | NDArray[np.float64],
    top: int,
    near: list[list[_Near]],
    threads: SearchThreads,
) -> None:
    """Compare photos of a shard with a group of queries; keep for each what may be among the best."""
    if not len(photos):
        return
    shard = state.shards[number]
    # Of most photos of a shard all are read where they lie, of fewer copies of their rows.
    all_of_them = 2 * len(photos) > len(shard)
    numbers = None if all_of_them else photos
    scores = np.empty((len(queries), len(shard) if numbers is None else len(photos)), np.float32)
    compare = _comparison(state, queries)

    def work(start: int) -> None:
        part = slice(start, start + _TASK_PHOTOS)
        kept = _kept(shard)
        size = max(_BLOCK_BYTES // max(state.manifest.config.global_bytes, 1), 1)
        for low in range(start, min(start + _TASK_PHOTOS, scores.shape[1]), size):
            rows = slice(low, min(low + size, part.stop))
            compare(kept.rows(rows if numbers is None else numbers[rows]), scores[:, rows])

    # BLAS has threads of its own.
    helpers = ALONE if len(queries) >= _FOR_BLAS else threads
    helpers.run(work, range(0, scores.shape[1], _TASK_PHOTOS))
    for row, error, parts in zip(scores if numbers is not None else scores[:, photos], errors, near, strict=True):
        best = _candidates(row, top, error)
        parts.append(_Near(row[best], photos[best] + state.bases[number]))


def _comparison(state: State, queries: NDArray[np.float32]) -> Any:
    """Return a function that writes the approximate products of kept vectors with the queries, Q×n."""
    from ctxdeploy.index.kernels import inner

    quantiser = state.quantiser
    if quantiser is not None and quantiser.parts is not None:
        parts = quantiser.parts
        cut = queries.reshape(len(queries), len(parts), -1)
        tables = np.ascontiguousarray(np.einsum("qmd,mwd->qmw", cut, parts, optimize=True))
        loops = [(inner.sum_parts, table) for table in tables]
    else:
        loop = inner.near_products_of_halves if state.manifest.config.global_vectors == "fp16" else inner.near_products
        loops = [(loop, query) for query in np.ascontiguousarray(queries)]

    def compare(kept: GlobalVectors, found: NDArray[np.float32]) -> None:
        given: Any = kept.codes if kept.vectors is None else kept.vectors
        given = given.view(np.uint16 if given.dtype == np.float16 else given.dtype)
        given.flags.writeable = False  # as mapped ones are: one loop is compiled for both
        if kept.codes is None and len(queries) >= _FOR_BLAS:
            if given.dtype == np.uint16:
                wide = np.empty(given.shape, np.float32)
                inner.widen_halves(given, wide)
            else:
                wide = given.astype(np.float32, copy=False)
            np.matmul(queries, wide.T, out=found)
        else:
            for row, (loop, argument) in zip(found, loops, strict=True):
                loop(given, argument, row)
        if kept.steps is not None:
            found *= kept.steps

    return compare


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


def _kept(shard: Shard) -> GlobalVectors:
    if shard.vectors is None:  # the manifest says that there are
        raise ValueError(f"{shard.path} has no global vectors")
    return shard.vectors
