"""What DELF and DELG have beyond a trunk. Nothing here imports torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ctxdeploy.core.errors import ConfigError

SCALES = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
# Of the seven, those of DELG's global descriptor.
GLOBAL_SCALES = (0.7071, 1.0, 1.4142)
# The ResNets that these networks stand on: of TF-slim, and of the authors' Keras code.
TRUNKS = ("slim", "keras")


@dataclass(frozen=True, kw_only=True)
class Delf:
    """The local head of DELF and DELG on the third block of a ResNet.

    Attributes:
        strides: of the last unit of the third block and, of DELG, of the fourth; 2 and 1 in slim's own. Of "keras",
            behind the third block and of the first unit of the fourth.
        threshold: the least attention of a descriptor; 0 keeps all.
        half_pixel: the pyramid samples at the centres of pixels, as TensorFlow 2 does; else at their corners, as
            TensorFlow 1's ``ResizeBilinear`` does.
        trunk: which ResNet, one of ``TRUNKS``.
    """

    strides: tuple[int, ...] = (2,)
    threshold: float = 0.0
    half_pixel: bool = True
    trunk: str = "slim"

    def __post_init__(self) -> None:
        known = all(type(stride) is int and stride in (1, 2) for stride in self.strides)
        if len(self.strides) not in (1, 2) or not known:
            raise ConfigError(f"strides {self.strides} of the third and fourth block: each must be 1 or 2")
        if not (isinstance(self.threshold, int | float) and math.isfinite(self.threshold) and self.threshold >= 0):
            raise ConfigError(f"the least attention, {self.threshold!r}, is not a number of at least 0 (--threshold)")
        if type(self.half_pixel) is not bool:
            raise ConfigError(f"half_pixel {self.half_pixel!r} is not true or false")
        if self.trunk not in TRUNKS:
            raise ConfigError(f"the trunk {self.trunk!r} of DELF is not one of {', '.join(TRUNKS)}")

    @property
    def stride(self) -> int:
        """Pixels of the scaled image per position of the third block's map."""
        return 16 * self.strides[0]

    def metadata(self) -> dict[str, Any]:
        """Return a JSON-serialisable form that ``parse`` reads; ``trunk`` stands in it only where it is not slim's."""
        found = {**asdict(self), "strides": list(self.strides)}
        if self.trunk == "slim":
            del found["trunk"]
        return found

    @classmethod
    def parse(cls, metadata: Mapping[str, Any]) -> "Delf":
        """Return the settings that ``metadata`` wrote; ``ConfigError`` or ``TypeError`` for others."""
        return cls(**{**metadata, "strides": tuple(metadata["strides"])})
