"""What is too much, or too little, for a photo."""

from dataclasses import asdict, dataclass
from typing import Any

from ctxdeploy.errors import ConfigError

MAX_PIXELS = 178_956_970  # twice Pillow's MAX_IMAGE_PIXELS, where Pillow itself starts to refuse


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """Which photos are refused, and which are taken though they are damaged.

    Attributes:
        max_pixels: a photo with more, as its header says, is refused before it is decoded.
        accept_truncated: take a photo whose end is missing; what is missing is grey.
    """

    max_pixels: int = MAX_PIXELS
    accept_truncated: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= 1 << 32:
            raise ConfigError(f"--max-pixels {self.max_pixels} is outside 1..{1 << 32}")

    def metadata(self) -> dict[str, Any]:
        """Return the limits as JSON prints them."""
        return asdict(self)


DEFAULT_LIMITS = DecodeLimits()
