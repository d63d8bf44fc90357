"""Query expansion: the first hits ask too, with their stored codes, each as much as it certainly resembles the query.

    final(x) = s(q, x) + Σ w(t) · s(t, x) over the first N hits t
    w(t) = (s(q, t) / u - 1 within 0..1) · (2 s(q, t) / s(q, first hit) within 0..1)

``u`` is what unrelated photos may score. (Average query expansion: Chum et al., ICCV 2007; weighted: Radenović et al.,
PAMI 2019. With s(t, t) = 1 in the sum, the hits that ask stay in front.)

Weights relative to the first hit alone, as published ones are, do not know noise: a photo without a partner is expanded
by the best of many unrelated ones. Without the first hit they do not know that where one scores 25 times as much, a
photo that shares a texture with the query is most likely something else: a hit that asks with its whole weight stands
in front of all that do not. The query's own photo, which is 100 times above all others, and its copies do not ask, for
they have nothing to add, and stay in front; the first hit is the first of the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import counted
from ctxdeploy.index.asked import Asked
from ctxdeploy.index.codebook.aggregation import Aggregated
from ctxdeploy.index.config import Hit, Scoring
from ctxdeploy.index.search import Combination, Searcher

# Hits that may ask: each costs a scan.
MOST = 64
# Copies that are looked for besides the N hits.
COPIES = 4
# u is this times the root of what two random codes have: 0.0025 at 128 bits and the default alpha. Of the photos most
# like a query of another scene, 4 in 5 score less, and 99 in 100 less than 2 u; so for alpha 1 to 5, for codes of one
# word a descriptor and of five (50 scenes of landmarks that the model had not seen; by them alone it would be 0.0021,
# at which minibench's small scenes lost two points).
_UNRELATED = 0.107
# Of the first hit's score: what may ask with its whole weight.
_STRONG = 0.5
# Of the score of the query's own photo: what only that or a copy has. Others are below 0.1, mostly below 0.03.
_COPY = 0.3


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """What is added to the scores of a query.

    Attributes:
        asking: names of hits that ask too, and their weights, above 0.
        copies: names of hits that are the query's photo: each has more by the sum of these weights.
    """

    asking: list[tuple[str, float]]
    copies: list[str]


def checked_expand(expand: int) -> int:
    """Return the number of hits that ask; ``ConfigError`` unless it is a whole number in 0..64."""
    if isinstance(expand, bool) or not isinstance(expand, int) or not 0 <= expand <= MOST:
        raise ConfigError(f"{expand!r} hits are to expand the query: give --expand as a whole number in 0..{MOST}")
    return expand


def checked_units(units: Sequence[float] | None, count: int, usual: float) -> list[float]:
    """Return u of each query, ``usual`` where none are given; ``ConfigError`` unless each is above 0 and finite."""
    if units is None:
        return [usual] * count
    if len(units) != count or not all(0 < unit < math.inf for unit in units):
        raise ConfigError(
            f"units {list(units)!r} of {counted(count, 'query')}: give what unrelated photos score for each, above 0"
        )
    return [float(unit) for unit in units]


@lru_cache(maxsize=16)
def unrelated(scoring: Scoring, dim: int) -> float:
    """Return u, what unrelated photos may score.

    The mean of s^alpha over random codes of D bits falls far faster with alpha than the scores of real photos of
    different things, whose root of it is within 1.25 times the truth from alpha 1 to 5.
    """
    parts, ways = [], 1  # of a code to differ in h of D bits from another, out of 2^D
    for h in range(dim + 1):
        similarity = 1 - 2 * h / dim
        if similarity > 0 and similarity >= scoring.threshold:
            parts.append(ways / 2**dim * similarity**scoring.alpha)
        ways = ways * (dim - h) // (h + 1)
    mean = math.fsum(parts)
    return _UNRELATED * math.sqrt(mean)


def expansion(hits: Sequence[Hit], own: float, count: int, unit: float) -> Expansion:
    """Return how a query is expanded.

    Args:
        hits: of the query, by falling score: ``count + COPIES``, if there are so many.
        own: the score that the query's own photo would have.
        count: N.
        unit: u.
    """
    copies = [hit.name for hit in hits if hit.score >= _COPY * own]
    others = [hit for hit in hits if hit.score < _COPY * own][:count]
    asking = [
        (hit.name, min(hit.score / unit - 1, 1.0) * min(hit.score / (_STRONG * others[0].score), 1.0))
        for hit in others
        if hit.score > unit > 0
    ]
    return Expansion(asking=asking, copies=copies)


# Combinations, hits wanted, and what photos have more, by name, for each combination; see ``Searcher.search_combined``.
Search = Callable[[Sequence[Combination], int, Sequence[Mapping[str, float]] | None], list[list[Hit]]]


def search_expanded(
    asked: Sequence[Asked],
    top: int,
    count: int,
    *,
    units: Sequence[float] | None,
    first: tuple[int, Sequence[list[Hit]]] | None = None,
    scoring: Scoring,
    searcher: Searcher,
    search: Search,
    stored: Callable[[Sequence[str]], list[Aggregated]],
) -> list[list[Hit]]:
    """Return the hits of queries, expanded by ``count`` hits each; 0 for none.

    Args:
        asked: the queries.
        top: hits at most.
        count: N.
        units: u of each query; None for what random codes say.
        first: so many hits at most of each that ``search`` found already; None where it did not.
        scoring: how words and codes are compared.
        searcher: of the archive, whose photos need not be there: it compares queries with themselves.
        search: among the photos that may be hits.
        stored: returns words and codes of stored photos by name.
    """
    combinations: list[Combination] = [[(one.query, 1.0)] for one in asked]
    if not count:
        return search(combinations, top, None)
    owns = [math.fsum(searcher.parts(one.query, one.own, scoring)[1]) for one in asked]
    known = checked_units(units, len(asked), unrelated(scoring, searcher.state.codebook.dim))
    most = count + COPIES
    if first is None or first[0] < most:
        first = (most, search(combinations, most, None))
    best = [hits[:most] for hits in first[1]]
    found = [expansion(hits, own, count, unit) for hits, own, unit in zip(best, owns, known, strict=True)]
    names = list(dict.fromkeys(name for one in found for name, _ in one.asking))  # each is read once
    photos = dict(zip(names, stored(names), strict=True))
    together: list[Combination] = [
        [*combination, *((photos[name], weight) for name, weight in one.asking)]
        for combination, one in zip(combinations, found, strict=True)
    ]
    mores = [math.fsum(weight for _, weight in one.asking) for one in found]
    added = [dict.fromkeys(one.copies, more) if more else {} for one, more in zip(found, mores, strict=True)]
    return search(together, top, added)
