# ruff: noqa: N801, N802, N803, N815
"""A stand-in for ``cuda.bindings.runtime`` whose streams run late, and in an order that a seed decides.

What is put on a stream waits until something asks for it: ``cudaStreamSynchronize``, ``cudaEventSynchronize``, or for
a step ``cudaEventQuery``. Of the streams whose next piece may run, one is drawn. Copies read and write when they run,
not when they are asked for; memory begins as poison, and so does the place of a download until it has come. So a wait
that is missing, or a buffer that is used again too early, gives wrong numbers, and the same ones for a seed every time.

    machine = load_reference("fake_cuda").Machine(seed)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", machine.module())
"""

import ctypes
import enum
import random
import threading
from collections import deque
from types import ModuleType

import numpy as np

POISON = 0xA5
_NEVER_FAIL = ("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaEventDestroy")


class cudaError_t(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.Enum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.Enum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class Stream:
    """What waits on a stream, in order: pairs of "may it run?" and "run it"."""

    def __init__(self, device):
        self.device, self.waiting, self.captured = device, deque(), None


class Event:
    """How often it was recorded, and how many of these have come."""

    def __init__(self):
        self.recorded = self.come = 0


class Machine:
    """GPUs with their memory, streams, events and graphs, by handle or address.

    Attributes:
        limit: bytes that one allocation may have.
        refuse_capture: let every capture fail, as an engine that allocates while it runs would.
        launches: graphs that were launched.
        failure: what a piece raised: a GPU after an illegal access is of no more use to the process.
    """

    def __init__(self, seed=0, devices=1):
        self.random = random.Random(seed)
        self.devices, self.limit, self.refuse_capture, self.launches = devices, 1 << 40, False, 0
        self.failure = None
        self.device, self.host, self.buried = {}, {}, []
        self.streams, self.events, self.graphs, self.launchable = {}, {}, {}, {}
        self.places = {}  # device of each allocation
        self._handles, self._lock, self._of_thread = 10, threading.RLock(), threading.local()
        self._capturing = {}  # stream by the thread that captures it

    # ---- time

    def step(self):
        """Run one piece of one stream; False where none may run."""
        ready = [s for s in self.streams.values() if s.waiting and s.waiting[0][0]()]
        if not ready:
            return False
        self.random.choice(ready).waiting.popleft()[1]()
        return True

    def finish(self, is_done):
        """Run pieces until something is done."""
        while not is_done():
            if not self.step():
                raise AssertionError("a stream waits for what nobody will do")

    def enqueue(self, handle, run, may_run=lambda: True):
        """Put a piece on a stream, or into the graph that is captured from it."""
        stream = self.streams[int(handle)]
        assert self.current == stream.device, "the thread is on another GPU than its stream"
        (stream.waiting if stream.captured is None else stream.captured).append((may_run, run))

    @property
    def current(self):
        """Return the GPU of this thread."""
        return getattr(self._of_thread, "device", 0)

    def submit(self, handle, function):
        """Put a piece on a stream; what it raises is kept in ``failure``, and every later call fails."""

        def run():
            try:
                function()
            except Exception as error:
                self.failure = self.failure or error

        self.enqueue(handle, run)

    def is_capturing(self, handle):
        """Say whether a stream is being captured."""
        return self.streams[int(handle)].captured is not None

    # ---- memory

    def memory(self, store, address, count):
        """Return the address again if so many bytes from it on are allocated."""
        for base, block in store.items():
            if base <= address and address + count <= base + len(block):
                return address
        raise AssertionError(f"{count} bytes at {address} are not allocated")

    def view(self, address, count):
        """Return so many bytes of a GPU's memory as an array, as they are now."""
        self.memory(self.device, address, count)
        return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))

    def _allocate(self, store, count):
        if count > self.limit:
            return cudaError_t.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * max(count, 1))()
        ctypes.memset(block, POISON, len(block))
        store[ctypes.addressof(block)], self.places[ctypes.addressof(block)] = block, self.current
        return cudaError_t.cudaSuccess, ctypes.addressof(block)

    def _free(self, store, address):
        block = store.pop(address)
        ctypes.memset(block, POISON, len(block))
        self.buried.append(block)  # a view of it may be left: it sees poison

    def _copy(self, dst, dpitch, src, spitch, width, height, kind, stream):
        up = kind is cudaMemcpyKind.cudaMemcpyHostToDevice
        assert width <= min(dpitch, spitch) or height == 1
        count = lambda pitch: pitch * (height - 1) + width  # noqa: E731
        self.memory(self.device if up else self.host, dst, count(dpitch))

        def poison():
            if not up:
                for row in range(height):
                    ctypes.memset(dst + row * dpitch, POISON, width)

        def run():
            self.memory(self.device if up else self.host, dst, count(dpitch))
            self.memory(self.host if up else self.device, src, count(spitch))
            for row in range(height):
                ctypes.memmove(dst + row * dpitch, src + row * spitch, width)

        poison()
        self.enqueue(stream, run)

    # ---- the module

    def module(self):
        """Return a module with the functions of the real one, by their names and parameters."""
        module = ModuleType("cuda.bindings.runtime")
        module.cudaError_t, module.cudaMemcpyKind = cudaError_t, cudaMemcpyKind
        module.cudaStreamCaptureMode = cudaStreamCaptureMode
        for name, function in self._functions().items():
            setattr(module, name, self._locked(name, function))
        return module

    def _locked(self, name, function):
        def call(*arguments):
            with self._lock:
                found = function(*arguments)
                if self.failure is not None and name not in _NEVER_FAIL:
                    return (cudaError_t.cudaErrorLaunchFailure,)
            found = found if isinstance(found, tuple) else (found,)
            return found if found and isinstance(found[0], cudaError_t) else (cudaError_t.cudaSuccess, *found)

        call.stands_for = function
        return call

    def _functions(self):
        return {
            **self._memory_functions(),
            **self._stream_functions(),
            **self._event_functions(),
            **self._graph_functions(),
        }

    def _unsafe(self, function):
        """Return a function that invalidates the capture of the thread that calls it."""

        def call(*arguments):
            if threading.get_ident() in self._capturing:
                self.streams[self._capturing[threading.get_ident()]].captured = "invalid"
                return cudaError_t.cudaErrorStreamCaptureUnsupported
            return function(*arguments)

        call.stands_for = function
        return call

    def _memory_functions(self):
        def cudaFree(devPtr):
            self.finish(lambda: not any(s.waiting for s in self.streams.values()))  # the real one waits for the GPU
            self._free(self.device, devPtr)
            return ()

        def cudaFreeHost(ptr):
            self._free(self.host, ptr)
            return ()

        def cudaMalloc(size):
            return self._allocate(self.device, size)

        def cudaHostAlloc(size, flags):
            return self._allocate(self.host, size)

        def cudaMemcpyAsync(dst, src, count, kind, stream):
            self._copy(dst, count, src, count, count, 1, kind, stream)
            return ()

        def cudaMemcpy2DAsync(dst, dpitch, src, spitch, width, height, kind, stream):
            self._copy(dst, dpitch, src, spitch, width, height, kind, stream)
            return ()

        def cudaSetDevice(device):
            if not 0 <= device < self.devices:
                return cudaError_t.cudaErrorInvalidDevice
            self._of_thread.device = device
            return ()

        return {
            "cudaMalloc": self._unsafe(cudaMalloc),
            "cudaFree": self._unsafe(cudaFree),
            "cudaHostAlloc": self._unsafe(cudaHostAlloc),
            "cudaFreeHost": self._unsafe(cudaFreeHost),
            "cudaMemcpyAsync": cudaMemcpyAsync,
            "cudaMemcpy2DAsync": cudaMemcpy2DAsync,
            "cudaSetDevice": cudaSetDevice,
        }

    def _new(self, store, thing):
        self._handles += 1
        store[self._handles] = thing
        return cudaError_t.cudaSuccess, self._handles

    def _stream_functions(self):
        def cudaStreamCreateWithFlags(flags):
            return self._new(self.streams, Stream(self.current))

        def cudaStreamDestroy(stream):
            assert not self.streams[int(stream)].waiting, "a stream is destroyed that has work"
            del self.streams[int(stream)]
            return ()

        def cudaStreamSynchronize(stream):
            self.finish(lambda: not self.streams[int(stream)].waiting)
            return ()

        def cudaStreamWaitEvent(stream, event, flags):
            waited = self.events[int(event)]
            wanted = waited.recorded  # of an event that was never recorded: nothing
            self.enqueue(stream, lambda: None, lambda: waited.come >= wanted)
            return ()

        return {
            "cudaStreamCreateWithFlags": cudaStreamCreateWithFlags,
            "cudaStreamDestroy": cudaStreamDestroy,
            "cudaStreamSynchronize": self._unsafe(cudaStreamSynchronize),
            "cudaStreamWaitEvent": cudaStreamWaitEvent,
        }

    def _event_functions(self):
        def cudaEventCreateWithFlags(flags):
            return self._new(self.events, Event())

        def cudaEventDestroy(event):
            del self.events[int(event)]
            return ()

        def cudaEventRecord(event, stream):
            recorded = self.events[int(event)]
            recorded.recorded += 1
            number = recorded.recorded

            def come():
                recorded.come = number

            self.enqueue(stream, come)
            return ()

        def cudaEventQuery(event):
            queried = self.events[int(event)]
            self.step()
            return cudaError_t.cudaSuccess if queried.come >= queried.recorded else cudaError_t.cudaErrorNotReady

        def cudaEventSynchronize(event):
            queried = self.events[int(event)]
            self.finish(lambda: queried.come >= queried.recorded)
            return ()

        return {
            "cudaEventCreateWithFlags": cudaEventCreateWithFlags,
            "cudaEventDestroy": cudaEventDestroy,
            "cudaEventRecord": cudaEventRecord,
            "cudaEventQuery": self._unsafe(cudaEventQuery),
            "cudaEventSynchronize": self._unsafe(cudaEventSynchronize),
        }

    def _graph_functions(self):
        def cudaStreamBeginCapture(stream, mode):
            assert mode is not cudaStreamCaptureMode.cudaStreamCaptureModeGlobal, "other threads would be stopped"
            self._capturing[threading.get_ident()] = int(stream)
            self.streams[int(stream)].captured = deque()
            return ()

        def cudaStreamEndCapture(stream):
            captured, self.streams[int(stream)].captured = self.streams[int(stream)].captured, None
            del self._capturing[threading.get_ident()]
            if captured == "invalid" or self.refuse_capture:
                return cudaError_t.cudaErrorStreamCaptureInvalidated, None
            return self._new(self.graphs, list(captured))

        def cudaGraphInstantiate(graph, flags):
            return self._new(self.launchable, self.graphs[int(graph)])

        def cudaGraphLaunch(graphExec, stream):
            self.launches += 1
            for may_run, run in self.launchable[int(graphExec)]:
                self.enqueue(stream, run, may_run)
            return ()

        def cudaGraphExecDestroy(graphExec):
            del self.launchable[int(graphExec)]
            return ()

        def cudaGraphDestroy(graph):
            del self.graphs[int(graph)]
            return ()

        return {
            "cudaStreamBeginCapture": cudaStreamBeginCapture,
            "cudaStreamEndCapture": cudaStreamEndCapture,
            "cudaGraphInstantiate": cudaGraphInstantiate,
            "cudaGraphLaunch": cudaGraphLaunch,
            "cudaGraphExecDestroy": cudaGraphExecDestroy,
            "cudaGraphDestroy": cudaGraphDestroy,
        }
