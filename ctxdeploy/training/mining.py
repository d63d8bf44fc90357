"""Hard negatives: for every query the most similar photos that show something else, one of a landmark."""

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError

Numbers = NDArray[np.int64]
# Rows of the similarity matrix that exist at a time.
_ROWS = 1024


def hard_negatives(
    queries: NDArray[np.float32],
    query_landmarks: Numbers,
    pool: NDArray[np.float32],
    pool_landmarks: Numbers,
    count: int,
) -> Numbers:
    """Return for each query the most similar photos of the pool, most similar first, each of a landmark of its own.

    The rule of cirtorch (Radenovic, Tolias, Chum, TPAMI 2019): none of the query's landmark, one of every other.

    Args:
        queries: Q×D, normalised.
        query_landmarks: Q.
        pool: M×D, normalised.
        pool_landmarks: M; photos of no known landmark have numbers of their own.
        count: N.

    Returns:
        Q×N positions in the pool.

    Raises:
        ConfigError: the pool holds too few landmarks.
    """
    landmarks = np.unique(pool_landmarks)
    if len(landmarks) - 1 < count:
        raise ConfigError(
            f"{count} negatives of other landmarks than the query's, but the pool has {len(landmarks)} landmarks in "
            "all: ask for fewer with --set negatives=, or add photos"
        )
    order = np.argsort(pool_landmarks, kind="stable")
    starts = np.searchsorted(pool_landmarks[order], landmarks)
    found = []
    for first in range(0, len(queries), _ROWS):
        rows = slice(first, first + _ROWS)
        similarity = (queries[rows] @ pool.T)[:, order]
        best = np.maximum.reduceat(similarity, starts, axis=1)
        best[query_landmarks[rows][:, None] == landmarks[None]] = -np.inf
        chosen = np.argsort(-best, axis=1, kind="stable")[:, :count]
        found.append(_positions(similarity, chosen, starts, order))
    return np.concatenate(found)


def _positions(similarity: NDArray[np.float32], chosen: Numbers, starts: Numbers, order: Numbers) -> Numbers:
    """Return the pool's position of the most similar photo of each chosen landmark, rows×N."""
    ends = np.append(starts[1:], similarity.shape[1])
    result = np.empty_like(chosen)
    for i, row in enumerate(chosen):
        result[i] = [order[starts[c] + np.argmax(similarity[i, starts[c] : ends[c]])] for c in row]
    return result
