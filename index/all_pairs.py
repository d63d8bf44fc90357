"""Stored photos as queries of the archive that holds them, block by block, without a matrix of all scores."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.batch import Batch
from ctxdeploy.index.config import Hit, Progress, Scoring
from ctxdeploy.index.ranking import merge
from ctxdeploy.index.search import Group, Searcher, Task
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.stored import Chosen, Postings, take
from ctxdeploy.index.threads import SearchThreads

# Photos that are asked together: of 400 words each, of which few are shared, 64 take a fifth longer.
BLOCK = 256
# Blocks that a thread works on before their answers are given.
_WAVE = 4

# A shard, and the rising numbers of some of its photos.
Block = tuple[int, NDArray[np.int64]]


def search_all(
    searcher: Searcher,
    top: int,
    *,
    scoring: Scoring,
    threads: SearchThreads,
    asked: Chosen | None = None,
    among: Chosen | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[str, list[Hit]]]:
    """Yield the name and hits of each photo, itself left out, shard by shard and in a shard by number.

    Args:
        searcher: of the archive.
        top: hits at most.
        scoring: how similarities become scores.
        threads: that share the blocks.
        asked: photos that are queries; None for all.
        among: photos that may be hits; None for all.
        progress: called with photos that are done, and of how many.
    """
    state = searcher.state
    factors = state.factors(scoring.idf)
    photos = [np.flatnonzero(shard.live[: len(shard)]) for shard in state.shards] if asked is None else asked.photos
    total, done = sum(map(len, photos)), 0

    def work(block: Block) -> list[list[Hit]]:
        return _ask(searcher, block, top, scoring, factors, among)

    blocks = iter(_blocks(photos))
    while wave := list(islice(blocks, _WAVE * threads.count)):
        for (shard, numbers), found in zip(wave, threads.run(work, wave), strict=True):
            for number, hits in zip(numbers, found, strict=True):
                yield state.shards[shard].name(int(number)), hits
            done += len(numbers)
            if progress is not None:
                progress(done, total)


def _blocks(photos: Sequence[NDArray[np.int64]]) -> Iterator[Block]:
    for shard, numbers in enumerate(photos):
        for begin in range(0, len(numbers), BLOCK):
            yield shard, numbers[begin : begin + BLOCK]


def _ask(
    searcher: Searcher,
    block: Block,
    top: int,
    scoring: Scoring,
    factors: Sequence[NDArray[np.float64]],
    among: Chosen | None,
) -> list[list[Hit]]:
    state = searcher.state
    shard, numbers = block
    postings = take(state.shards[shard], numbers, None, state.manifest.config)
    rows, batch = _batch(state, postings, len(numbers), scoring)
    found: list[list[Hit]] = [[] for _ in numbers]
    if not len(rows):
        return found
    group = Group(rows.tolist(), [batch], [[1.0]] * len(rows), [{}] * len(rows))
    # One hit more, and all as good as it, so that each photo itself can be left out wherever it stands among equals.
    least = np.zeros(len(rows))
    parts = [
        searcher.scan(
            Task(other, 0, _length(state, other, among), group), factors[other], top + 1, scoring, among, least
        )
        for other in range(len(state.shards))
        if among is None or len(among.photos[other])
    ]
    for place, row in enumerate(rows):
        itself = int(state.bases[shard]) + int(numbers[row])
        found[row] = merge(state, [part[place] for part in parts], top, without=itself)
    return found


def _length(state: State, shard: int, among: Chosen | None) -> int:
    taken = among is not None and among.is_taken(shard)
    return len(among.photos[shard]) if among is not None and taken else len(state.shards[shard])


def _batch(state: State, postings: Postings, count: int, scoring: Scoring) -> tuple[NDArray[np.int64], Batch]:
    """Return the photos that have a norm, and them as queries."""
    sizes = np.diff(postings.starts)
    words = np.flatnonzero(sizes).astype(np.int32)
    weights = np.repeat(state.weights(words, scoring.idf), sizes[words])
    owners = postings.images.astype(np.int64)
    order = np.argsort(postings.images, kind="stable")
    cuts = np.searchsorted(postings.images[order], np.arange(1, count))
    norms = np.array([part.sum(dtype=np.float64) for part in np.split(weights[order], cuts)])
    rows = np.flatnonzero(norms > 0)
    ranks = np.cumsum(norms > 0) - 1
    kept = norms[owners] > 0
    if not kept.all():
        sizes = np.bincount(np.repeat(words, sizes[words])[kept], minlength=len(sizes))
        words = np.flatnonzero(sizes).astype(np.int32)
    codes = postings.codes.T if state.manifest.config.binary else postings.codes
    return rows, Batch(
        words=words,
        starts=np.concatenate([[0], np.cumsum(sizes[words])]).astype(np.int64),
        owners=ranks[owners[kept]],
        codes=np.ascontiguousarray(codes[kept]),
        weights=weights[kept],
        scales=1 / np.sqrt(norms[rows]),
    )
