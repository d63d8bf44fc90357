"""Memory of the batches that are under way on a GPU, one slot for each."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME
from ctxdeploy.runtime.backends.base import Photos
from ctxdeploy.runtime.backends.cuda import Buffer, Cuda

# Shapes of outputs by name.
Outputs = dict[str, tuple[int, ...]]
# What says how many of the K rows there are: it comes back first, and of the rest no more than these.
_ATTENTION = "attention"
# As long as attention, per photo: these have rows.
_ROWS = ("descriptors", "positions", "scales")


class Slot:
    """Buffers of one batch, page-locked here and on the GPU, and the stream that copies between them.

    Attributes:
        number: within the ring.
        is_free: whether no run has it. What was put on its stream may still be under way.

    Args:
        cuda: the GPU.
        number: within the ring.
        outputs: names of the outputs, in the order in which they are wanted.
    """

    def __init__(self, cuda: Cuda, number: int, outputs: Sequence[str]) -> None:
        self._cuda, self.number, self.is_free = cuda, number, True
        self.stream, self._uploaded, self._fetched = cuda.stream(), cuda.event(), cuda.event()
        self._buffers = {name: Buffer(cuda) for name in (INPUT_NAME, *outputs)}
        self._outputs: Outputs = {}

    @property
    def addresses(self) -> Mapping[str, int]:
        """Where input and outputs lie on the GPU, by name."""
        return {name: buffer.device for name, buffer in self._buffers.items()}

    @property
    def fetched(self) -> int:
        """Event behind everything that was put on the stream."""
        return self._fetched

    def mark(self) -> int:
        """Record ``fetched`` anew: Ctrl-C may have come between a download and the event behind it."""
        self._cuda.record(self._fetched, self.stream)
        return self._fetched

    def upload(self, photos: Photos) -> int:
        """Take photos of one shape in, each copied once, and put their upload on the stream.

        Returns:
            The event behind it.
        """
        shape = (len(photos), *photos[0].shape)
        count = int(np.prod(shape))
        buffer = self._buffers[INPUT_NAME]
        buffer.reserve(count)
        images = buffer.host[:count].reshape(shape)
        for row, photo in enumerate(photos):
            images[row] = photo
        self._cuda.upload(buffer, count, self.stream)
        self._cuda.record(self._uploaded, self.stream)
        return self._uploaded

    def reserve(self, outputs: Outputs) -> None:
        """Make room for outputs of these shapes."""
        for name, shape in outputs.items():
            self._buffers[name].reserve(_bytes(shape))

    def fetch(self, computed: int, outputs: Outputs) -> None:
        """Put the download of all that is needed first on the stream, behind an event."""
        self._outputs = dict(outputs)
        self._cuda.wait(self.stream, computed)
        for name, shape in outputs.items():
            if name not in self._with_rows():
                self._cuda.download(self._buffers[name], _bytes(shape), self.stream)
        self._cuda.record(self._fetched, self.stream)

    def fetch_rows(self) -> int:
        """Put the download of the rows that there are on the stream, once attention is here.

        Returns:
            As many rows as the photo with the most has.
        """
        names = self._with_rows()
        if not names:
            return 0
        rows = most_rows(self._view(_ATTENTION))
        for name in names if rows else ():
            batch, k, *rest = self._outputs[name]
            row = _bytes((*rest,))
            self._cuda.download_rows(self._buffers[name], k * row, rows * row, batch, self.stream)
        self._cuda.record(self._fetched, self.stream)
        return rows

    def arrays(self, rows: int) -> list[NDArray[np.float32]]:
        """Return the outputs, copied; rows that did not come are zeros, as those of attention 0 may be."""
        found = []
        for name, shape in self._outputs.items():
            if name not in self._with_rows():
                found.append(self._view(name).copy())
                continue
            array = np.zeros(shape, np.float32)
            array[:, :rows] = self._view(name)[:, :rows]
            found.append(array)
        return found

    def close(self) -> None:
        """Give everything back; nothing may be under way."""
        for event in (self._uploaded, self._fetched):
            self._cuda.releaser("cudaEventDestroy", event)()
        self._cuda.releaser("cudaStreamDestroy", self.stream)()
        for buffer in self._buffers.values():
            buffer.release()

    def _with_rows(self) -> Iterable[str]:
        return [name for name in self._outputs if name in _ROWS and _ATTENTION in self._outputs]

    def _view(self, name: str) -> NDArray[np.float32]:
        shape = self._outputs[name]
        return self._buffers[name].host[: _bytes(shape)].view(np.float32).reshape(shape)


def most_rows(attention: NDArray[np.float32]) -> int:
    """Return up to which row any photo has one whose attention is not 0; attention is B×K."""
    there = np.flatnonzero((attention != 0).any(axis=0))
    return int(there[-1]) + 1 if len(there) else 0


def _bytes(shape: tuple[int, ...]) -> int:
    """Return the bytes of a float32 array."""
    return 4 * int(np.prod(shape))
