"""The few calls of CUDA that running an engine takes, through NVIDIA's own ``cuda-bindings``."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.extras import require

_NON_BLOCKING = 1  # cudaStreamNonBlocking: apart from the default stream
_PAGE_LOCKED = 0  # cudaHostAllocDefault


class Cuda:
    """The CUDA runtime, its status codes turned into ``RuntimeError``. It works on the first GPU that it sees."""

    def __init__(self, extra: str) -> None:
        """Import ``cuda-bindings``; ``MissingExtraError`` names ``extra``."""
        self._runtime = require("cuda.bindings.runtime", extra)

    def call(self, function: str, *arguments: Any) -> Any:
        """Return what a function of the runtime returns beside its status."""
        status, *values = getattr(self._runtime, function)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            raise RuntimeError(f"{function}: {status.name}")
        return values[0] if values else None

    def stream(self) -> int:
        """Return the handle of a new stream."""
        return int(self.call("cudaStreamCreateWithFlags", _NON_BLOCKING))

    def synchronise(self, stream: int) -> None:
        """Wait until a stream has done what it was given."""
        self.call("cudaStreamSynchronize", stream)

    def upload(self, buffer: "Buffer", count: int, stream: int) -> None:
        """Copy the first ``count`` bytes of a buffer to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", buffer.device, buffer.host.ctypes.data, count, kind, stream)

    def download(self, buffer: "Buffer", count: int, stream: int) -> None:
        """Copy the first ``count`` bytes of a buffer from the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", buffer.host.ctypes.data, buffer.device, count, kind, stream)

    def releaser(self, function: str, handle: int) -> Callable[[], None]:
        """Return a function that gives something back, and says nothing of a GPU that is gone already."""
        runtime = self._runtime

        def release() -> None:
            getattr(runtime, function)(handle)

        return release


class Buffer:
    """Memory on the GPU and page-locked memory of the same size here, which grow when more is asked for.

    Attributes:
        device: address on the GPU.
        host: bytes here.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._finalizers: list[Any] = []
        self.device = 0
        self.host: NDArray[np.uint8] = np.empty(0, np.uint8)

    def reserve(self, count: int) -> None:
        """Make room for ``count`` bytes; what was in it is lost when it grows."""
        if count <= len(self.host):
            return
        self.host = np.empty(0, np.uint8)
        while self._finalizers:
            self._finalizers.pop()()
        self.device = int(self._cuda.call("cudaMalloc", count))
        self._keep("cudaFree", self.device)
        address = int(self._cuda.call("cudaHostAlloc", count, _PAGE_LOCKED))
        self._keep("cudaFreeHost", address)
        self.host = _array_at(address, count)

    def _keep(self, function: str, handle: int) -> None:
        self._finalizers.append(weakref.finalize(self, self._cuda.releaser(function, handle)))


def _array_at(address: int, count: int) -> NDArray[np.uint8]:
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))
