"""The loop of many queries over codes of two columns: each word's postings are read once for all of them."""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from ctxdeploy.index.kernels import LANES, compiled, inlined, pointer_to, popcount, prefetch

BLOCK = 1024
# What a query may keep before it goes into its scores: 64 KB, of which every line of the scores gets a few.
KEPT = 16384
# Scores are fetched so many postings before they are added to.
AHEAD = 64
# Besides, there is place for what one block adds: its head, its postings, and the lanes that a store overruns.
SPARE = 2 + BLOCK + LANES + AHEAD
_SHIFT = np.uint32(16)
_DISTANCE = np.uint32(0xFFFF)
_NOWHERE = -1


def has_wide_popcount() -> bool:
    """Tell whether numba compiles for AVX-512 with vector popcount (Intel from Ice Lake, AMD from Zen 4 on)."""
    features = str(cpu_target.target_context.codegen().magic_tuple()[2]).split(",")
    return "+avx512f" in features and "+avx512vpopcntdq" in features


def _keep(
    typing_context: Any,
    left: Any,
    right: Any,
    images: Any,
    place: Any,
    first: Any,
    second: Any,
    low: Any,
    mask: Any,
    inside: Any,
    limit: Any,
    kept: Any,
    size: Any,
) -> Any:
    """Sixteen postings from ``place``: column << 16 | distance of those that are in the bits ``inside`` and nearer than
    ``limit`` go to ``kept[size]`` and on. The compression is why this is no loop: LLVM makes none of one.
    """
    wide, number, narrow = ir.IntType(64), ir.IntType(32), ir.IntType(16)

    def vector(kind: Any) -> Any:
        return ir.VectorType(kind, LANES)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def spread(value: Any, kind: Any) -> Any:
            nothing = ir.Constant(vector(kind), ir.Undefined)
            value = value if value.type == kind else builder.trunc(value, kind)
            one = builder.insert_element(nothing, value, number(0))
            return builder.shuffle_vector(one, nothing, ir.Constant(vector(number), [0] * LANES))

        def load(argument: int, kind: Any) -> Any:
            pointer = pointer_to(context, builder, signature.args[argument], args[argument], args[3], vector(kind))
            return builder.load(pointer, align=kind.width // 8)

        def call(name: str, result: Any, *values: Any) -> Any:
            kind = ir.FunctionType(result, [value.type for value in values])
            return builder.call(builder.module.declare_intrinsic(name, (), kind), values)

        bits = [
            call("llvm.ctpop.v16i64", vector(wide), builder.xor(load(column, wide), spread(args[4 + column], wide)))
            for column in range(2)
        ]
        distance = builder.trunc(builder.add(*bits), vector(number))
        photo = builder.sub(builder.zext(load(2, narrow), vector(number)), spread(args[6], number))
        column = builder.shl(builder.and_(photo, spread(args[7], number)), ir.Constant(vector(number), [16] * LANES))
        near = builder.icmp_unsigned("<", distance, spread(args[9], number))
        near = builder.and_(near, builder.bitcast(builder.trunc(args[8], narrow), near.type))
        nothing = ir.Constant(vector(number), [0] * LANES)
        packed = builder.or_(column, distance)
        pressed = call("llvm.x86.avx512.mask.compress.v16i32", vector(number), packed, nothing, near)
        target = pointer_to(context, builder, signature.args[10], args[10], args[11], vector(number))
        builder.store(pressed, target, align=4)
        return builder.zext(call("llvm.ctpop.i16", narrow, builder.bitcast(near, narrow)), wide)

    integer, code = types.int64, types.uint64
    arguments = (left, right, images, integer, code, code, integer, integer, integer, integer, kept, integer)
    return integer(*arguments), generate


_keep_lanes: Any = intrinsic(_keep)


@inlined
def _fetch(left: NDArray[np.uint64], right: NDArray[np.uint64], images: NDArray[np.uint16], place: int) -> None:
    prefetch(left, place)
    prefetch(left, place + LANES // 2)
    prefetch(right, place)
    prefetch(right, place + LANES // 2)
    prefetch(images, place)


@inlined
def _append_plain(
    left: NDArray[np.uint64],
    right: NDArray[np.uint64],
    images: NDArray[np.uint16],
    begin: int,
    end: int,
    ahead: int,
    first: np.uint64,
    second: np.uint64,
    low: int,
    mask: int,
    limit: int,
    kept: NDArray[np.uint32],
    size: int,
) -> int:
    if ahead != _NOWHERE:
        for place in range(ahead, ahead + end - begin, LANES):
            _fetch(left, right, images, place)
    a, b, numbers, target = left[begin:end], right[begin:end], images[begin:end], kept[size : size + end - begin]
    for i in range(a.size):
        column = np.uint32((np.int64(numbers[i]) - low) & mask)
        distance = np.uint32(popcount(a[i] ^ first) + popcount(b[i] ^ second))
        target[i] = column << _SHIFT | distance
    return size + a.size


@inlined
def _append_wide(
    left: NDArray[np.uint64],
    right: NDArray[np.uint64],
    images: NDArray[np.uint16],
    begin: int,
    end: int,
    ahead: int,
    first: np.uint64,
    second: np.uint64,
    low: int,
    mask: int,
    limit: int,
    kept: NDArray[np.uint32],
    size: int,
) -> int:
    # Sixteen are read at a time, so the last list of a shard must not end within fifteen of the arrays' end.
    if end + LANES > images.size:
        return int(_append_plain(left, right, images, begin, end, ahead, first, second, low, mask, limit, kept, size))
    for place in range(begin, end, LANES):
        if ahead != _NOWHERE:
            _fetch(left, right, images, ahead + place - begin)
        inside = (1 << min(end - place, LANES)) - 1
        size += _keep_lanes(left, right, images, place, first, second, low, mask, inside, limit, kept, size)
    return size


# Both give the same scores: what the first leaves out would add 0.
_append: Any = _append_wide if has_wide_popcount() else _append_plain


@compiled
def score_pairs_of_many(
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
    kept: NDArray[np.uint32],
    scores: NDArray[np.float32],
) -> None:
    """Add weight · table[Hamming] to the column (photo - ``low``) of ``scores`` for every posting; codes 2×P.

    The scores of 64 queries do not fit the L2 cache, and a posting touches a line of each query that has the word. So
    what a query's postings add first goes into its own part of ``kept`` (KEPT + SPARE a query), in order: weights of
    0, half of all, are left out where the processor can. When a part is full, its query alone is scored.
    """
    left, right = codes[0], codes[1]
    factors = kept.view(np.float32)
    stride = KEPT + SPARE
    mask = scores.shape[1] - 1
    limit: Any = table.size
    while limit > 0 and table[limit - 1] == np.float32(0):
        limit -= 1
    sizes = np.arange(scores.shape[0]) * stride
    for word in range(begins.size):
        following = min(word + 1, begins.size - 1)
        for begin in range(begins[word], ends[word], BLOCK):
            end = min(begin + BLOCK, ends[word])
            ahead: Any = begins[following] + begin - begins[word]
            for entry in range(starts[word], starts[word + 1]):
                owner, first, second = owners[entry], query[entry, 0], query[entry, 1]
                head: Any = sizes[owner]
                if head > owner * stride + KEPT:
                    _spend(kept, factors, owner * stride, head, table, scores[owner])
                    head = owner * stride
                size = _append(left, right, images, begin, end, ahead, first, second, low, mask, limit, kept, head + 2)
                ahead = _NOWHERE
                kept[head] = np.uint32(size - head - 2)
                factors[head + 1] = weights[entry]
                sizes[owner] = size
    for owner in range(scores.shape[0]):
        _spend(kept, factors, owner * stride, sizes[owner], table, scores[owner])


@compiled
def _spend(
    kept: NDArray[np.uint32],
    factors: NDArray[np.float32],
    begin: int,
    end: int,
    table: NDArray[np.float32],
    row: NDArray[np.float32],
) -> None:
    """Add what is kept from ``begin``: runs of a count, a weight, and as many postings."""
    head: Any = begin
    while head < end:
        stop = head + 2 + np.int64(kept[head])
        for i in range(head + 2, stop):
            prefetch(row, np.int64(kept[i + AHEAD] >> _SHIFT))
            row[kept[i] >> _SHIFT] += table[kept[i] & _DISTANCE] * factors[head + 1]
        head = stop
