"""Query expansion: the first hits ask too, with their stored codes, each as much as it resembles the query.

final(x) = s(q, x) + b · Σ w(t) · s(t, x) over hits t, w(t) = min(1, s(q, t) / (r · own)), where ``own`` is the score
that the query's own photo would have. (Average query expansion: Chum et al., ICCV 2007; α-weighted: Radenović et al.,
PAMI 2019.)

A hit that scores like an unrelated photo has next to no weight, so that a photo without a partner is not expanded by
noise. Weights relative to the first hit would do so too, unless the query's photo or a copy of it is in the archive:
then that is the first hit, 100 times above all others.
"""

from collections.abc import Sequence

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.config import Hit

# Hits that ask at most: their weights matter less and less, and each costs a scan.
MOST = 64
# b and r above.
WEIGHT = 1.0
FULL = 0.03
# A hit from this share of ``own`` on is the query's photo or a copy: it asks, but does not count among the N.
_COPY = 0.3


def checked_expand(expand: int) -> int:
    """Return the number of hits that ask; ``ConfigError`` unless it is a whole number in 0..64."""
    if isinstance(expand, bool) or not isinstance(expand, int) or not 0 <= expand <= MOST:
        raise ConfigError(f"{expand!r} hits are to expand the query: give --expand as a whole number in 0..{MOST}")
    return expand


def expanding(hits: Sequence[Hit], own: float, count: int) -> list[tuple[str, float]]:
    """Return the names of hits that ask too, and their coefficients.

    Args:
        hits: of the query, without the query itself; 2·count at least, if there are so many.
        own: the score that the query's own photo would have.
        count: N.
    """
    copies = [hit.name for hit in hits if hit.score >= _COPY * own][:count]
    others = [hit for hit in hits if hit.score < _COPY * own][:count]
    return [(name, WEIGHT) for name in copies] + [
        (hit.name, WEIGHT * min(1.0, hit.score / (FULL * own))) for hit in others
    ]
