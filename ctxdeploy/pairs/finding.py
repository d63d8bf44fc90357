"""The pairs of an archive: of each photo those others that a search with its archived codes finds first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.progress import Display
from ctxdeploy.pairs.bridges import Graph, bridges, by_name, parts_of
from ctxdeploy.pairs.config import PairsConfig
from ctxdeploy.pairs.selection import Sequences, selected

if TYPE_CHECKING:
    from ctxdeploy.index import Hit, Index

# Photos whose hits are cut down together.
_TOGETHER = 4096


class Pair(NamedTuple):
    """Two photos that are worth matching.

    Attributes:
        name, other: of the photos.
        score: of the search for one with the other's archived codes, above 0 and at most 1.
    """

    name: str
    other: str
    score: float


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundPairs:
    """Pairs by photo, of each first photo the best first; 17 bytes a pair.

    Attributes:
        names: of all photos of the archive, in order, byte by byte.
        first, second: P int32, places in ``names``.
        scores: P float64.
        asked: photos that looked for others.
        bridges: pairs that joined parts, best first: places in ``first``.
        parts: how many parts no pair joins, photos by themselves included; None if that was not looked into.
        alone: photos that are in no pair although all were to hang together; None likewise.
        without_descriptors: those of them that have none.
    """

    names: list[str]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    scores: NDArray[np.float64]
    asked: int
    bridges: NDArray[np.int64]
    parts: int | None = None
    alone: list[str] | None = None
    without_descriptors: int = 0

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Pair]:
        return self.at(np.arange(len(self)))

    def at(self, places: NDArray[np.int64]) -> Iterator[Pair]:
        """Yield the pairs at some places."""
        for begin in range(0, len(places), _TOGETHER):
            part = places[begin : begin + _TOGETHER]
            rows = zip(self.first[part].tolist(), self.second[part].tolist(), self.scores[part].tolist(), strict=True)
            for one, other, score in rows:
                yield Pair(self.names[one], self.names[other], score)


class _Columns(NamedTuple):
    """Pairs as columns: numbers of both photos, the score, and whether it is a bridge."""

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    scores: NDArray[np.float64]
    bridge: NDArray[np.bool_]

    @classmethod
    def of(cls, first: object, second: object, scores: object, *, bridge: bool) -> "_Columns":
        columns = np.asarray(first, np.int32), np.asarray(second, np.int32), np.asarray(scores, np.float64)
        return cls(*columns, np.full(len(columns[0]), bridge))

    def at(self, places: NDArray[np.generic]) -> "_Columns":
        return _Columns(*(column[places] for column in self))

    def turned(self, where: NDArray[np.bool_]) -> "_Columns":
        first, second = np.where(where, self.second, self.first), np.where(where, self.first, self.second)
        return _Columns(first, second, self.scores, self.bridge)


def find_pairs(index: "Index", config: PairsConfig, display: Display) -> FoundPairs:
    """Return the pairs of an archive: for each photo its best others, each pair once.

    The order is that of the first photos' names, and of each the best pair first; the first of a pair is the photo that
    looked for the other, of two that did the first by name. Equal scores stand in order of names. 17 bytes a pair, and
    the names, are held in memory.

    Args:
        index: the archive.
        config: which pairs.
        display: where progress goes.

    Raises:
        ConfigError: ``queries`` or ``mapped`` name photos that are not in the archive.
        ArchiveError: the archive is closed.
    """
    names, numbers = by_name(index)
    queries = selected("--queries", config.queries, names, numbers)
    mapped = selected("--mapped", config.mapped, names, numbers)
    graph = Graph(
        index=index,
        names=names,
        numbers=numbers,
        members=queries,
        sequences=Sequences(names) if config.skip_neighbours > 1 else None,
        frames=config.skip_neighbours,
    )
    pairs = _once(_joined([_Columns.of([], [], [], bridge=False), *_hits(graph, config, mapped, display)]), len(names))
    part: NDArray[np.int64] | None = None
    if config.connected:
        pairs, part = _connected(graph, pairs, display)
    pairs = pairs.turned(~(queries[pairs.first] & mapped[pairs.second]))
    if config.symmetric:
        pairs = _joined([pairs, pairs.turned(np.ones(len(pairs.scores), np.bool_))])
    pairs = pairs.at(np.lexsort((pairs.second, -pairs.scores, pairs.first)))
    alone = None if part is None else _alone(graph, part)
    return FoundPairs(
        names=names,
        first=pairs.first,
        second=pairs.second,
        scores=pairs.scores,
        asked=int(queries.sum()),
        bridges=np.flatnonzero(pairs.bridge),
        parts=None if part is None else len(np.unique(part[queries])),
        alone=alone,
        without_descriptors=0 if alone is None else _without_descriptors(index, alone),
    )


def _hits(graph: Graph, config: PairsConfig, mapped: NDArray[np.bool_], display: Display) -> Iterator[_Columns]:
    """Yield the pairs of each photo with its best others, some photos' at once."""
    asked = graph.members
    names = None if asked.all() else [graph.names[i] for i in np.flatnonzero(asked)]
    among = None if mapped.all() else [graph.names[i] for i in np.flatnonzero(mapped)]
    found = graph.index.search_all(config.top + graph.neighbours, names=names, among=among)
    with display.progress("pairs", int(asked.sum())) as progress:
        while block := list(islice(found, _TOGETHER)):
            yield _best(block, graph, config)
            progress.advance(len(block))


