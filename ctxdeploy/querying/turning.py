"""Which way up a query is: the network knows no rotation, so that a photo is asked turned where upright finds nothing.

Measured on minibench's dev split with ``lite-small``, which finds a photo of the scene first for 75, 90 and 73 % of the
queries that are turned by 90, 180 and 270 degrees (``benchmarks/turned.py``): by the rule below it is 247 or 248 of
248 in scenes of four photos or more, and no query that was right upright becomes wrong, small scenes included.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from ctxdeploy.core.types import TURNS
from ctxdeploy.judgement import FOUND

# What an upright answer is given up for: an answer that is certain, or whose best score is so many times as high.
_HIGHER = 2.0


class Turned(Protocol):
    """What a query found, turned or not.

    Attributes:
        best_score: of the whole archive, not expanded; 0 if there is none.
        surest: the highest probability in the archive; None without a judgement.
    """

    @property
    def best_score(self) -> float: ...

    @property
    def surest(self) -> float | None: ...


Found = TypeVar("Found", bound=Turned)


def further_turns(upright: Turned, turn: str) -> tuple[int, ...]:
    """Return the turns that are to be asked beside upright; none if upright is certain, unless ``turn`` is ``all``."""
    if turn == "none" or (turn == "auto" and _is_certain(upright)):
        return ()
    return TURNS[1:]


def choose(upright: Found, turned: Sequence[Found]) -> Found:
    """Return what to answer: upright, unless another turn is certain and surer, or scores far higher."""
    best = max(turned, key=lambda found: found.best_score, default=upright)
    surer = _is_certain(best) and (best.surest or 0.0) > (upright.surest or 0.0)
    return best if surer or best.best_score >= _HIGHER * max(upright.best_score, 1e-12) else upright


def _is_certain(found: Turned) -> bool:
    return found.surest is not None and found.surest >= FOUND
