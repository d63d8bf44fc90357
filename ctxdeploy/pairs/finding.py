"""The pairs of an archive: of each photo those others that a search with its archived codes finds first."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.judgement import judgement_of
from ctxdeploy.pairs.bridges import Graph, bridges, by_name, parts_of
from ctxdeploy.pairs.columns import Columns, joined, ranks
from ctxdeploy.pairs.config import PairsConfig
from ctxdeploy.pairs.judging import Judge, matches_of, verifications
from ctxdeploy.pairs.selection import Sequences, selected

if TYPE_CHECKING:
    from ctxdeploy.index import Hit, Index, QueriedIndex

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
        inliers: P int32, see ``Verification``; None if the pairs were not compared by geometry.
        probabilities: P float64, that the two photos show the same; None if no pair was left out by it.
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
    inliers: NDArray[np.int32] | None
    probabilities: NDArray[np.float64] | None
    asked: int
    bridges: NDArray[np.int64]
    parts: int | None = None
    alone: list[str] | None = None
    without_descriptors: int = 0

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Pair]:
        return self.at(np.arange(len(self)))

    @property
    def further(self) -> dict[str, NDArray[Any]]:
        """What is known of each pair besides its score, by name."""
        columns = {"inliers": self.inliers, "probability": self.probabilities}
        return {name: column for name, column in columns.items() if column is not None}

    def at(self, places: NDArray[np.int64]) -> Iterator[Pair]:
        """Yield the pairs at some places."""
        for begin in range(0, len(places), _TOGETHER):
            part = places[begin : begin + _TOGETHER]
            rows = zip(self.first[part].tolist(), self.second[part].tolist(), self.scores[part].tolist(), strict=True)
            for one, other, score in rows:
                yield Pair(self.names[one], self.names[other], score)


def find_pairs(given: "QueriedIndex", config: PairsConfig, display: Display) -> FoundPairs:
    """Return the pairs of an archive: for each photo its best others, each pair once.

    The order is that of the first photos' names, and of each the best pair first; the first of a pair is the photo that
    looked for the other, of two that did the first by name. Equal scores stand in order of names. 29 bytes a pair, and
    the names, are held in memory.

    Args:
        given: the archive.
        config: which pairs.
        display: where progress goes.

    Raises:
        ConfigError: ``queries`` or ``mapped`` name photos that are not in the archive, or its shards are elsewhere.
        ArchiveError: the archive is closed.
    """
    index = whole(given)
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
    search = _Search(graph, config, mapped, display)
    pairs = search.judged(joined([Columns.of([], [], [], bridge=False), *search.pairs()]).once(len(names)))
    if config.least_probability is not None:
        pairs = pairs.at(np.flatnonzero(pairs.probabilities >= config.least_probability))
    part: NDArray[np.int64] | None = None
    if config.connected:
        pairs = joined([pairs, search.judged(_bridges(graph, pairs, display))])
        part = parts_of(len(names), pairs.first, pairs.second)
    pairs = pairs.turned(~(queries[pairs.first] & mapped[pairs.second]))
    if config.symmetric:
        pairs = joined([pairs, pairs.turned(np.ones(len(pairs.scores), np.bool_))])
    pairs = pairs.in_order()
    alone = None if part is None else _alone(graph, part)
    return FoundPairs(
        names=names,
        first=pairs.first,
        second=pairs.second,
        scores=pairs.scores,
        inliers=pairs.inliers if config.verify else None,
        probabilities=None if config.least_probability is None else pairs.probabilities,
        asked=int(queries.sum()),
        bridges=np.flatnonzero(pairs.bridge),
        parts=None if part is None else len(np.unique(part[queries])),
        alone=alone,
        without_descriptors=0 if alone is None else _without_descriptors(index, alone),
    )


class _Search:
    """The search for the pairs of an archive, and what it learns on the way for judging them."""

    def __init__(self, graph: Graph, config: PairsConfig, mapped: NDArray[np.bool_], display: Display) -> None:
        self._graph, self._config, self._display, self._mapped = graph, config, display, mapped
        self._judgement = None if config.least_probability is None else judgement_of(graph.index, keep=False)
        # An archive without geometry is refused before it is searched.
        self._matches = matches_of(graph.index) if config.verify else "words"
        self._levels = np.full(len(graph.names), np.nan)
        self._depth = 0
        if self._judgement is not None and mapped.all():
            self._depth = self._judgement.depth(len(graph.names))

    def pairs(self) -> Iterator[Columns]:
        """Yield the pairs of each photo with its best others, some photos' at once."""
        graph, asked, mapped = self._graph, self._graph.members, self._mapped
        names = None if asked.all() else [graph.names[i] for i in np.flatnonzero(asked)]
        among = None if mapped.all() else [graph.names[i] for i in np.flatnonzero(mapped)]
        top = max(self._config.top + graph.neighbours, self._depth)
        found = graph.index.search_all(top, names=names, among=among)
        with self._display.progress("pairs", int(asked.sum())) as progress:
            while block := list(islice(found, _TOGETHER)):
                yield self._best(block)
                progress.advance(len(block))

    def _best(self, block: "list[tuple[str, list[Hit]]]") -> Columns:
        numbers, hits = self._graph.numbers, [hit for _, found in block for hit in found]
        for name, found in block if self._depth else []:
            if len(found) >= self._depth:
                self._levels[numbers[name]] = found[self._depth - 1].score
        owners = np.repeat([numbers[name] for name, _ in block], [len(found) for _, found in block])
        others = np.fromiter((numbers[hit.name] for hit in hits), np.int32, len(hits))
        pairs = Columns.of(owners, others, [hit.score for hit in hits], bridge=False)
        good = pairs.scores >= self._config.min_score
        if self._graph.sequences is not None:
            good &= ~self._graph.sequences.near(pairs.first, pairs.second, self._graph.frames)
        pairs = pairs.at(np.flatnonzero(good))
        return pairs.at(np.flatnonzero(ranks(pairs.first) < self._config.top))

    def judged(self, pairs: Columns) -> Columns:
        """Return the pairs with their inliers and probabilities, as far as they are asked for."""
        graph = self._graph
        if self._config.verify:
            inliers = pairs.inliers.copy()
            for places, found in verifications(graph.index, graph.names, pairs, self._matches, self._display):
                inliers[places] = [one.inliers for one in found]
            pairs = pairs._replace(inliers=inliers)
        if self._judgement is not None:
            judge = Judge(self._judgement, self._levels, graph.members, self._matches)
            pairs = pairs._replace(probabilities=judge.probabilities(pairs))
        return pairs


def _bridges(graph: Graph, pairs: Columns, display: Display) -> Columns:
    """Return pairs that join the parts that others leave."""
    with display.progress("bridges", None) as progress:
        found = bridges(graph, parts_of(len(graph.names), pairs.first, pairs.second), progress)
    ends = [bridge.first for bridge in found], [bridge.second for bridge in found]
    return Columns.of(*ends, [-bridge.cost for bridge in found], bridge=True)


def _alone(graph: Graph, part: NDArray[np.int64]) -> list[str]:
    members = np.flatnonzero(graph.members)
    sizes = np.bincount(part[members], minlength=len(part))
    return [graph.names[i] for i in members[sizes[part[members]] == 1]]


def whole(given: "QueriedIndex") -> "Index":
    """Return an archive whose shards are here; ``ConfigError`` for another one."""
    from ctxdeploy.index import Index

    if not isinstance(given, Index):
        raise ConfigError(f"pairs of {given.path} are found where its shards are: run  ctxdeploy pairs  there")
    return given


def _without_descriptors(index: "Index", names: list[str]) -> int:
    parts = (names[begin : begin + _TOGETHER] for begin in range(0, len(names), _TOGETHER))
    return sum(len(photo.words) == 0 for part in parts for photo in index.aggregated(part))
