"""A photo whose bytes come on standard input."""

import sys

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.runtime.config import MAX_BYTES
from ctxdeploy.runtime.photo import PhotoSource

STANDARD_INPUT = "-"


def standard_input() -> PhotoSource:
    """Return the photo of standard input, called ``-``; it is read to its end, at once.

    Raises:
        PhotoError: it is closed, or has more bytes than a photo may have.
    """
    if sys.stdin is None:
        raise PhotoError("standard input (-) is closed")
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise PhotoError(f"standard input (-) has more than the {MAX_BYTES:,} bytes that a photo may have")
    return PhotoSource(name=STANDARD_INPUT, data=data)
