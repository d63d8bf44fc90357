"""How a codebook is trained: its size, its sample, and what is measured on it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ConfigError
from ctxdeploy.index.assignment import CellAssigner, Cells, FlatAssigner
from ctxdeploy.index.codebook import Codebook
from ctxdeploy.index.config import MAX_WORDS
from ctxdeploy.index.kmeans import DEFAULT_PROBES, Progress, build_cells, cluster
from ctxdeploy.index.vectors import as_vectors

MIN_WORDS = 16
# With fewer descriptors than this a word, words are noise.
DESCRIPTORS_PER_WORD = 32
# More than this a word are not used: 4.2M descriptors at 65,536 words.
MAX_PER_WORD = 64
RECALL_SAMPLE = 2000
WANTED_RECALL = 0.999
_MAX_PROBES = 32


def train(
    vectors: Any, words: int | None = None, *, seed: int = 0, iterations: int = 20, progress: Progress | None = None
) -> Codebook:
    """See ``Codebook.train``."""
    array = as_vectors(vectors, None, "codebook training")
    if iterations < 1 or seed < 0:
        raise ConfigError(f"iterations {iterations} and seed {seed}: at least 1 and 0 are needed")
    words, explanation = choose_words(len(array), words)
    sample = _draw(array, words * MAX_PER_WORD, seed)
    if len(sample) < len(array):
        explanation += f"; trained on a sample of {len(sample)} ({MAX_PER_WORD} a word)"
    found = cluster(sample, words, seed=seed, iterations=iterations, progress=progress)
    cells, recall = _measured_cells(found.centroids, sample, seed)
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
    return Codebook(found.centroids, training=training, cells=cells)


def choose_words(descriptors: int, words: int | None) -> tuple[int, str]:
    """Return the number of words and why, for people.

    Raises:
        ConfigError: fewer descriptors than words, or no valid number.
    """
    if words is not None:
        if isinstance(words, bool) or not 1 <= words <= MAX_WORDS:
            raise ConfigError(f"{words} words are outside 1..{MAX_WORDS}")
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
        reason = f"the most that is useful, with {descriptors / chosen:.0f} descriptors a word"
    elif fitting < MIN_WORDS:
        reason = f"the fewest that make sense; for a good codebook give {MIN_WORDS * DESCRIPTORS_PER_WORD} or more"
    return chosen, f"{chosen} words from {descriptors} descriptors: {reason}"


def _draw(array: NDArray[np.float32], limit: int, seed: int) -> NDArray[np.float32]:
    if len(array) <= limit:
        return array
    # Another stream than that of the first centroids.
    rows = np.random.default_rng([seed, 1]).choice(len(array), limit, replace=False)
    return np.ascontiguousarray(array[np.sort(rows)])


def _measured_cells(
    centroids: NDArray[np.float32], vectors: NDArray[np.float32], seed: int
) -> tuple[Cells | None, dict[str, Any]]:
    """Return the cells with the fewest probes (from 4 on, doubling) that reach the wanted recall, and the recall."""
    cells = build_cells(centroids, seed=seed)
    if cells is None:
        return None, {"assignment": "flat", "recall_at_1": 1.0, "recall_at_5": 1.0}
    sample = _draw(vectors, RECALL_SAMPLE, seed + 1)
    count = min(5, len(centroids))
    truth = FlatAssigner(centroids).search(sample, count)[0]
    probes = DEFAULT_PROBES
    while True:
        cells = Cells(centres=cells.centres, probes=probes)
        found = CellAssigner(centroids, cells).search(sample, count)[0]
        at_1 = float((found[:, 0] == truth[:, 0]).mean())
        at_5 = float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
        if at_1 >= WANTED_RECALL or probes >= _MAX_PROBES:
            name = f"IVF{len(cells.centres)} nprobe {probes}"
            return cells, {"assignment": name, "recall_at_1": at_1, "recall_at_5": at_5, "recall_sample": len(sample)}
        probes *= 2
