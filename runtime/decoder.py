"""One photo from its source to pixels, the same in this process and in a worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import FileState, Preprocessing
from ctxdeploy.runtime.decode.decode import Pixels, decode_bytes, read_file
from ctxdeploy.runtime.decode.image import DEFAULT_LIMITS, DecodeLimits
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSettings:
    """How photos are decoded.

    Attributes:
        preprocessing: size and mode.
        limits: which photos are refused.
        timeout: seconds that a worker has for a photo.
        memory: bytes that a worker may allocate; no limit if None.
    """

    preprocessing: Preprocessing
    limits: DecodeLimits = DEFAULT_LIMITS
    timeout: float = 60.0
    memory: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A photo on its way from the decoder to the network; ``read`` and ``seconds`` are those of both its stages."""

    source: PhotoSource
    photo: Pixels
    seconds: float
    file: FileState | None
    read: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Undecoded:
    """Why there are no pixels: one line, and the stage ``read``, ``memory`` or ``decode``."""

    reason: str
    stage: str = "decode"


class Decoder(Protocol):
    """What a lane decodes with.

    Attributes:
        replaced: processes that died or hung.
    """

    replaced: int

    def decode(self, source: PhotoSource, data: bytes | None) -> Decoded | PhotoFailure:
        """Decode a photo, whose bytes are ``data`` if it is no file; ``BackendError`` if no photo can be decoded."""

    def close(self) -> None:
        """End what is under way. May be called from any thread."""

    def release(self) -> None:
        """Give back what is held. Called at last, from the thread that decodes."""


class ThreadDecoder:
    """Decodes in the thread that asks: a photo that hangs holds that thread for ever."""

    replaced = 0

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def decode(self, source: PhotoSource, data: bytes | None) -> Decoded | PhotoFailure:
        """As ``Decoder.decode``."""
        return decode_source(source, data, source.state(), self._settings)

    def close(self) -> None:
        """Nothing can end what is under way."""

    def release(self) -> None:
        """Nothing is held."""


def decode_source(
    source: PhotoSource,
    data: bytes | None,
    file: FileState | None,
    settings: DecodeSettings,
    is_read: Callable[[], None] = lambda: None,
) -> Decoded | PhotoFailure:
    """Decode a photo; whatever is wrong with it becomes a ``PhotoFailure``.

    Args:
        source: the photo; it is read if it is a file.
        data: its bytes, if it is no file.
        file: its state before it is read.
        settings: how.
        is_read: called between reading and decoding.
    """
    start = time.perf_counter()
    stage = "read"
    try:
        read = read_file(source.path) if source.path is not None else data or b""
        is_read()
        stage = "decode"
        photo = decode_bytes(read, settings.preprocessing, source.box, settings.limits)
    except Exception as error:  # a defect of ours, or of Pillow's, must not end a run of days
        reason = _reason(error, settings.memory)
        stage = "memory" if _is_about_memory(error) else stage
        return PhotoFailure(
            name=source.name, reason=reason, stage=stage, file=file, seconds=time.perf_counter() - start
        )
    return Decoded(source=source, photo=photo, seconds=time.perf_counter() - start, file=file)


def _reason(error: BaseException, memory: int | None) -> str:
    if memory is not None and _is_about_memory(error):
        return too_large(memory)
    if not isinstance(error, PhotoError):
        return f"it cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())})"
    if memory is not None and error.__cause__ is not None:  # libwebp and others do not say that it was memory
        return f"{error}, or {too_large(memory).removeprefix('it ')}"
    return str(error)


def too_large(memory: int) -> str:
    """Return the reason why a photo fails that needs more than so many bytes."""
    return f"it needs more than {memory / 1e6:,.0f} MB to decode: raise --memory-limit"


def _is_about_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False
