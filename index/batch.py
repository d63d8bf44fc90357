"""Queries that are scored together: their words in one rising order, each with the codes of those that have it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.codebook.aggregation import Aggregated


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The words of Q queries, U different ones, E in all, and who has them.

    Attributes:
        words: U int32, rising.
        starts: U+1 int64; word i has the entries ``starts[i]`` .. ``starts[i + 1]``.
        owners: E int64, the query of each entry, 0..Q-1.
        codes: E rows, as in ``Aggregated``.
        weights: E float32, of each entry's word.
        scales: Q float64, 1 / sqrt(norm) of each query.
    """

    words: NDArray[np.int32]
    starts: NDArray[np.int64]
    owners: NDArray[np.int64]
    codes: NDArray[np.uint64] | NDArray[np.float32]
    weights: NDArray[np.float32]
    scales: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scales)


def make_batch(queries: Sequence[Aggregated], weights: Sequence[NDArray[np.float32]], scales: Sequence[float]) -> Batch:
    """Sort the words of one or more queries: 64 queries of 1933 words in 1 ms."""
    words = np.concatenate([query.words for query in queries])
    owners = np.repeat(np.arange(len(queries)), [len(query.words) for query in queries])
    codes = np.concatenate([query.codes for query in queries])
    joined = np.concatenate(weights)
    if len(queries) > 1:
        # numpy sorts 16 bits by radix, and codebooks seldom have more words.
        order = np.argsort(words.astype(np.uint16) if words.max() < 1 << 16 else words, kind="stable")
        words, owners, codes, joined = words[order], owners[order], codes.take(order, axis=0), joined[order]
    starts = np.flatnonzero(np.concatenate(([True], words[1:] != words[:-1], [True])))
    return Batch(
        words=words[starts[:-1]],
        starts=starts,
        owners=owners,
        codes=codes,
        weights=joined,
        scales=np.array(scales, np.float64),
    )
