"""ONNX Runtime on a GPU of NVIDIA: the graphs that it runs on a CPU, in fp32 and fp16.

Photos and results are copied while the network computes others. Each slot of a ring has memory for a batch, and a
stream of its own for the copies:

    caller            photos → page-locked memory              attention → rows → results
    stream of slot      └ upload ─ event ┐         ┌ wait ─ download of the attention
    stream of all                  wait ─┴ network ┴ event

One thread hands ONNX Runtime a batch after another. The call returns when the batch is computed, although it could
return before (``disable_synchronize_execution_providers``): a run copies numbers of its own, such as sizes that it
computed on the CPU, from page-locked memory that is free for the next run while those copies still wait. The next batch
is on the GPU by then, so that between two of them the chip waits only until that thread has woken up.
"""

import weakref
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME, Bundle
from ctxdeploy.core.device import Gpu, find_gpu
from ctxdeploy.core.errors import BackendError, CtxdeployError
from ctxdeploy.core.extras import require_onnxruntime_gpu
from ctxdeploy.core.targets import CUDA, TARGETS
from ctxdeploy.runtime.backends.base import POLL_SECONDS, Backend, Photos, RunLimits, is_out_of_memory
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.backends.cuda import Cuda
from ctxdeploy.runtime.backends.cuda_session import open_session, provider_options
from ctxdeploy.runtime.backends.ring import Slot

_FATAL_ONLY = 4
# One batch is computed, one is ready behind it, and the results of one are used.
_SLOTS = 3
# Two gigabytes for a photo of 1024 pixels hold ResNet-50 at twice that scale in fp32 (268 MB for an output of its first
# block, of which four are there at once), and what convolutions need besides.
_MOST, _BYTES_A_PHOTO, _PIXELS = 32, 2 << 30, 1024


class CudaBackend(Backend):
    """A session of ONNX Runtime with its provider for CUDA, and a ring of slots for batches."""

    name = CUDA
    in_flight = _SLOTS

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        super().__init__(bundle)
        gpu = find_gpu(config.gpu)
        self._ort = require_onnxruntime_gpu()
        self._bundle, self._config, self._limits = bundle, config, RunLimits()
        self._cuda = Cuda(TARGETS[CUDA].extra, config.gpu)
        self._cuda.use()
        self._stream, self._computed = self._cuda.stream(), self._cuda.event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="ctxdeploy-gpu")
        self._session: list[Any] = []  # one, or none after the memory ran out
        self._slots: list[Slot] = []
        weakref.finalize(
            self, _end, self._cuda, self._executor, self._session, self._slots, self._stream, self._computed
        )
        self._session.append(self._open())
        # The one that was given back last is taken first: one run after another needs the memory of one slot.
        self._free = [self._slot() for _ in range(_SLOTS)]
        self.fitting_batch = fitting_batch(gpu, bundle)
        self.device = f"GPU: {gpu.label}"
        self.precision = config.precision
        self.threads = config.threads
        self.version = str(self._ort.__version__)

    @property
    def limits(self) -> RunLimits:
        """What one run may take; the arena on the GPU is bounded by the same number of bytes as this process."""
        return self._limits

    @limits.setter
    def limits(self, limits: RunLimits) -> None:
        former, self._limits = self._limits, limits
        if limits.memory != former.memory:
            self._cuda.use()
            self._session.clear()
            self._session.append(self._open())

    def _open(self) -> Any:
        options = provider_options(self._config.gpu, self._stream, self._limits.memory)
        return open_session(self._ort, self._bundle, self._config, options)

    def _slot(self) -> Slot:
        self._slots.append(Slot(self._cuda, len(self._slots), self.outputs))
        return self._slots[-1]

    def _start(self, photos: Photos) -> "_Batch":
        self._cuda.use()
        if not self._free:
            raise BackendError(f"{_SLOTS} runs are open: take the result of one, or close it")
        batch = _Batch(self, self._cuda, self._free.pop(), (len(photos), *photos[0].shape))
        try:
            batch.begin(photos, self._outputs)
            self._executor.submit(batch.compute)
        except BaseException:
            batch.close()
            raise
        return batch

    def run_options(self) -> Any:
        """Return the options of one run."""
        options = self._ort.RunOptions()
        options.log_severity_level = _FATAL_ONLY  # errors are raised
        return options

    def compute(self, batch: "_Batch") -> None:
        """Run the network on a batch whose upload is under way, and begin its download; called in the one thread."""
        self._cuda.use()
        try:
            self._run_session(batch)
            return
        except Exception as error:
            # Without its traceback, which holds the session.
            failure = error if isinstance(error, CtxdeployError) else RuntimeError(str(error))
        with suppress(RuntimeError):  # the same again, of a GPU that is lost
            self._cuda.synchronise(self._stream)
        if is_out_of_memory(failure):
            self._session.clear()  # its arena keeps what it got before there was no more, from any smaller run
        raise failure.with_traceback(None)

    def _run_session(self, batch: "_Batch") -> None:
        if not self._session:
            self._session.append(self._open())
        session, addresses = self._session[0], batch.slot.addresses
        binding = session.io_binding()
        binding.bind_input(INPUT_NAME, "cuda", self._config.gpu, np.uint8, batch.shape, addresses[INPUT_NAME])
        for name, shape in batch.outputs.items():
            binding.bind_output(name, "cuda", self._config.gpu, np.float32, shape, addresses[name])
        self._cuda.wait(self._stream, batch.uploaded)
        session.run_with_iobinding(binding, batch.options)
        self._cuda.record(self._computed, self._stream)
        batch.slot.fetch(self._computed, batch.outputs)

    def give_back(self, slot: Slot, computed: "Future[None]") -> None:
        """Take a slot back into the ring when nothing of it is under way any more."""
        try:
            if not computed.cancel():
                wait([computed])
            with suppress(RuntimeError):  # of a GPU that is lost
                self._cuda.synchronise(slot.stream)
        except BaseException:  # a second Ctrl-C: that slot is never used again
            self._free.append(self._slot())
            raise
        self._free.append(slot)


