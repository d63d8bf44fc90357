"""Memory into which a worker process writes the pixels of a photo, for its parent to read.

Through a pipe pixels go in pieces, for each of which both processes wake: 1.5 ms for 640×480, and more where other work
keeps the processors busy. Linux alone has memory whose size is sealed: elsewhere the pipe is what there is.
"""

import mmap
import os
import sys
from contextlib import ExitStack, suppress
from typing import Self

import numpy as np
from numpy.typing import NDArray

# More would be no thumbnail any more: such pixels go through the pipe.
MOST = 64 << 20


class SharedPixels:
    """Memory of a parent and one worker. What the worker leaves in it is no more than numbers for the parent.

    Args:
        descriptor: of the memory, which is closed with it.
        size: bytes.

    Attributes:
        descriptor: to be passed to the worker.
        size: bytes.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor, self.size = descriptor, size
        with ExitStack() as held:
            held.callback(os.close, descriptor)
            self._map = held.enter_context(mmap.mmap(descriptor, size))
            self._held = held.pop_all()

    @classmethod
    def make(cls, size: int) -> Self | None:
        """Return memory for pixels of so many bytes; None where there is none."""
        if sys.platform != "linux" or not 0 < size <= MOST:
            return None
        import fcntl

        with suppress(OSError, AttributeError):  # an old system, or a limit
            descriptor = os.memfd_create("ctxdeploy-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(descriptor, size)
                # Memory that the worker cuts off would kill the parent that reads it.
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            except BaseException:
                os.close(descriptor)
                raise
            return cls(descriptor, size)
        return None

    def put(self, pixels: NDArray[np.uint8]) -> bool:
        """Write the pixels of a photo, if there is room for them; return whether there is."""
        if pixels.nbytes > self.size:
            return False
        np.frombuffer(self._map, np.uint8, pixels.size)[:] = pixels.reshape(-1)
        return True

    def taken(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Return a copy of pixels that were written, which no worker can change any more.

        Raises:
            ValueError: there is no room for so many.
        """
        count = shape[0] * shape[1] * shape[2]
        if count > self.size:
            raise ValueError(f"{count:,} bytes of pixels in {self.size:,}")
        return np.frombuffer(self._map, np.uint8, count).reshape(shape).copy()

    def close(self) -> None:
        """Give the memory back. May be called twice."""
        self._held.close()
