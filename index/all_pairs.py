"""Stored photos as queries of the archive that holds them, block by block, without a matrix of all scores."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.batch import Batch
from ctxdeploy.index.config import Hit, Progress, Scoring
from ctxdeploy.index.mirror import KEPT, Mirror, runs
from ctxdeploy.index.ranking import Part, merge
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
    # A GPU goes over all photos in less time than a mirror takes.
    is_mirrored = asked is None and among is None and searcher.device == "cpu"
    kept = _kept_together(state, top, scoring) if is_mirrored else []
    latest: Mirror | None = None

    def mirror_of(shard: int) -> Mirror | None:
        nonlocal latest
        if kept and (latest is None or shard not in latest.shards):
            latest = Mirror(state, next(shards for shards in kept if shard in shards), top)
        return latest

    def ask(block: Block, mirror: Mirror | None) -> list[list[Part]]:
        return _ask(searcher, block, top, scoring, factors, among, mirror)

    def found(block: Block, mirror: Mirror | None, parts: list[list[Part]]) -> list[list[Hit]]:
        return _hits(state, block, parts, top, mirror)

    blocks = iter(_blocks(photos))
    asked_before: list[tuple[Block, Mirror | None, list[list[Part]]]] = []
    while True:
        # What a wave found is put in order beside the next one, when all that it found for each other is there.
        wave = [(block, mirror_of(block[0])) for block in islice(blocks, _WAVE * threads.count)]
        jobs: list[Callable[[], Any]] = [partial(found, *before) for before in asked_before]
        jobs += [partial(ask, *one) for one in wave]
        results = threads.run(_call, jobs)
        for ((shard, numbers), _, _), answers in zip(asked_before, results, strict=False):
            for number, hits in zip(numbers, answers, strict=True):
                yield state.shards[shard].name(int(number)), hits
            done += len(numbers)
            if progress is not None:
                progress(done, total)
        asked_before = [(*one, parts) for one, parts in zip(wave, results[len(asked_before) :], strict=True)]
        if not asked_before:
            return


def _blocks(photos: Sequence[NDArray[np.int64]]) -> Iterator[Block]:
    for shard, numbers in enumerate(photos):
        for begin in range(0, len(numbers), BLOCK):
            yield shard, numbers[begin : begin + BLOCK]


def _call(job: Callable[[], Any]) -> Any:
    return job()


def _kept_together(state: State, top: int, scoring: Scoring) -> list[range]:
    """Return the shards that each mirror is for; none where scores are not the same both ways to the last bit, or more
    hits are wanted than are kept."""
    is_same = state.manifest.config.binary and not scoring.idf
    return runs(state, top) if is_same and top * max(map(len, state.shards), default=0) <= KEPT else []


def _ask(
    searcher: Searcher,
    block: Block,
    top: int,
    scoring: Scoring,
    factors: Sequence[NDArray[np.float64]],
    among: Chosen | None,
    mirror: Mirror | None,
) -> list[list[Part]]:
    """Return what each photo of a block found, in parts; with a mirror not what photos before the block know."""
    state = searcher.state
    shard, numbers = block
    postings = take(state.shards[shard], numbers, None, state.manifest.config)
    rows, batch = _batch(state, postings, len(numbers), scoring)
    found: list[list[Part]] = [[] for _ in numbers]
    if not len(rows):
        return found
    group = Group(rows.tolist(), [batch], [[1.0]] * len(rows), [{}] * len(rows))
    if searcher.device != "cpu":
        return searcher.best([group], len(numbers), top + 1, scoring=scoring, among=among)
    places = numbers[rows] + int(state.bases[shard])
    behind = int(numbers[-1]) + 1 + int(state.bases[shard])
    least = np.zeros(len(rows)) if mirror is None else mirror.least(places)

    def seen(row: int, begin: int, scores: NDArray[np.float32]) -> None:
        skipped = max(behind - begin, 0)
        if mirror is not None and skipped < len(scores):
            mirror.add(int(places[row]), begin + skipped, scores[skipped:])

    for other in range(len(state.shards)):
        if among is not None and not len(among.photos[other]):
            continue
        is_mirrored = mirror is not None and other in mirror.shards
        if is_mirrored and other < shard:
            continue
        low = int(numbers[0]) if is_mirrored and other == shard else 0
        task = Task(other, low, _length(state, other, among), group)
        # One hit more, and all as good as it: each photo itself is left out wherever it stands among equals.
        parts = searcher.scan(task, factors[other], top + 1, scoring, among, least, seen=seen if is_mirrored else None)
        for row, part in zip(rows.tolist(), parts, strict=True):
            found[row].append(part)
    return found


def _hits(state: State, block: Block, parts: Sequence[list[Part]], top: int, mirror: Mirror | None) -> list[list[Hit]]:
    shard, numbers = block
    found = []
    for photo, own in zip((numbers + int(state.bases[shard])).tolist(), parts, strict=True):
        known = own if mirror is None or not own else [*own, mirror.of(photo)]
        found.append(merge(state, known, top, without=photo))
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
