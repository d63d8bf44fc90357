"""How a codebook is trained: its size, its sample, and what is measured on it."""

from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.device import Device
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.codebook.assignment import FLAT_WORDS, WORDS_PER_CELL, CellAssigner, Cells, FlatAssigner
from ctxdeploy.index.codebook.faiss_gpu import Holder, gpu_of
from ctxdeploy.index.codebook.gpu_assignment import assigner_of
from ctxdeploy.index.config import MAX_WORDS, Progress
from ctxdeploy.index.inputs import as_vectors
from ctxdeploy.index.threads import ALONE, SearchThreads

MIN_WORDS = 16
# With fewer descriptors than this a word, words are noise.
DESCRIPTORS_PER_WORD = 32
# More than this a word are not used: 4.2M descriptors at 65,536 words.
MAX_PER_WORD = 64
RECALL_SAMPLE = 2000
# Of both recall@1 and recall@5: descriptors of other photos than those it was measured on lose up to 0.004.
WANTED_RECALL = 0.992
# The last fiftieth of the descriptors is not trained with, if that many a word are given: recall is measured on it.
_HELD_OUT = 50
_PER_WORD_TO_HOLD_OUT = 8
_MIN_PROBES = 8
_MAX_PROBES = 128
# Where nothing was measured: recall@5 is 0.998 for descriptors of photos in 1024 cells.
DEFAULT_PROBES = 64
TRAINING_PROBES = 8
_CELL_ITERATIONS = 8


def train(
    vectors: Any,
    words: int | None = None,
    *,
    seed: int = 0,
    iterations: int = 20,
    progress: Progress | None = None,
    threads: int | None = None,
    device: Device | None = None,
) -> tuple[NDArray[np.float32], dict[str, Any], Cells | None]:
    """Return centroids, what a codebook says of its training, and cells; see ``Codebook.train``."""
    array = as_vectors(vectors, None, "codebook training")
    if not all(isinstance(number, (int, np.integer)) for number in (iterations, seed)) or iterations < 1 or seed < 0:
        raise ConfigError(f"iterations {iterations!r} and seed {seed!r}: whole numbers of at least 1 and 0 are needed")
    workers, gpu = checked_threads(threads), gpu_of(device)
    words, explanation = choose_words(len(array), words)
    used, held_out = _split(array, words)
    sample = _draw(used, words * MAX_PER_WORD, seed)
    if len(sample) < len(used):
        explanation += f"; trained on a sample of {len(sample)} ({MAX_PER_WORD} a word)"
    with closing(SearchThreads(workers)) as helpers:
        found = cluster(sample, words, seed=seed, iterations=iterations, progress=progress, threads=helpers, device=gpu)
        centroids, cells = found.centroids, build_cells(found.centroids, seed=seed, threads=helpers, device=gpu)
        on = "training descriptors" if held_out is None else "held-out descriptors"
        probe = _draw(sample if held_out is None else held_out, RECALL_SAMPLE, seed + 1)
        if cells is not None:
            centroids, cells = number_by_cell(centroids, cells)
            cells = _enough_probes(centroids, cells, probe, helpers)
        recall = measured_recall(centroids, cells, probe, on=on, threads=helpers)
    training = {
        "words": words,
        "descriptors": len(sample),
        "descriptors_given": len(array),
        "iterations": found.iterations,
        "seed": seed,
        "quantisation_error": found.error,
        "explanation": explanation,
        **recall,
    }
    return centroids, training, cells


def choose_words(descriptors: int, words: int | None) -> tuple[int, str]:
    """Return the number of words and why, for people.

    Raises:
        ConfigError: fewer descriptors than words, or no valid number.
    """
    if words is not None:
        if isinstance(words, bool) or not isinstance(words, (int, np.integer)) or not 1 <= words <= MAX_WORDS:
            raise ConfigError(f"{words!r} words: give a whole number in 1..{MAX_WORDS}")
        if descriptors < words:
            raise ConfigError(f"{words} words from {descriptors} descriptors: give more photos or fewer words")
        return words, f"{words} words as asked for, from {descriptors} descriptors ({descriptors / words:.1f} a word)"
    if descriptors < MIN_WORDS:
        raise ConfigError(
            f"{descriptors} descriptors are too few for a codebook: at least {MIN_WORDS} are needed; "
            "add photos, or give a codebook (--codebook)"
        )
    fitting = descriptors // DESCRIPTORS_PER_WORD
    chosen = min(MAX_WORDS, max(MIN_WORDS, 1 << max(0, fitting.bit_length() - 1)))
    reason = f"the largest power of two with {DESCRIPTORS_PER_WORD} descriptors a word"
    if chosen == MAX_WORDS:
        reason = f"as many as are useful, with {descriptors / chosen:.0f} descriptors a word"
    elif fitting < MIN_WORDS:
        reason = f"the fewest that make sense; for a good codebook give {MIN_WORDS * DESCRIPTORS_PER_WORD} or more"
    return chosen, f"{chosen} words from {descriptors} descriptors: {reason}"


