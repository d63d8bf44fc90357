"""The one place where faiss is imported: words on a GPU, and the products of descriptors with them.

A flat index of inner products in float16 is all that is asked of it (``GpuIndexFlatIP``, ``useFloat16``): cuBLAS
multiplies on tensor cores and adds in float32, faiss selects. ``halves`` says what is multiplied, and ``candidates``
what is made of the scores.
"""

import threading
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.device import AUTO, CUDA, Device, asked_gpu, gpu_present
from ctxdeploy.core.errors import BackendError, CtxdeployError, OutOfMemoryError
from ctxdeploy.core.extras import require_faiss_gpu

# Selection on the GPU keeps at most so many.
MAX_COUNT = 1024


class HeldRows(Protocol):
    """The rows of a matrix that a device holds."""

    def best(self, queries: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the largest inner products of each query with the rows, falling, n×count, and the rows' numbers."""


class Holder(Protocol):
    """A device that multiplies matrices whose numbers are such as float16 holds."""

    def hold(self, rows: NDArray[np.float32]) -> HeldRows:
        """Bring a matrix onto the device, where it stays as long as what is returned."""


class FaissGpu:
    """A GPU as faiss uses it, with 1.5 GB of its memory for what it works on. Several threads may ask at once.

    Args:
        number: of the GPU, within ``CUDA_VISIBLE_DEVICES``.

    Raises:
        BackendError: there is no such GPU, or faiss does not see it.
        MissingExtraError: faiss is not installed, or one for CPUs alone.
        MixedPackagesError: two packages of faiss are.
        OutOfMemoryError: the GPU has not the memory.
    """

    def __init__(self, number: int) -> None:
        asked_gpu(Device(kind=CUDA, number=number))
        self.faiss, self.number = require_faiss_gpu(), number
        if number >= self.faiss.get_num_gpus():
            raise BackendError(
                f"--device cuda:{number}: faiss sees {self.faiss.get_num_gpus()} GPUs, for the driver may be too old "
                "for its CUDA: update it, or give --device cpu"
            )
        self.resources = self._called(self.faiss.StandardGpuResources)
        # Searches of one set of resources share its streams and temporary memory.
        self.mutex = threading.Lock()
        # Its memory is claimed with the first rows: what is not there is known before the work begins.
        self.hold(np.zeros((8, 8), np.float32))

    def hold(self, rows: NDArray[np.float32]) -> "HeldRows":
        """Bring a matrix onto the GPU as float16.

        Raises:
            OutOfMemoryError: it does not fit.
            BackendError: CUDA fails.
        """
        return _Rows(self, rows)

    def _called(self, function: Any, *arguments: Any) -> Any:
        """Return what a function of faiss returns, its errors as ours."""
        try:
            return function(*arguments)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"there is not enough memory for faiss on cuda:{self.number} ({error}): give --device cpu, or another "
                "GPU"
            ) from error
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if "out of memory" in text or "alloc fail" in text:
                raise OutOfMemoryError(
                    f"words do not fit on cuda:{self.number} beside what else is there ({text}): give --device cpu, or "
                    "another GPU"
                ) from error
            raise BackendError(f"faiss failed on cuda:{self.number} ({text}): give --device cpu") from error


class _Rows:
    def __init__(self, gpu: FaissGpu, rows: NDArray[np.float32]) -> None:
        self._gpu = gpu
        settings = gpu.faiss.GpuIndexFlatConfig()
        settings.device, settings.useFloat16 = gpu.number, True
        if hasattr(settings, "use_cuvs"):
            settings.use_cuvs = False  # which has other kernels, with other sums
        with gpu.mutex:
            self._index = gpu._called(gpu.faiss.GpuIndexFlatIP, gpu.resources, rows.shape[1], settings)
            gpu._called(self._index.add, rows)

    def best(self, queries: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        with self._gpu.mutex:
            scores, rows = self._gpu._called(self._index.search, queries, count)
        return scores, rows


@cache
def _opened(number: int) -> FaissGpu:
    return FaissGpu(number)


def gpu_of(device: Device | None) -> FaissGpu | None:
    """Return the GPU that a device names, the same object for all who ask; None for the CPU, which is also ``auto``
    where there is no GPU that faiss can use.

    Raises:
        BackendError, MissingExtraError, MixedPackagesError: a GPU was named and cannot be used, see ``FaissGpu``.
    """
    if device is not None and device.kind == CUDA:
        return _opened(device.number)
    if device is None or device.kind != AUTO or gpu_present(device.number) is None:
        return None
    try:
        return _opened(device.number)
    except CtxdeployError:
        return None
