"""How the loops for a GPU are divided and compiled, and its products, which are rounded before anything is added.

The simulator of numba (``NUMBA_ENABLE_CUDASIM=1``) runs the loops in Python, without a GPU. It has no library
functions, and numpy rounds each product anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import cuda

SIMULATED = "simulator" in cuda.jit.__module__


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How work is divided among threads; every division gives the same scores.

    Attributes:
        photos: whose scores a block holds; a power of two up to 8192.
        threads: of such a block, and words that it looks up at once; a power of two. One warp needs no barrier.
        staged: postings whose products wait to be added.
        ahead: postings that a thread reads before it looks at the first of them.
        wide: threads of a block that goes over photos, and the most of such blocks.
        blocks: the most of such blocks.
        bins: of the histogram of scores.
    """

    photos: int = 1024
    threads: int = 32
    staged: int = 512
    ahead: int = 4
    wide: int = 256
    blocks: int = 1024
    bins: int = 2048


def device(function: Callable[..., Any]) -> Any:
    """Return what a loop can call."""
    return function if SIMULATED else cuda.jit(device=True)(function)


def _smaller(a: Any, b: Any) -> Any:
    return a if a < b else b


def _larger(a: Any, b: Any) -> Any:
    return a if a > b else b


# In place of min and max, which numba 0.68 without numba-cuda cannot compile.
smaller: Any = device(_smaller)
larger: Any = device(_larger)


def _multiply(a: Any, b: Any) -> Any:
    return a * b


if SIMULATED:
    product32: Any = _multiply
    product64: Any = _multiply
else:
    from numba.cuda import libdevice

    def _multiply32(a: Any, b: Any) -> Any:
        return libdevice.fmul_rn(a, b)

    def _multiply64(a: Any, b: Any) -> Any:
        return libdevice.dmul_rn(a, b)

    product32 = device(_multiply32)
    product64 = device(_multiply64)
