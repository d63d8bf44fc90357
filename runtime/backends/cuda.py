"""The few calls of CUDA that running an engine takes, through NVIDIA's own ``cuda-bindings``."""

import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.extras import require

_NON_BLOCKING = 1  # cudaStreamNonBlocking: apart from the default stream
_NO_TIMING = 2  # cudaEventDisableTiming
_PAGE_LOCKED = 0  # cudaHostAllocDefault


class Cuda:
    """The CUDA runtime for one GPU, its status codes turned into ``RuntimeError``."""

    def __init__(self, extra: str, device: int = 0) -> None:
        """Import ``cuda-bindings``; ``MissingExtraError`` names ``extra``."""
        self._runtime = require("cuda.bindings.runtime", extra)
        self._device = device

    def use(self) -> None:
        """Let this thread work on the GPU."""
        self.call("cudaSetDevice", self._device)

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

    def event(self) -> int:
        """Return the handle of a new event, which counts as reached until it is recorded."""
        return int(self.call("cudaEventCreateWithFlags", _NO_TIMING))

    def record(self, event: int, stream: int) -> None:
        """Let an event stand behind what a stream was given so far."""
        self.call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """Let a stream go on only once it has come to where an event stands now."""
        self.call("cudaStreamWaitEvent", stream, event, 0)

    def is_done(self, event: int) -> bool:
        """Say whether all before an event is done."""
        (status,) = self._runtime.cudaEventQuery(event)
        if status == self._runtime.cudaError_t.cudaErrorNotReady:
            return False
        if status != self._runtime.cudaError_t.cudaSuccess:
            raise RuntimeError(f"cudaEventQuery: {status.name}")
        return True

    def finish(self, event: int, check: Callable[[], None]) -> None:
        """Wait until all before an event is done."""
        pause, waited = 50e-6, 0.0
        while not self.is_done(event):
            time.sleep(pause)
            waited, pause = waited + pause, min(pause * 1.5, 1e-3)
            if waited > 0.1:
                check()
                waited = 0.0

    def download_rows(self, buffer: "Buffer", pitch: int, width: int, height: int, stream: int) -> None:
        """Copy the first ``width`` bytes of each ``pitch`` bytes of a buffer from the GPU, ``height`` times."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        host = buffer.host.ctypes.data
        self.call("cudaMemcpy2DAsync", host, pitch, buffer.device, pitch, width, height, kind, stream)

    def launch(self, graph: int, stream: int) -> None:
        """Put what was captured on a stream."""
        self.call("cudaGraphLaunch", graph, stream)

    def captured(self, stream: int, put: Callable[[], bool]) -> int | None:
        """Return the launchable graph of what ``put`` puts on a stream, which does not run by that.

        Args:
            stream: may be computing meanwhile.
            put: says whether it could.

        Returns:
            None where it cannot be captured, such as what allocates memory.
        """
        # Other threads may go on with what would disturb a capture: they are not looked at.
        self.call(
            "cudaStreamBeginCapture", stream, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        is_put = False
        try:
            is_put = put()
        finally:
            status, *graphs = self._runtime.cudaStreamEndCapture(stream)
        if status != self._runtime.cudaError_t.cudaSuccess:
            return None
        try:
            return int(self.call("cudaGraphInstantiate", graphs[0], 0)) if is_put else None
        except RuntimeError:
            return None
        finally:
            self.releaser("cudaGraphDestroy", graphs[0])()

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
        self.release()
        self.device = int(self._cuda.call("cudaMalloc", count))
        self._keep("cudaFree", self.device)
        address = int(self._cuda.call("cudaHostAlloc", count, _PAGE_LOCKED))
        self._keep("cudaFreeHost", address)
        self.host = _array_at(address, count)

    def release(self) -> None:
        """Give the memory back."""
        self.host, self.device = np.empty(0, np.uint8), 0
        while self._finalizers:
            self._finalizers.pop()()

    def _keep(self, function: str, handle: int) -> None:
        self._finalizers.append(weakref.finalize(self, self._cuda.releaser(function, handle)))


class DeviceMemory:
    """Memory on the GPU alone, which grows when more is asked for.

    Attributes:
        address: on the GPU.
        bytes: of it.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._finalizer: Any = None
        self.address = self.bytes = 0

    def reserve(self, count: int) -> None:
        """Make room for ``count`` bytes; what was in it is lost when it grows."""
        if count <= self.bytes:
            return
        self.release()
        self.address = int(self._cuda.call("cudaMalloc", count))
        self._finalizer = weakref.finalize(self, self._cuda.releaser("cudaFree", self.address))
        self.bytes = count

    def release(self) -> None:
        """Give the memory back."""
        self.address = self.bytes = 0
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None


def _array_at(address: int, count: int) -> NDArray[np.uint8]:
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))