def _draw(array: NDArray[np.float32], limit: int, seed: int) -> NDArray[np.float32]:
    if len(array) <= limit:
        return array
    # Another stream than that of the first centroids.
    rows = np.random.default_rng([seed, 1]).choice(len(array), limit, replace=False)
    return np.ascontiguousarray(array[np.sort(rows)])


def _split(array: NDArray[np.float32], words: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return what may be trained with and what recall is measured on; None where it is the same."""
    held_out = max(RECALL_SAMPLE, len(array) // _HELD_OUT)
    if words <= FLAT_WORDS or len(array) - held_out < _PER_WORD_TO_HOLD_OUT * words:
        return array, None
    return array[:-held_out], array[-held_out:]


def _enough_probes(
    centroids: NDArray[np.float32], cells: Cells, vectors: NDArray[np.float32], threads: SearchThreads
) -> Cells:
    """Return the cells with the fewest probes (8, then an eighth more each time, 128 at most) of the wanted recall."""
    truth = _nearest(FlatAssigner(centroids), vectors, threads)
    probes = _MIN_PROBES
    while True:
        cells = replace(cells, probes=min(probes, len(cells.centres)))
        at_1, at_5 = _recall(_nearest(CellAssigner(centroids, cells), vectors, threads), truth)
        if min(at_1, at_5) >= WANTED_RECALL or probes >= min(_MAX_PROBES, len(cells.centres)):
            return cells
        probes = min(_MAX_PROBES, probes + probes // 8)


def measured_recall(
    centroids: NDArray[np.float32],
    cells: Cells | None,
    vectors: NDArray[np.float32],
    *,
    on: str,
    threads: SearchThreads = ALONE,
) -> dict[str, Any]:
    """Return how the words are searched, and how often that finds the nearest one, and the nearest five, of all."""
    if cells is None:
        return {"assignment": "flat", "recall_at_1": 1.0, "recall_at_5": 1.0}
    found = _nearest(CellAssigner(centroids, cells), vectors, threads)
    truth = _nearest(FlatAssigner(centroids), vectors, threads)
    at_1, at_5 = _recall(found, truth)
    return {
        "assignment": f"IVF{len(cells.centres)} nprobe {cells.probes}",
        "recall_at_1": at_1,
        "recall_at_5": at_5,
        "recall_sample": len(vectors),
        "recall_on": on,
    }


def _nearest(
    assigner: FlatAssigner | CellAssigner, vectors: NDArray[np.float32], threads: SearchThreads
) -> NDArray[np.int32]:
    return assigner.search(vectors, 5, threads)[0]


def _recall(found: NDArray[np.int32], truth: NDArray[np.int32]) -> tuple[float, float]:
    at_1 = float((found[:, 0] == truth[:, 0]).mean())
    return at_1, float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Clustering:
    """Result of k-means.

    Attributes:
        centroids: W×D float32.
        iterations: how many were run; fewer than asked for when no vector changed its word.
        error: mean squared distance of the vectors to their centroid before the last update.
    """

    centroids: NDArray[np.float32]
    iterations: int
    error: float


def cluster(
    vectors: NDArray[np.float32],
    words: int,
    *,
    seed: int,
    iterations: int,
    progress: Progress | None = None,
    threads: SearchThreads = ALONE,
    device: Holder | None = None,
) -> Clustering:
    """Lloyd's algorithm from ``words`` distinct rows drawn with ``seed``.

    Args:
        vectors: n×D float32, n at least ``words``.
        words: W; above 4096 the assignment goes through cells (6 ms instead of 80 per 1000 vectors at 65,536).
        seed: of the first centroids.
        iterations: at most.
        progress: called with (iterations done, iterations) after each.
        threads: that assign and add; the result is the same with any number.
        device: that compares vectors and words; the result is the same with any, and without.

    An empty word moves to the vector that lies farthest from its own centroid, the next one to the next.
    """
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), words, replace=False))
    centroids = np.ascontiguousarray(vectors[rows])
    cells: Cells | None = None
    previous = np.full(len(vectors), -1, np.int32)
    done, error = 0, 0.0
    while done < iterations:
        if words > FLAT_WORDS:
            cells = _follow(centroids, cells, seed, threads, device)
        found, distances = assigner_of(centroids, cells, device).search(vectors, 1, threads)
        assigned, squared = found[:, 0], distances[:, 0]
        error = float(squared.mean())
        done += 1
        converged = bool(np.array_equal(assigned, previous))
        if not converged:
            centroids = _update(vectors, assigned, squared, words, threads)
        previous = assigned
        if progress is not None:
            progress(iterations if converged else done, iterations)
        if converged:
            break
    return Clustering(centroids=centroids, iterations=done, error=error)


def build_cells(
    centroids: NDArray[np.float32],
    *,
    seed: int = 0,
    probes: int = DEFAULT_PROBES,
    threads: SearchThreads = ALONE,
    device: Holder | None = None,
) -> Cells | None:
    """Partition the words into cells of about 64, or return None where a flat search is as fast (up to 4096 words)."""
    if len(centroids) <= FLAT_WORDS:
        return None
    count = len(centroids) // WORDS_PER_CELL
    found = cluster(centroids, count, seed=seed, iterations=_CELL_ITERATIONS, threads=threads, device=device)
    return fill_cells(centroids, found.centroids, probes, threads=threads, device=device)


def _follow(
    centroids: NDArray[np.float32], cells: Cells | None, seed: int, threads: SearchThreads, device: Holder | None
) -> Cells | None:
    """Follow the centroids with the cells of the last iteration: one update instead of a new clustering."""
    if cells is None:
        return build_cells(centroids, seed=seed, probes=TRAINING_PROBES, threads=threads, device=device)
    found, distances = assigner_of(cells.centres, device=device).search(centroids, 1, threads)
    centres = _update(centroids, found[:, 0], distances[:, 0], len(cells.centres), threads)
    return fill_cells(centroids, centres, TRAINING_PROBES, threads=threads, device=device)


def fill_cells(
    centroids: NDArray[np.float32],
    centres: NDArray[np.float32],
    probes: int,
    *,
    threads: SearchThreads = ALONE,
    device: Holder | None = None,
) -> Cells:
    """Put every word into the cell whose centre is nearest; words of a cell in rising order."""
    cell = assigner_of(centres, device=device).search(centroids, 1, threads)[0][:, 0]
    offsets = np.zeros(len(centres) + 1, np.int32)
    np.cumsum(np.bincount(cell, minlength=len(centres)), out=offsets[1:])
    order = np.argsort(cell, kind="stable").astype(np.int32)
    return Cells(centres=centres, order=order, offsets=offsets, probes=min(probes, len(centres)))


def number_by_cell(centroids: NDArray[np.float32], cells: Cells) -> tuple[NDArray[np.float32], Cells]:
    """Number the words cell after cell, so that a search reads memory in order: 1.3 ms a call less at 65,536 words."""
    return centroids[cells.order], replace(cells, order=np.arange(len(centroids), dtype=np.int32))


def _update(
    vectors: NDArray[np.float32],
    assigned: NDArray[np.int32],
    squared: NDArray[np.float64],
    words: int,
    threads: SearchThreads,
) -> NDArray[np.float32]:
    from ctxdeploy.index.kernels import build as build_kernels

    sums = np.zeros((words, vectors.shape[1]), np.float64)
    counts = np.zeros(words, np.int64)
    vectors = vectors.view()
    vectors.flags.writeable = False  # as centroids are, which are clustered too: one loop is compiled for both
    parts = min(threads.count, words)

    def add(part: int) -> None:  # each thread has words of its own, so that every sum has one order
        bounds = words * part // parts, words * (part + 1) // parts
        build_kernels.sum_by_word(vectors, assigned, sums, counts, *bounds)

    threads.run(add, range(parts))
    centroids = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        centroids[empty] = vectors[_farthest(squared, empty.size)]
    return centroids


def _farthest(squared: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the rows of the ``count`` largest numbers, falling, ties by row, without sorting them all."""
    least = np.partition(squared, len(squared) - count)[len(squared) - count]
    rows = np.flatnonzero(squared >= least)
    return rows[np.argsort(-squared[rows], kind="stable")[:count]]
