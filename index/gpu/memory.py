"""What of archives lies in the memory of a GPU: one for a process and GPU, shared by all that opens the same shards."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from weakref import WeakValueDictionary

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from ctxdeploy.core.device import CUDA, Device, asked_gpu
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.text import counted
from ctxdeploy.index.codebook.aggregation import code_columns
from ctxdeploy.index.gpu.kernels import Kernels, kernels
from ctxdeploy.index.gpu.pool import PooledShard, fill_pool, pool_bytes
from ctxdeploy.index.gpu.tiling import SIMULATED, Tiling
from ctxdeploy.index.search_device import FLAG
from ctxdeploy.index.storage.state import State

TILING = Tiling()
# Bytes for scores of queries that are searched together, 12 a photo and query: 64 queries over 0.7M photos. More would
# not be faster, for from some ten on the GPU is never idle.
WORK = 512 << 20
# Places for hits of queries that are searched together, 16 bytes each.
SLOTS = 1 << 21
# Left to the driver and to others.
RESERVE = 256 << 20
# Pools that a state may lie in: each is one launch a search.
MOST_POOLS = 8
_GIB = 1 << 30
# Elements of what is copied for a search, at least: most queries then find room.
_LEAST = 1 << 14


class Views(NamedTuple):
    """One array on the GPU, as the types of what lies in it."""

    longs: Any
    bits: Any
    doubles: Any
    ints: Any
    floats: Any


class GpuError(Exception):
    """A GPU has failed, or has no memory left, in a search that the CPU can do as well."""


class GpuMemory:
    """A GPU and what lies in its memory; use ``gpu_memory``, which makes one for a process.

    A GPU does one thing at a time: who uses it holds ``using``.

    Attributes:
        label: such as ``cuda:0``.
        failed: why it cannot be used any more; empty while it can.
    """

    def __init__(self, number: int) -> None:
        self.label = Device(kind="cuda", number=number).label
        self.failed = ""
        self._number = number
        self._lock = threading.RLock()
        self._shards: WeakValueDictionary[str, PooledShard] = WeakValueDictionary()
        self._stream: Any = None
        self._work: dict[str, Any] = {}

    @contextmanager
    def using(self) -> Iterator[Any]:
        """Have the GPU while the block runs; what is launched goes into the stream that this yields.

        Raises:
            GpuError: the GPU or its driver has failed.
        """
        with self._lock:
            if self.failed:
                raise GpuError(self.failed)
            try:
                with cuda.gpus[self._number]:
                    if self._stream is None:
                        self._stream = cuda.stream()
                    yield self._stream
            except BaseException as error:
                self._work.clear()  # what was interrupted may have left something in it
                if not _is_of_cuda(error):
                    raise
                text = " ".join(str(error).split())[:200]
                if not _lacks_memory(error):
                    # A context in which something failed fails for ever.
                    self.failed = f"{self.label} has failed ({text})"
                    raise GpuError(self.failed) from error
                raise GpuError(f"{self.label} has too little memory left ({text})") from error

    def loops(self, columns: int) -> Kernels:
        """Return the loops for codes of so many columns."""
        return kernels(TILING, columns)

    def place(self, state: State) -> list[PooledShard]:
        """Return where the shards of a state lie, and copy those that are not there yet.

        Raises:
            BackendError: they do not fit.
            GpuError: the GPU has failed.
        """
        columns = code_columns(state.manifest.dim)
        keys = [str(shard.path.absolute()) for shard in state.shards]
        with self.using() as stream:
            placed = {key: self._shards.get(key) for key in keys}
            there = {id(one.pool): one.pool for one in placed.values() if one is not None}
            new = [number for number, key in enumerate(keys) if placed[key] is None]
            if len(there) + bool(new) > MOST_POOLS:
                # Many small commits: all but the largest pool become one, and the others go with their last reader.
                largest = max(there.values(), key=lambda pool: pool.images.size)
                new = [n for n, key in enumerate(keys) if (one := placed[key]) is None or one.pool is not largest]
            shards = [state.shards[number] for number in new]
            if shards:
                self._check_room(pool_bytes(shards, columns, TILING), state)
                filled = fill_pool(shards, columns, TILING, self.loops(columns), stream)
                for number, one in zip(new, filled, strict=True):
                    placed[keys[number]] = self._shards[keys[number]] = one
        return [one for one in placed.values() if one is not None]

    def scratch(self, name: str, size: int, dtype: Any, *, zero: bool = False) -> Any:
        """Return a flat array of at least ``size`` elements, kept for the next search; within ``using``."""
        array = self._work.get(name)
        if array is None or array.size < size:
            self._work.pop(name, None)
            del array
            array = cuda.device_array(size, dtype, stream=self._stream)
            if zero:
                array.copy_to_device(np.zeros(size, dtype), stream=self._stream)
            self._work[name] = array
        return array

    def put(self, name: str, array: NDArray[Any]) -> Any:
        """Return a flat array that begins with a copy of another, kept for the next search; within ``using``."""
        target = self.scratch(name, max(array.size, _LEAST), array.dtype)
        if array.size:
            target[: array.size].copy_to_device(array, stream=self._stream)
        return target

    def put_batch(self, data: NDArray[np.int64]) -> "Views":
        """As ``put`` for what ``Packed`` holds; a view costs as much time as a launch, and is kept too."""
        longs = self.put("batch", data)
        views = self._work.get("views")
        if views is None or views.longs is not longs:
            kinds = np.uint64, np.float64, np.int32, np.float32
            views = self._work["views"] = Views(longs, *(longs.view(kind) for kind in kinds))
        return cast("Views", views)

    def free_bytes(self) -> float:
        """Return the bytes that are free, within ``using``."""
        context = cuda.current_context()
        pending = getattr(context, "deallocations", None)
        if pending is not None:
            pending.clear()
        return float(context.get_memory_info().free)

    def _check_room(self, needed: int, state: State) -> None:
        work = max(WORK, 12 * int(state.bases[-1])) + 16 * SLOTS
        free = self.free_bytes()
        if needed + work + RESERVE > free:
            raise BackendError(
                f"the postings of {counted(len(state), 'photo')} need {(needed + work + RESERVE) / _GIB:.1f} GiB on "
                f"{self.label}, which has {free / _GIB:.1f} GiB left: search on the CPU (leave out --search-device), "
                "or divide the archive among several GPUs (ctxdeploy serve --shards)"
            )


_MEMORIES: dict[int, GpuMemory] = {}
_making = threading.Lock()


def gpu_memory(number: int) -> GpuMemory:
    """Return the memory of a GPU, by its number within ``CUDA_VISIBLE_DEVICES``.

    Raises:
        BackendError: there is no such GPU, or numba cannot use it.
    """
    with _making:
        if number not in _MEMORIES:
            if not SIMULATED:
                asked_gpu(Device(kind=CUDA, number=number), FLAG)
                _check_usable(number)
            _MEMORIES[number] = GpuMemory(number)
        return _MEMORIES[number]


def _check_usable(number: int) -> None:
    try:
        usable = cuda.is_available() and number < len(cuda.gpus)
        cause = "" if usable else f": {cuda.cuda_error()}" if cuda.cuda_error() else ""
    except Exception as error:
        usable, cause = False, f": {error}"
    if not usable:
        short = " ".join(cause.split())[:200]
        raise BackendError(
            f"{FLAG} cuda:{number}: numba-cuda cannot use that GPU{short}: check  nvidia-smi  , or give {FLAG} cpu"
        )


def _is_of_cuda(error: BaseException) -> bool:
    """Return whether an error comes from CUDA's driver, or from the packages that call it."""
    return type(error).__module__.partition(".")[0] in ("numba", "cuda", "numba_cuda")


def _lacks_memory(error: BaseException) -> bool:
    return "OUT_OF_MEMORY" in str(error).upper().replace(" ", "_")
