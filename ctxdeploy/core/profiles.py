"""Optimisation profiles of engines: which shapes of the input an engine takes, and for which it is tuned.

Shared by ``ctxdeploy.export``, which builds engines with them, and ``ctxdeploy.runtime``, which chooses one for each
batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Least, typical and largest shape of the input, each B×H×W×3; the engine is tuned for the typical one."""

    low: Shape
    typical: Shape
    high: Shape

    def holds(self, shape: Sequence[int]) -> bool:
        """Say whether an input of this shape runs with the profile."""
        return all(low <= size <= high for low, size, high in zip(self.low, shape, self.high, strict=True))

    @property
    def extent(self) -> int:
        """How many shapes it holds: the fewer, the closer it is tuned to each."""
        return prod(high - low + 1 for low, high in zip(self.low, self.high, strict=True))

    def metadata(self) -> dict[str, list[int]]:
        """Return a JSON-serialisable form."""
        return {"low": list(self.low), "typical": list(self.typical), "high": list(self.high)}


def smallest(profiles: Sequence[Profile], shape: Sequence[int]) -> int | None:
    """Return the number of the smallest profile that holds a shape, of equal ones the first; None if none does."""
    fitting = [number for number, profile in enumerate(profiles) if profile.holds(shape)]
    return min(fitting, key=lambda number: profiles[number].extent, default=None)
