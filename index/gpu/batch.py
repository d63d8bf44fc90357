"""Queries as the loops of a GPU read them: query after query, not word after word as on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.batch import Batch
from ctxdeploy.index.search import Group


@dataclass(frozen=True, kw_only=True, eq=False)
class GpuBatch:
    """Q queries of E words in all, and the M combinations that they are of.

    Attributes:
        starts: Q+1 int64; query q has the entries ``starts[q]`` .. ``starts[q + 1]``.
        words: E int32, rising in each query.
        codes: C×E uint64.
        weights: E float32.
        scales: Q float64, 1 / sqrt(norm).
        coefficients: Q float64.
        terms: M×2 int64; combination m has the queries ``terms[m, 0]`` .. ``terms[m, 1]``.
        numbers: of the combinations, for whoever asked.
        added: of each combination, to the scores of photos by number.
    """

    starts: NDArray[np.int64]
    words: NDArray[np.int32]
    codes: NDArray[np.uint64]
    weights: NDArray[np.float32]
    scales: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    terms: NDArray[np.int64]
    numbers: tuple[int, ...]
    added: tuple[dict[int, float], ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, low: int, high: int) -> "GpuBatch":
        """Return queries ``low`` .. ``high`` of all combinations, whose terms count from ``low``."""
        entries = slice(int(self.starts[low]), int(self.starts[high]))
        return GpuBatch(
            starts=self.starts[low : high + 1] - self.starts[low],
            words=self.words[entries],
            codes=np.ascontiguousarray(self.codes[:, entries]),
            weights=self.weights[entries],
            scales=self.scales[low:high],
            coefficients=self.coefficients[low:high],
            terms=np.clip(self.terms, low, high) - low,
            numbers=self.numbers,
            added=self.added,
        )

    def combinations(self, low: int, high: int) -> "GpuBatch":
        """Return combinations ``low`` .. ``high`` with all of their queries."""
        begin, end = int(self.terms[low, 0]), int(self.terms[high - 1, 1])
        whole = self.part(begin, end)
        return GpuBatch(
            starts=whole.starts,
            words=whole.words,
            codes=whole.codes,
            weights=whole.weights,
            scales=whole.scales,
            coefficients=whole.coefficients,
            terms=whole.terms[low:high],
            numbers=self.numbers[low:high],
            added=self.added[low:high],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """A batch in one array, which is copied to the GPU at once; where each part of it begins, in its own elements.

    Attributes:
        data: int64, of which ``words``, ``weights`` and ``table`` take half of one each.
        starts, terms, scales, coefficients, codes, words, weights: those of ``GpuBatch``.
        table: similarities by Hamming distance, float32.
        entries: E.
    """

    data: NDArray[np.int64]
    starts: int
    terms: int
    scales: int
    coefficients: int
    codes: int
    words: int
    weights: int
    table: int
    entries: int


def pack(batch: GpuBatch, table: NDArray[np.float32]) -> Packed:
    """Return a batch in one array, with the table that its similarities are looked up in."""
    wide: tuple[NDArray[Any], ...] = (batch.starts, batch.terms, batch.scales, batch.coefficients, batch.codes)
    narrow: tuple[NDArray[Any], ...] = (batch.words, batch.weights, table)
    halves = sum(array.size for array in narrow)
    before = np.cumsum([0, *(array.size for array in wide)]).tolist()
    behind = (2 * before[-1] + np.cumsum([0, *(array.size for array in narrow)])).tolist()
    data = np.empty(before[-1] + -(-halves // 2), np.int64)
    for array, place in zip(wide, before, strict=False):
        data[place : place + array.size].view(array.dtype)[:] = array.reshape(-1)
    for array, place in zip(narrow, behind, strict=False):
        data.view(array.dtype)[place : place + array.size] = array
    return Packed(
        data=data,
        starts=before[0],
        terms=before[1],
        scales=before[2],
        coefficients=before[3],
        codes=before[4],
        words=behind[0],
        weights=behind[1],
        table=behind[2],
        entries=len(batch.words),
    )


def make_gpu_batch(groups: Sequence[Group]) -> GpuBatch | None:
    """Return all combinations of some groups as one batch; None if there is none."""
    batches = [batch for group in groups for batch in group.batches]
    if not batches:
        return None
    sizes, words, codes, weights = zip(*map(_by_query, batches), strict=True)
    coefficients = [of for group in groups for of in group.coefficients]
    ends = np.cumsum([0, *map(len, coefficients)], dtype=np.int64)
    return GpuBatch(
        starts=np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64),
        words=np.concatenate(words),
        codes=np.ascontiguousarray(np.concatenate(codes).T),
        weights=np.concatenate(weights),
        scales=np.concatenate([batch.scales for batch in batches]),
        coefficients=np.concatenate(coefficients).astype(np.float64),
        terms=np.stack([ends[:-1], ends[1:]], axis=1),
        numbers=tuple(number for group in groups for number in group.numbers),
        added=tuple(added for group in groups for added in group.added),
    )


def _by_query(
    batch: Batch,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint64], NDArray[np.float32]]:
    """Return how many entries each query of a batch has, and words, codes and weights in the order of the queries."""
    words = np.repeat(batch.words, np.diff(batch.starts))
    codes = batch.codes.astype(np.uint64, copy=False)
    if len(batch) == 1:
        return np.array([len(words)]), words, codes, batch.weights
    sizes = np.bincount(batch.owners, minlength=len(batch))
    # numpy sorts 16 bits by radix.
    owners = batch.owners.astype(np.uint16) if len(batch) < 1 << 16 else batch.owners
    order = np.argsort(owners, kind="stable")
    return sizes, words[order], codes[order], batch.weights[order]