class _Batch:
    """A batch in a slot of the ring."""

    def __init__(self, backend: CudaBackend, cuda: Cuda, slot: Slot, shape: tuple[int, ...]) -> None:
        self._backend, self._cuda = backend, cuda
        self.slot, self.shape, self.options = slot, shape, backend.run_options()
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.uploaded = 0
        self._check = backend.limits.watch()
        self._refused: CtxdeployError | None = None
        # Made before the thread knows of it: a Ctrl-C between the two leaves nothing that is waited for in vain.
        self._computed: Future[None] = Future()

    def begin(self, photos: Photos, outputs: dict[str, tuple[int, ...]]) -> None:
        """Make room, and put the upload of photos on the slot's stream; they may be changed when this returns."""
        self.outputs = {name: (len(photos), *shape) for name, shape in outputs.items()}
        self.slot.reserve(self.outputs)
        self.uploaded = self.slot.upload(photos)

    def compute(self) -> None:
        """Let the network run, in the backend's thread, unless the batch was closed before."""
        if not self._computed.set_running_or_notify_cancel():
            return
        try:
            self._backend.compute(self)
        except BaseException as error:
            self._computed.set_exception(error)
        else:
            self._computed.set_result(None)

    def arrays(self) -> list[NDArray[np.float32]]:
        """See ``Pending``."""
        self._cuda.use()
        if self._refused is not None:
            raise self._refused
        self._wait()
        self._computed.result()
        self._cuda.finish(self.slot.fetched, self._check)
        rows = self.slot.fetch_rows()
        self._cuda.finish(self.slot.fetched, self._check)
        return self.slot.arrays(rows)

    def wait(self) -> None:
        """See ``Pending``."""
        try:
            self._wait()
        except CtxdeployError as error:  # for who asks for the arrays
            self._refused = error

    def _wait(self) -> None:
        try:
            while not wait([self._computed], POLL_SECONDS).done:
                self._check()
        except BaseException:
            self.options.terminate = True  # at the next operator that it would put on the stream
            raise

    def close(self) -> None:
        """See ``Pending``."""
        self.options.terminate = True  # a run that nobody waits for any more
        self._backend.give_back(self.slot, self._computed)


def fitting_batch(gpu: Gpu, bundle: Bundle) -> int:
    """Return how many photos a GPU takes at once unless told: at most 32, or one for each 2 GB at 1024 pixels."""
    a_photo = _BYTES_A_PHOTO * (bundle.preprocessing.image_size / _PIXELS) ** 2
    return max(min(_MOST, bundle.shapes.batch[1], int(gpu.memory / a_photo)), 1)


def _end(
    cuda: Cuda, executor: ThreadPoolExecutor, session: list[Any], slots: list[Slot], stream: int, computed: int
) -> None:
    """End the thread, which has nothing to do any more, and give back the session, the slots and the stream."""
    executor.shutdown(wait=False)  # it may be the very thread that lets go of the backend last
    with suppress(RuntimeError):
        cuda.use()
        for one in (*(slot.stream for slot in slots), stream):
            cuda.synchronise(one)
    session.clear()
    for slot in slots:
        slot.close()
    cuda.releaser("cudaEventDestroy", computed)()
    cuda.releaser("cudaStreamDestroy", stream)()
