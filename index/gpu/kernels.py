"""The loops of a search on a GPU, compiled."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from numba import cuda

from ctxdeploy.index.gpu.scores import score, split_lists
from ctxdeploy.index.gpu.select import add, collect, combine, count, cut
from ctxdeploy.index.gpu.tiling import Tiling

# numba says so of the small launches between the large ones, and of small archives.
warnings.filterwarnings("ignore", message=r".*Grid size \d+ will likely result in GPU under-utilization")


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernels:
    """The loops, compiled when they are first called: some seconds once in a process."""

    score: Any
    split_lists: Any
    combine: Any
    add: Any
    count: Any
    cut: Any
    collect: Any


@lru_cache(maxsize=8)
def kernels(tiling: Tiling, columns: int) -> Kernels:
    """Return the loops for codes of so many columns."""
    return Kernels(
        score=cuda.jit(score(tiling, columns)),
        split_lists=cuda.jit(split_lists),
        combine=cuda.jit(combine),
        add=cuda.jit(add),
        count=cuda.jit(count(tiling)),
        cut=cuda.jit(cut(tiling)),
        collect=cuda.jit(collect(tiling)),
    )