def _best(block: "list[tuple[str, list[Hit]]]", graph: Graph, config: PairsConfig) -> _Columns:
    numbers, hits = graph.numbers, [hit for _, found in block for hit in found]
    owners = np.repeat([numbers[name] for name, _ in block], [len(found) for _, found in block])
    others = np.fromiter((numbers[hit.name] for hit in hits), np.int32, len(hits))
    pairs = _Columns.of(owners, others, [hit.score for hit in hits], bridge=False)
    good = pairs.scores >= config.min_score
    if graph.sequences is not None:
        good &= ~graph.sequences.near(pairs.first, pairs.second, graph.frames)
    pairs = pairs.at(np.flatnonzero(good))
    place = np.arange(len(pairs.first))
    begins = np.append(True, pairs.first[1:] != pairs.first[:-1])[: len(place)]
    rank = place - np.maximum.accumulate(np.where(begins, place, 0))
    return pairs.at(np.flatnonzero(rank < config.top))


def _joined(parts: Sequence[_Columns]) -> _Columns:
    return _Columns(*map(np.concatenate, zip(*parts, strict=True)))


def _once(pairs: _Columns, count: int) -> _Columns:
    """Return each pair of ``count`` photos once, its photos in order, with the higher of its scores."""
    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    keys = low.astype(np.int64) * count + high
    order = np.lexsort((-pairs.scores, keys))
    kept = order[np.append(True, np.diff(keys[order]) != 0)[: len(order)]]
    return _Columns(low[kept], high[kept], pairs.scores[kept], pairs.bridge[kept])


def _connected(graph: Graph, pairs: _Columns, display: Display) -> tuple[_Columns, NDArray[np.int64]]:
    """Return the pairs with those that join their parts, and the part of each photo then."""
    count = len(graph.names)
    with display.progress("bridges", None) as progress:
        found = bridges(graph, parts_of(count, pairs.first, pairs.second), progress)
    columns = (
        [bridge.first for bridge in found],
        [bridge.second for bridge in found],
        [-bridge.cost for bridge in found],
    )
    pairs = _joined([pairs, _Columns.of(*columns, bridge=True)])
    return pairs, parts_of(count, pairs.first, pairs.second)


def _alone(graph: Graph, part: NDArray[np.int64]) -> list[str]:
    members = np.flatnonzero(graph.members)
    sizes = np.bincount(part[members], minlength=len(part))
    return [graph.names[i] for i in members[sizes[part[members]] == 1]]


def _without_descriptors(index: "Index", names: list[str]) -> int:
    parts = (names[begin : begin + _TOGETHER] for begin in range(0, len(names), _TOGETHER))
    return sum(len(photo.words) == 0 for part in parts for photo in index.aggregated(part))
