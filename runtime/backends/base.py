"""What every runtime offers: a bundle loaded into it, batches in, outputs of the graph out."""

import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import GLOBAL_OUTPUT, Bundle, output_shapes
from ctxdeploy.core.errors import BackendError, ConfigError, CtxdeployError, OutOfMemoryError
from ctxdeploy.runtime.memory import resident

# A run takes seconds, and Python sees Ctrl-C only between two of its own instructions: runtimes run in another thread,
# and are asked this often whether they are done. They wake the waiting thread when they are, so that no result is late.
POLL_SECONDS = 0.1

# The runtimes have no class for it: these are words of theirs, of oneDNN, CUDA and its libraries.
_OUT_OF_MEMORY = re.compile(
    r"bad.?alloc|out.?of.?memory|failed to allocate|cannot allocate|MemoryAllocation|ALLOC(ATION)?_FAILED"
    r"|than requested bytes"
    r"|start new thread",  # no room for its stack
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphOutputs:
    """What the graph returns for a batch; rows with attention 0 are padding.

    K is 0 of a network that gives no local descriptors.

    Attributes:
        descriptors: B×K×D float32.
        attention: B×K float32.
        positions: B×K×2 float32, x then y, in pixels of the input, half-pixel convention.
        scales: B×K float32.
        global_vectors: B×D' float32; None of a network that gives no global descriptor.
    """

    descriptors: NDArray[np.float32]
    attention: NDArray[np.float32]
    positions: NDArray[np.float32]
    scales: NDArray[np.float32]
    global_vectors: NDArray[np.float32] | None = None


class RunTimeoutError(BackendError):
    """A run took longer than it may."""


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """What one run may take. A graph of a thousand bytes can compute for ever, or need any amount of memory.

    Attributes:
        seconds: that it may last; no limit if None.
        memory: bytes that this process may hold meanwhile, the model included; no limit if None.
    """

    seconds: float | None = None
    memory: int | None = None

    def watch(self) -> Callable[[], None]:
        """Return a function that a backend calls while a run lasts.

        It raises ``RunTimeoutError`` or ``OutOfMemoryError`` once the run has taken more than it may.
        """
        start = time.monotonic()

        def check() -> None:
            if self.seconds is not None and time.monotonic() - start > self.seconds:
                raise RunTimeoutError(f"it took longer than {self.seconds:g} s: raise --photo-timeout")
            if self.memory is not None and resident() > self.memory:
                raise OutOfMemoryError(
                    f"out of memory: {resident() / 1e6:,.0f} MB are held of {self.memory / 1e6:,.0f}: raise "
                    "--memory-limit"
                )

        return check


# A batch: B×H×W×3 uint8, or B photos H×W×3 of one shape.
Photos = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


class Pending(Protocol):
    """A batch in the hands of a runtime."""

    def wait(self) -> None:
        """Wait until ``arrays`` need not, or is to raise; any thread may, also while others start batches."""

    def arrays(self) -> list[NDArray[np.float32]]:
        """Wait; return the outputs in the order of ``Backend.outputs``, in memory that later runs leave alone."""

    def close(self) -> None:
        """Wait until nothing of it is under way; called once, after ``arrays`` or instead of it."""


@dataclass(frozen=True, eq=False, slots=True)
class _Done:
    found: list[NDArray[np.float32]]

    def wait(self) -> None:
        pass

    def arrays(self) -> list[NDArray[np.float32]]:
        return self.found

    def close(self) -> None:
        pass


class Run:
    """A batch that a backend has begun. It is one of those under way until its result is taken or it is closed."""

    def __init__(self, backend: "Backend", shape: tuple[int, ...], pending: Pending) -> None:
        self._backend, self._shape = backend, shape
        self._pending: Pending | None = pending

    def wait(self) -> None:
        """Wait until ``result`` need not. Unlike that it may be called while another thread uses the backend."""
        pending = self._pending
        if pending is not None:
            pending.wait()

    def result(self) -> GraphOutputs:
        """Wait for the outputs and return them, once; raises what ``Backend.run`` raises."""
        pending, self._pending = self._pending, None
        if pending is None:
            raise BackendError("the result of this run was taken, or it was closed: start another one")
        with self._backend.raising(self._shape):
            try:
                arrays = pending.arrays()
            finally:
                pending.close()
        return self._backend.checked(self._shape[0], arrays)

    def close(self) -> None:
        """Wait for its end without the outputs; nothing happens after ``result``."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.close()


class Backend:
    """A bundle loaded into a runtime.

    Attributes:
        name: of the runtime, as in ``BackendConfig``.
        device: that the network really runs on, such as ``CPU: AMD EPYC``.
        precision: that it really runs in, as the runtime reports it.
        threads: as the runtime was told; None if it chose.
        version: of the runtime.
        limits: what one run may take; set by who runs photos.
        in_flight: runs that may be under way at once. With more than one, copying to and from a GPU overlaps what it
            computes.
        fitting_batch: photos of one shape that it takes at once unless told. On a CPU batches gain 2 % at most and cost
            3.6 times the memory at 8.
    """

    limits = RunLimits()
    in_flight = 1
    fitting_batch = 1
    name: str
    device: str
    precision: str
    threads: int | None
    version: str

    def __init__(self, bundle: Bundle) -> None:
        self._shapes = bundle.shapes
        self._dim, self._outputs = bundle.extraction.dim, output_shapes(bundle.extraction)

    def run(self, images: NDArray[np.uint8]) -> GraphOutputs:
        """Compute a batch.

        Args:
            images: B×H×W×3 uint8, RGB, already scaled.

        Raises:
            ConfigError: the shape or type is not what the bundle takes.
            OutOfMemoryError: there is not enough memory for this batch, or it took more than it may.
            RunTimeoutError: it took longer than it may.
            BackendError: the runtime failed otherwise.
        """
        return self.start(images).result()

    def start(self, photos: Photos) -> Run:
        """Begin a batch; a runtime that has but one under way computes it here and now.

        One thread at a time starts batches, takes their results and closes them. At most ``in_flight`` runs may be
        open. The photos may be changed as soon as this returns.

        Args:
            photos: B×H×W×3 uint8, RGB, already scaled; or B such photos H×W×3 of one shape.

        Raises:
            as ``run``: what fails at once; the rest is raised by the run's ``result``.
        """
        for photo in photos:
            if photo.dtype != np.uint8:
                raise ConfigError(f"the input is {photo.dtype}, but it must be uint8")
            if photo.shape != photos[0].shape:
                raise ConfigError(f"photos of {photos[0].shape} and {photo.shape} are in one batch: give one shape")
        shape = (len(photos), *(photos[0].shape if len(photos) else (0, 0, 3)))
        self._shapes.check(shape)
        with self.raising(shape):
            pending = self._start(photos)
        return Run(self, shape, pending)

    @contextmanager
    def raising(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Raise errors of ours for those of the runtime."""
        try:
            yield
        except CtxdeployError:
            raise
        except Exception as error:  # the runtimes raise classes of their own, RuntimeError and ValueError
            if is_out_of_memory(error):
                raise OutOfMemoryError(
                    f"{self.name} has not enough memory for an input of {shape}: {first_line(error)}"
                ) from error
            raise BackendError(f"{self.name} failed on an input of {shape}: {first_line(error)}") from error

    def checked(self, batch: int, arrays: Sequence[NDArray[np.float32]]) -> GraphOutputs:
        """Return the outputs of a batch by name; no rows of local descriptors where there are none."""
        found = dict(zip(self._outputs, arrays, strict=True))
        for output, array in found.items():
            shape = (batch, *self._outputs[output])
            if array.shape != shape or array.dtype != np.float32:
                raise BackendError(f"output {output} is {array.dtype} {array.shape}, not float32 {shape}: export anew")
        rows = np.zeros((batch, 0), np.float32)
        return GraphOutputs(
            descriptors=found.get("descriptors", np.zeros((batch, 0, self._dim), np.float32)),
            attention=found.get("attention", rows),
            positions=found.get("positions", np.zeros((batch, 0, 2), np.float32)),
            scales=found.get("scales", rows),
            global_vectors=found.get(GLOBAL_OUTPUT),
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in their order."""
        return tuple(self._outputs)

    def _start(self, photos: Photos) -> Pending:
        """Begin a batch of photos of one shape that the bundle takes; by default it is computed by ``_run``."""
        images = photos if isinstance(photos, np.ndarray) else np.stack(photos)
        return _Done(self._run(np.ascontiguousarray(images)))

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the outputs in the order of ``outputs``, in memory that later runs leave alone."""
        raise NotImplementedError(f"{type(self).__name__} has neither _run nor _start")


def is_out_of_memory(error: Exception) -> bool:
    """Say whether a runtime failed because the memory of the machine or of its GPU ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def load_error(engine: str, model: Path, error: Exception) -> BackendError:
    """Return what to raise when a runtime cannot load a model."""
    kind = OutOfMemoryError if is_out_of_memory(error) else BackendError
    return kind(f"{engine} cannot load {model}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """Return the first line of a runtime's message that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (said or lines or [""])[0] or type(error).__name__


def cpu_name() -> str:
    """Return ``CPU: `` and the processor's name."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if os.name == "posix" and info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"CPU: {name}"
