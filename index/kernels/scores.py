"""The loops of a search that numba compiles: imported on first use, since numba takes 0.5 s to import.

All release the GIL, none uses fast-math, and every sum has a fixed order, so that a result never depends on threads,
on shards or on what else is in a call.

What the loops over postings have in common: ``begins`` and ``ends`` (int64) bound the postings of each word, within
the arrays of a shard. ``scores`` are float32, as many rows as queries and a power of two of columns: a photo's column
is its number above ``low``, modulo that, so that no number, of a damaged shard either, is out of bounds. Entry e is one
query's code of a word: ``query[e]``, ``weights[e]`` (float32), to be added to row ``owners[e]`` of ``scores``; the
entries of word i are ``starts[i]`` .. ``starts[i + 1]``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16
# Postings that are compared with all queries of a word while they are in the innermost cache.
CODE_BLOCK = 256
FLOAT_BLOCK = 32


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call, and keep the machine code beside the module for the next process."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to cache in: a read-only installation without a home
        return njit(nogil=True, error_model="numpy")(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as part of the loop that calls it: a call with six arrays costs as much as 50 postings."""
    return njit(nogil=True, error_model="numpy", forceinline=True)(function)


def pointer_to(context: Any, builder: Any, kind: Any, array: Any, place: Any, target: Any) -> Any:
    """Return LLVM's pointer to ``array[place]``, as one to ``target``."""
    view = context.make_array(kind)(context, builder, array)
    return builder.bitcast(builder.gep(view.data, [place]), target.as_pointer())


def _count_bits(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


def _touch(typing_context: Any, array: Any, place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_to(context, builder, signature.args[0], args[0], args[1], ir.IntType(8))
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(fetch, [pointer, number(0), number(3), number(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


popcount: Any = intrinsic(_count_bits)
# A hint to the processor: it reads nothing into the program and never faults, whatever the place.
prefetch: Any = intrinsic(_touch)


@compiled
def score_codes(
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    owners: NDArray[np.int64],
    query: NDArray[np.uint64],
    weights: NDArray[np.float32],
    table: NDArray[np.float32],
    low: int,
    scores: NDArray[np.float32],
) -> None:
    """Add weight · table[Hamming] for every posting; ``codes`` are C×P, ``table`` has 64·C + 1 entries."""
    distances = np.empty(CODE_BLOCK, np.uint16)
    mask = scores.shape[1] - 1
    for word in range(begins.size):
        for begin in range(begins[word], ends[word], CODE_BLOCK):
            size = min(CODE_BLOCK, ends[word] - begin)
            numbers = images[begin : begin + size]
            for entry in range(starts[word], starts[word + 1]):
                row, weight = scores[owners[entry]], weights[entry]
                for i in range(size):
                    distances[i] = 0
                for column in range(codes.shape[0]):
                    part, bits = codes[column, begin : begin + size], query[entry, column]
                    for i in range(size):
                        distances[i] += np.uint16(popcount(part[i] ^ bits))
                for i in range(size):
                    row[(np.int64(numbers[i]) - low) & mask] += table[distances[i]] * weight


@compiled
def score_floats(
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    images: NDArray[np.uint16],
    residues: NDArray[np.float32],
    starts: NDArray[np.int64],
    owners: NDArray[np.int64],
    query: NDArray[np.float32],
    weights: NDArray[np.float32],
    alpha: float,
    threshold: float,
    low: int,
    scores: NDArray[np.float32],
) -> None:
    """Add weight · s^alpha for every posting whose dot product s is at least ``threshold``; ``residues`` are P×D."""
    mask = scores.shape[1] - 1
    lanes = np.empty(LANES, np.float32)
    for word in range(begins.size):
        for begin in range(begins[word], ends[word], FLOAT_BLOCK):
            end = min(begin + FLOAT_BLOCK, ends[word])
            for entry in range(starts[word], starts[word + 1]):
                row, weight = scores[owners[entry]], weights[entry]
                for p in range(begin, end):
                    s = _dot(residues, p, query, entry, lanes)
                    if s >= np.float32(threshold):
                        power = s * s * s if alpha == 3.0 else s ** np.float32(alpha)
                        row[(np.int64(images[p]) - low) & mask] += np.float32(power) * weight


@compiled
def _dot(
    residues: NDArray[np.float32], p: int, query: NDArray[np.float32], entry: int, lanes: NDArray[np.float32]
) -> np.float32:
    """Return the product of two rows, summed in 16 lanes, then over them: vectorised, of one order for all postings."""
    dim = residues.shape[1]
    whole = dim - dim % LANES
    lanes[:] = 0
    for d in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += residues[p, d + lane] * query[entry, d + lane]
    for d in range(whole, dim):
        lanes[d - whole] += residues[p, d] * query[entry, d]
    s = np.float32(0)
    for lane in range(LANES):
        s += lanes[lane]
    return s


@compiled
def add_weights(
    offsets: NDArray[np.uint32], images: NDArray[np.uint16], weights: NDArray[np.float64], norms: NDArray[np.float64]
) -> None:
    """Add the weight of every word to ``norms`` (65,536) of the images that have it."""
    for word in range(weights.size):
        for p in range(np.int64(offsets[word]), np.int64(offsets[word + 1])):
            norms[images[p]] += weights[word]
