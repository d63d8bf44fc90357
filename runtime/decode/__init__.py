"""From the bytes of a photo to its pixels.

    from ctxdeploy.runtime.decode import decode_photo

    pixels = decode_photo(Path("photo.jpg"), bundle.preprocessing).pixels

It is the one way for indexing and for queries; ``docs/photos.md`` says what is taken and what is refused.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.runtime.config import MAX_PIXELS, TOO_MANY_PIXELS, DecodeLimits
    from ctxdeploy.runtime.decode.decode import Pixels, decode_bytes, decode_photo, read_file
    from ctxdeploy.runtime.decode.image import unread_format

__all__ = [
    "MAX_PIXELS",
    "TOO_MANY_PIXELS",
    "DecodeLimits",
    "Pixels",
    "decode_bytes",
    "decode_photo",
    "read_file",
    "unread_format",
]

_HOMES = {
    "DecodeLimits": "ctxdeploy.runtime.config",
    "MAX_PIXELS": "ctxdeploy.runtime.config",
    "TOO_MANY_PIXELS": "ctxdeploy.runtime.config",
    "Pixels": "ctxdeploy.runtime.decode.decode",
    "decode_bytes": "ctxdeploy.runtime.decode.decode",
    "decode_photo": "ctxdeploy.runtime.decode.decode",
    "read_file": "ctxdeploy.runtime.decode.decode",
    "unread_format": "ctxdeploy.runtime.decode.image",
}

__getattr__, __dir__ = door(__name__, _HOMES)
