"""What happens to a photo before the network sees it, as a value that is hashed into every bundle and archive."""

from dataclasses import asdict, dataclass
from typing import Any

from ctxdeploy.errors import ConfigError
from ctxdeploy.hashing import settings_sha256


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Settings of the one function that decodes and scales photos (``ctxdeploy.runtime.decode``).

    Attributes:
        image_size: longest side in pixels after scaling; photos are never enlarged.
        draft: let the JPEG decoder scale by 1/2, 1/4 or 1/8 before LANCZOS: 2.5 times faster on a 6-megapixel photo
            and about 50 dB from the exact pixels.
        revision: number of the decoding rules in force (EXIF rotation applied, alpha composited on white, grey, CMYK,
            palette and 16-bit to RGB, Pillow's ``thumbnail`` with LANCZOS). A change of pixels raises it.
    """

    image_size: int = 1024
    draft: bool = False
    revision: int = 1

    def __post_init__(self) -> None:
        if not 16 <= self.image_size <= 16384:
            raise ConfigError(f"image size {self.image_size} is outside 16..16384: give another --image-size")
        if self.revision != 1:
            raise ConfigError(f"preprocessing revision {self.revision} is not known here: upgrade ctxdeploy")

    def metadata(self) -> dict[str, Any]:
        """Return the settings as they stand in ``bundle.json``."""
        return asdict(self)

    @property
    def hash(self) -> str:
        """Hex sha256 of the settings: two bundles with the same hash turn a photo into the same pixels."""
        return settings_sha256(self.metadata())
