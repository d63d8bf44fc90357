"""Query expansion: the first hits ask too, with their stored codes, each as much as it certainly resembles the query.

    final(x) = s(q, x) + Σ w(t) · s(t, x) over the first N hits t,  w(t) = (s(q, t) / own - 0.01) / 0.01 within 0..1

``own`` is the score that the query's own photo would have. (Average query expansion: Chum et al., ICCV 2007; weighted:
Radenović et al., PAMI 2019. With s(t, t) = 1 in the sum, the hits that ask stay in front.)

Half of the best scores of photos without a partner are below 0.0077 · own, 95 in 100 below 0.016: such a hit asks with
little weight or none, so that no photo is expanded by noise. Weights relative to the first hit do not know noise, and
are nothing where the query's photo is in the archive itself: that is the first hit then, 100 times above all others. It
and its copies do not ask (they have nothing to add, with fewer words than the query), and stay in front with w = 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.config import Hit

# Hits that may ask: each costs a scan.
MOST = 64
# Of ``own``: the scores from which on a hit asks, and asks with full weight; and that of the query's photo or a copy.
_LEAST, _FULL, _COPY = 0.01, 0.02, 0.3
# Copies that are looked for besides the N hits.
COPIES = 4


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """What is added to the scores of a query.

    Attributes:
        asking: names of hits that ask too, and their weights, above 0.
        copies: names of hits that are the query's photo: each has 1 more.
    """

    asking: list[tuple[str, float]]
    copies: list[str]


def checked_expand(expand: int) -> int:
    """Return the number of hits that ask; ``ConfigError`` unless it is a whole number in 0..64."""
    if isinstance(expand, bool) or not isinstance(expand, int) or not 0 <= expand <= MOST:
        raise ConfigError(f"{expand!r} hits are to expand the query: give --expand as a whole number in 0..{MOST}")
    return expand


def expansion(hits: Sequence[Hit], own: float, count: int) -> Expansion:
    """Return how a query is expanded.

    Args:
        hits: of the query, by falling score: ``count + COPIES``, if there are so many.
        own: the score that the query's own photo would have; 0 for a query without words.
        count: N.
    """
    copies = [hit.name for hit in hits if hit.score >= _COPY * own]
    others = [hit for hit in hits if hit.score < _COPY * own][:count]
    weights = [min((hit.score / own - _LEAST) / (_FULL - _LEAST), 1.0) for hit in others]
    asking = [(hit.name, weight) for hit, weight in zip(others, weights, strict=True) if weight > 0]
    return Expansion(asking=asking, copies=copies)
