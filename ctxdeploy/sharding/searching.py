"""Searches of all parts of an archive, and how what they find is put together: exactly, by score and name."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.index import Combination, Hit, Scoring, Subset, checked_expand, checked_top, search_expanded
from ctxdeploy.sharding import replies
from ctxdeploy.sharding.lookup import Lookup, to_all
from ctxdeploy.sharding.message import MAX_HITS, MAX_SENT, is_name
from ctxdeploy.sharding.requests import (
    MAX_PHOTOS,
    MAX_PREFIXES,
    GlobalRequest,
    Restriction,
    ScoresRequest,
    SearchRequest,
    SelectRequest,
)
from ctxdeploy.sharding.session import Session

# Queries whose scores of given photos are asked for at once; queries of a search, and hits of a reply.
_SCORED = 256
_SEARCHED = 1 << 12
_FOUND = 1 << 19

# What each part is restricted to.
_Restricted = Callable[[Part], Restriction | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardedSubset(Subset):
    """Some photos of an archive whose shards are elsewhere.

    Attributes:
        counts: how many there are in each part that was asked.
        wanted: of each of these parts, with the names that it holds,
        others: and of the others.
    """

    counts: Mapping[Part, int]
    wanted: Mapping[Part, Restriction]
    others: Restriction

    def __len__(self) -> int:
        """Return the number of photos."""
        return sum(self.counts.values())

    def of(self, part: Part) -> Restriction:
        """Return what a part is restricted to."""
        return self.wanted.get(part, self.others)


class ShardSearch:
    """Searches the parts of an archive for one query.

    Args:
        lookup: what asks the parts.
        session: of the query.
    """

    def __init__(self, lookup: Lookup, session: Session) -> None:
        self._lookup, self._session, self._bare = lookup, session, lookup.bare

    def subset(self, prefixes: Sequence[str], names: Sequence[str] | None) -> ShardedSubset:
        """Return the photos that a restriction leaves; see ``Searches.subset``.

        Where a part does not answer, no name and no prefix is said to be unknown.
        """
        beginnings = tuple(prefix for prefix in prefixes if is_name(prefix))
        given = None if names is None else tuple(dict.fromkeys(name for name in names if is_name(name)))
        if len(beginnings) > MAX_PREFIXES:
            raise ConfigError(f"{len(beginnings):,} prefixes are above {MAX_PREFIXES:,} over shards: give fewer")
        if prefixes and not beginnings:  # no name begins so
            given = given or ()
        whole = Restriction(prefixes=beginnings, names=given)
        listed = given or ()
        read = partial(replies.Selected.read, names=len(listed), prefixes=len(beginnings))
        found = self._lookup.each(self._session, to_all(SelectRequest(among=whole)), read)
        used = {beginnings[row] for one in found.values() for row in one.used.tolist()}
        theirs = {part: tuple(listed[row] for row in one.held.tolist()) for part, one in found.items()}
        held = {name for some in theirs.values() for name in some}
        is_all = not self._session.failed
        return ShardedSubset(
            state=self._bare.state,
            photos=(),
            unknown=tuple(name for name in names or () if name not in held) if is_all else (),
            unused=tuple(prefix for prefix in prefixes if prefix not in used) if is_all else (),
            counts={part: 0 if prefixes and not beginnings else one.photos for part, one in found.items()},
            wanted={
                part: Restriction(prefixes=beginnings, names=None if given is None else some)
                for part, some in theirs.items()
            },
            others=whole,
        )

    def batch(
        self,
        queries: Sequence[Any],
        top: int,
        scoring: Scoring,
        among: Collection[str] | Subset | None,
        expand: int,
        units: Sequence[float] | None,
        first: tuple[int, Sequence[list[Hit]]] | None,
    ) -> list[list[Hit]]:
        """Return the hits of each query; see ``Searches.search_batch``."""
        wanted, count = checked_top(top), checked_expand(expand)
        stored = partial(self._lookup.stored, self._session)
        ready = self._bare.asked_with(queries, stored)
        return search_expanded(
            ready,
            min(wanted, max(len(self._bare), 1)),
            count,
            units=units,
            first=first,
            scoring=scoring,
            searcher=self._bare.searching(scoring, partial(self._lookup.word_counts, self._session)),
            search=partial(self._search, scoring, among),
            stored=stored,
        )

    def _search(
        self,
        scoring: Scoring,
        among: Collection[str] | Subset | None,
        combinations: Sequence[Combination],
        top: int,
        added: Sequence[Mapping[str, float]] | None,
    ) -> list[list[Hit]]:
        counts = self._counts(scoring)
        found: list[list[Hit]] = []
        for cut in _cuts(combinations, _checked(top)):
            queries = list({id(query): query for terms in combinations[cut] for query, _ in terms}.values())
            places = {id(query): place for place, query in enumerate(queries)}
            terms = [[(places[id(query)], value) for query, value in terms] for terms in combinations[cut]]
            request = partial(
                SearchRequest,
                queries=queries,
                combinations=terms,
                top=top,
                scoring=scoring,
                added=None if added is None else added[cut],
                counts=counts,
            )
            found += self._hits(request, len(terms), top, among)
        return found

    def by_global_vectors(
        self, queries: Any, top: int, among: Collection[str] | Subset | None, probes: int | None
    ) -> list[list[Hit]]:
        """Return the hits of each query; see ``Searches.search_global``."""
        self._bare.check_keeps_global()
        wanted = _checked(min(checked_top(top), max(len(self._bare), 1)))
        names = self._bare.names_in(queries)
        find = self._bare.checked_vectors if names is None else partial(self._lookup.vectors, self._session)
        vectors = find(queries if names is None else names)
        cells = self._bare.checked_probes(probes)
        found: list[list[Hit]] = []
        size = max(min(MAX_SENT // (4 * max(vectors.shape[1], 1)), _FOUND // wanted), 1)
        for start in range(0, len(vectors), size):
            some = vectors[start : start + size]
            request = partial(GlobalRequest, vectors=some, top=wanted, probes=cells)
            found += self._hits(request, len(some), wanted, among)
        return found

    def _hits(
        self,
        request: Callable[..., SearchRequest | GlobalRequest],
        searches: int,
        top: int,
        among: Collection[str] | Subset | None,
    ) -> list[list[Hit]]:
        """Return the best of what all parts find in each of so many searches; ``request`` lacks what is restricted."""
        restricted = self._restricted(among)
        read = partial(replies.Hits.read, searches=searches, top=top)
        parts = list(self._lookup.each(self._session, lambda part: request(among=restricted(part)), read).values())
        if among is not None and not isinstance(among, Subset) and not self._session.failed:
            names = _listed(among)
            if sum(part.held for part in parts) < len(names):
                self._lookup.check_found(self._session, names, self._lookup.facts(self._session, names))
        return [merged([part.hits[number] for part in parts], top) for number in range(searches)]

    def scores(self, names: Sequence[str], others: Sequence[str], scoring: Scoring) -> NDArray[np.float64]:
        """Return the score of each of ``others`` for each of ``names``; see ``Searches.scores``."""
        queries = self._lookup.stored(self._session, names)
        counts, wanted = self._counts(scoring), [name for name in dict.fromkeys(others) if is_name(name)]
        table = np.zeros((len(queries), len(wanted)), np.float64)
        found: dict[str, None] = {}
        for first in range(0, len(wanted), MAX_PHOTOS):
            some = wanted[first : first + MAX_PHOTOS]
            for start in range(0, len(queries), _SCORED):
                part = queries[start : start + _SCORED]
                request = ScoresRequest(queries=part, names=some, scoring=scoring, counts=counts)
                read = partial(replies.read_scores, queries=len(part), names=len(some))
                for rows, scores in self._lookup.each(self._session, to_all(request), read).values():
                    table[start : start + len(part), first + rows] = scores
                    found |= dict.fromkeys(some[row] for row in rows.tolist())
        if len(queries):
            self._lookup.check_found(self._session, others, found)
        places = {name: place for place, name in enumerate(wanted)}
        return np.ascontiguousarray(table[:, [places[name] for name in others]])

    def _counts(self, scoring: Scoring) -> NDArray[np.int64] | None:
        if not scoring.idf or not self._bare.state.needs_counts:
            return None
        return self._lookup.word_counts(self._session)

    def _restricted(self, among: Collection[str] | Subset | None) -> _Restricted:
        if among is None:
            return lambda part: None
        if not isinstance(among, Subset):
            names = _listed(among)
            unknown = next((name for name in names if not isinstance(name, str) or not is_name(name)), None)
            if unknown is not None:
                raise self._bare.no_photo(unknown)
            same = Restriction(names=names)
            return lambda part: same
        if not isinstance(among, ShardedSubset) or among.state is not self._bare.state:
            raise ConfigError(
                f"the photos to search among are those of another state of {self._bare.path}: choose anew"
            )
        return among.of


def merged(parts: Sequence[Sequence[Hit]], top: int) -> list[Hit]:
    """Return the best of several lists of hits, by falling score; equal scores: by name (its bytes)."""
    hits = [hit for part in parts for hit in part]
    return sorted(hits, key=lambda hit: (-hit.score, hit.name.encode("utf-8", "surrogateescape")))[:top]


def _listed(among: Collection[str]) -> tuple[str, ...]:
    return (among,) if isinstance(among, str) else tuple(dict.fromkeys(among))


def _checked(top: int) -> int:
    if top > MAX_HITS:
        raise ConfigError(
            f"{top:,} hits are wanted, but over shards there are {MAX_HITS:,} at most: give a lower --top"
        )
    return top


def _cuts(combinations: Sequence[Combination], top: int) -> Iterator[slice]:
    """Yield runs of combinations whose queries, and whose hits, fit into a message each."""
    start, size, queries = 0, 0, 0
    for number, terms in enumerate(combinations):
        more = sum(query.words.nbytes + query.codes.nbytes for query, _ in terms)
        is_full = size + more > MAX_SENT or queries + len(terms) > _SEARCHED or (number - start + 1) * top > _FOUND
        if number > start and is_full:
            yield slice(start, number)
            start, size, queries = number, 0, 0
        size, queries = size + more, queries + len(terms)
    if start < len(combinations):
        yield slice(start, len(combinations))
