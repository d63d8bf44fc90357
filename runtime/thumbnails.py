"""Photos to small JPEGs, for pages: decoded upright by the decoder of photos, in processes that one photo may crash."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ctxdeploy.core.errors import BackendError, PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime.config import DEFAULT_LIMITS, DecodeLimits
from ctxdeploy.runtime.decode.decode import REDUCING_GAP, Pixels, thumbnail_size
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource, WorkItem
from ctxdeploy.runtime.worker import DecodeSettings
from ctxdeploy.runtime.worker_process import ProcessDecoder

_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small JPEG.

    Attributes:
        data: the file.
        width, height: of it in pixels.
        original_size: (width, height) of the upright photo in pixels.
    """

    data: bytes
    width: int
    height: int
    original_size: tuple[int, int]


class Thumbnailer:
    """Makes small JPEGs. Any number of threads may ask; at most ``workers`` photos of each kind are decoded at once.

    A process decodes to at most the first of ``sizes`` that is large enough, which for a JPEG of many pixels costs a
    fraction of decoding it whole; processes start when they are needed.

    Args:
        sizes: longest sides in pixels that processes decode to, rising.
        workers: processes for each of them.
        timeout: seconds that a photo may take.
        memory: bytes that a process may allocate; no limit if None.
        limits: which photos are refused.
    """

    def __init__(
        self,
        sizes: tuple[int, ...] = (320, 1280),
        *,
        workers: int = 2,
        timeout: float = 20.0,
        memory: int | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
    ) -> None:
        self._pools = {
            size: _Decoders(
                DecodeSettings(
                    preprocessing=Preprocessing(image_size=size, draft=True),
                    limits=limits,
                    timeout=timeout,
                    memory=memory,
                ),
                workers,
            )
            for size in sizes
        }

    def make(self, photo: PhotoSource, size: int) -> Thumbnail:
        """Return a photo whose longest side has ``size`` pixels, or as many as it has if these are fewer.

        Raises:
            PhotoError: the bare reason why it cannot be read, or is not within the time; or no process makes this size.
            BackendError: no process can be started, or it is closed.
        """
        pools = [pool for most, pool in self._pools.items() if most >= size >= 1]
        if not pools:
            raise PhotoError(f"no thumbnail has {size} pixels")
        item = WorkItem(source=photo)
        if photo.reader is not None:
            item.content = photo.reader.read()
        with pools[0].one() as decoder:
            decoder.decode(item)
        if isinstance(item.result, PhotoFailure):
            raise PhotoError(item.result.reason)
        return _encoded(item.pixels, size)

    def close(self) -> None:
        """End the processes; what they decode fails."""
        for pool in self._pools.values():
            pool.close()


class _Decoders:
    """Processes of one setting, each used by one thread at a time."""

    def __init__(self, settings: DecodeSettings, count: int) -> None:
        self._settings = settings
        self._room = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._idle: list[ProcessDecoder] = []
        self._busy: set[ProcessDecoder] = set()
        self._is_closed = False

    @contextmanager
    def one(self) -> Iterator[ProcessDecoder]:
        """Have a process while the block runs."""
        with self._room:
            with self._lock:
                if self._is_closed:
                    raise BackendError("the thumbnails are closed")
                decoder = self._idle.pop() if self._idle else ProcessDecoder(self._settings)
                self._busy.add(decoder)
            try:
                yield decoder
            finally:
                with self._lock:
                    self._busy.discard(decoder)
                    is_kept = not self._is_closed
                    if is_kept:
                        self._idle.append(decoder)
                if not is_kept:
                    decoder.release()

    def close(self) -> None:
        """End them."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for decoder in busy:
            decoder.close()
        for decoder in idle:
            decoder.release()


def _encoded(shown: Pixels, size: int) -> Thumbnail:
    from PIL import Image

    image = Image.fromarray(shown.pixels)
    small = thumbnail_size(image.size, size)
    if small != image.size:
        image = image.resize(small, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return Thumbnail(data=written.getvalue(), width=image.width, height=image.height, original_size=shown.original_size)
