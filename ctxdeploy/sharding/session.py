"""One query's dealings with the parts: which failed, so that its answer comes from one set of them."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ShardError
from ctxdeploy.core.part import Part
from ctxdeploy.index import Aggregated, PhotoFacts

Result = TypeVar("Result")


class PartLostError(ShardError):
    """A part answered a query first and then failed: what is found has to be found anew without it."""


@dataclass(kw_only=True, eq=False)
class Session:
    """What one query knows of the parts.

    Attributes:
        deadline: of the query.
        failed: why each part that failed is left out.
        answered: parts that what is being found now comes from.
        stored: words and codes of photos that were asked for,
        facts: and what else is known of some.
    """

    deadline: Deadline | None = None
    failed: dict[Part, str] = field(default_factory=dict)
    answered: set[Part] = field(default_factory=set)
    stored: dict[str, Aggregated] = field(default_factory=dict)
    facts: dict[str, PhotoFacts] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, answered: set[Part], failed: Mapping[Part, str]) -> None:
        """Take notice of who answered and who failed.

        Raises:
            PartLostError: one that failed had answered before.
            ShardError: nobody is left.
        """
        with self._lock:
            self.failed |= failed
            lost = self.answered & failed.keys()
            self.answered |= answered
        if not answered and failed:
            reasons = "; ".join(f"{part}: {reason}" for part, reason in sorted(self.failed.items()))
            raise ShardError(f"no part of the shards answers ({reasons})"[:2000])
        if lost:
            raise PartLostError(f"part {min(lost)} of the shards was lost during a query: {self.failed[min(lost)]}")

    def settled(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, called again without a part that was lost meanwhile."""
        while True:
            with self._lock:
                self.answered.clear()
            try:
                return work()
            except PartLostError:  # one fewer every time
                continue
