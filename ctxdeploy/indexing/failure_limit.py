"""How many photos may fail before a run is stopped."""

from collections import Counter
from dataclasses import dataclass
from typing import Self

from ctxdeploy.core.errors import ConfigError, TooManyFailuresError
from ctxdeploy.core.text import printable

# Photos that must have been tried before a share of them means something.
LEAST_TRIED = 100


@dataclass(frozen=True, kw_only=True)
class FailureLimit:
    """A limit of failures; without any, a run goes on whatever fails.

    Attributes:
        count: failures that are allowed.
        share: part of the photos tried so far, 0 to 1, that may fail; it counts from a hundred photos on.
    """

    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``N`` or ``P%``; ``ConfigError`` for anything else."""
        try:
            limit = cls(share=float(text[:-1]) / 100) if text.endswith("%") else cls(count=int(text))
        except ValueError:
            limit = None
        if limit is None or (limit.count or 0) < 0 or not 0 <= (limit.share or 0) <= 1:
            raise ConfigError(f"--max-failures {text!r} is neither a number of photos nor a share such as 5%")
        return limit

    def check(self, failures: Counter[str], tried: int) -> None:
        """Raise ``TooManyFailuresError`` if more failed than is allowed.

        Args:
            failures: of this run, by reason.
            tried: photos of this run, failures among them.
        """
        failed = failures.total()
        over_count = self.count is not None and failed > self.count
        over_share = self.share is not None and tried >= LEAST_TRIED and failed > self.share * tried
        if over_count or over_share:
            limit = f"{self.count}" if over_count else f"{100 * (self.share or 0):g}%"
            reason, times = failures.most_common(1)[0]
            raise TooManyFailuresError(
                f"stopped: {failed} of {tried} photos failed, more than --max-failures {limit}; most often ({times} "
                f"times): {printable(reason)}; what was done is kept, run again with another limit to continue"
            )


NO_LIMIT = FailureLimit()
