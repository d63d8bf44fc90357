"""A limit of memory, divided among the parts of an extraction.

What is left when the model is loaded is divided: seven sixteenths of it are for the network, six for the decoding
processes, two for photos that wait, and one for the bytes of photos that are read here.
"""

import gc
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ctxdeploy.core.errors import ConfigError

# A worker has allocated 58 MB before it decodes anything (it holds 38, libraries included).
MIN_WORKER = 96 << 20
_NETWORK, _WORKERS, _WAITING, _READING, _WHOLE = 7, 6, 2, 1, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryShares:
    """Bytes for each part.

    Attributes:
        network: by which this process may grow through batches.
        worker: that a worker may allocate.
        waiting: of photos that are decoded ahead, or wait for others of their size.
        reading: of photos that are not files of their own, between reading and decoding.
    """

    network: int
    worker: int
    waiting: int
    reading: int


def share_memory(limit: int, workers: int) -> MemoryShares:
    """Divide a limit in bytes, the model being loaded; ``ConfigError`` if too little is left for the workers."""
    loaded = resident()
    share = max(limit - loaded, 0) // _WHOLE
    needed = loaded + _WHOLE * (MIN_WORKER * workers // _WORKERS + 1)
    if limit < needed:
        raise ConfigError(
            f"--memory-limit {_mb(limit)} is too little: the loaded model takes {_mb(loaded)}, and {_mb(needed)} are "
            f"needed with {workers} decoding processes: raise it, or give fewer --workers"
        )
    return MemoryShares(
        network=_NETWORK * share,
        worker=_WORKERS * share // max(workers, 1),
        waiting=_WAITING * share,
        reading=_READING * share,
    )


class MemoryGrowth:
    """Foretells from the growth of this process how many photos the network can take at once.

    The runtimes keep the memory of their largest run. Its growth divided by its pixels, fixed costs included, is what a
    pixel is taken to cost, so that the first batches are rather too small; each is at most twice the largest before.

    Args:
        max_bytes: by which this process may grow.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._base = resident()
        self._pixels = self._growth = 0

    def max_photos(self, pixels: int) -> int:
        """Return how many photos of so many pixels may be run at once, at least 1."""
        if not self._pixels:
            return 1
        affordable = self._max_bytes * self._pixels // max(self._growth, 1)
        return max(min(affordable, 2 * self._pixels) // pixels, 1)

    def note(self, pixels: int) -> None:
        """Note that a batch of so many pixels has run."""
        if pixels >= self._pixels:
            self._pixels, self._growth = pixels, resident() - self._base


def resident() -> int:
    """Return the bytes of memory that this process holds, or the most it ever held where the system tells only that."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        raise ConfigError("--memory-limit needs Linux or macOS: leave it out")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def return_free_memory() -> None:
    """Free what only cycles hold (an exception that came through a future), and give it back to the system, which the
    GNU C library does not do by itself."""
    import ctypes

    gc.collect()

    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 500_000 else f"{count:,} bytes"
