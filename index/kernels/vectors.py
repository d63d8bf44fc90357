"""Vector instructions for the loops of assignment, as numba cannot derive them from loops: 16 floats at a time.

Each is a function for compiled code whose body we write as LLVM instructions of <16 x float>; LLVM makes of them what
the processor has (one register of 512 bits, two of 256, four of 128). Every array argument is C-contiguous float32 and
is followed by the place, counted in elements, at which to begin; nothing is checked. They stay functions of their own,
never inlined: inside a caller with many variables the sums would leave their registers, at half the speed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
ROWS = 6
CHUNK = 64
# 12 sums hide the latency of two multipliers: 6 rows times 2 blocks of 512 bits, or times 1 block of twice 256 bits.
BLOCKS = 2 if llvm.get_host_cpu_features().get("avx512f", False) else 1

FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
ZEROS = VECTOR([0.0] * LANES)
SHORT = ir.IntType(32)
LONG = ir.IntType(64)
_ALL = list(range(LANES))


class Body:
    """Writes one function: the few instructions that all of them need."""

    def __init__(self, builder: Any) -> None:
        self.llvm = builder

    def at(self, pointer: Any, place: Any) -> Any:
        return self.llvm.gep(pointer, [place if isinstance(place, ir.Value) else LONG(place)])

    def load(self, pointer: Any, place: Any = 0) -> Any:
        return self.llvm.load(self.llvm.bitcast(self.at(pointer, place), VECTOR.as_pointer()), align=4)

    def store(self, vector: Any, pointer: Any, place: Any = 0) -> None:
        self.llvm.store(vector, self.llvm.bitcast(self.at(pointer, place), VECTOR.as_pointer()), align=4)

    def times(self, number: Any, factor: int) -> Any:
        return self.llvm.mul(number, LONG(factor))

    def shuffled(self, left: Any, right: Any, lanes: list[int]) -> Any:
        return self.llvm.shuffle_vector(left, right, ir.Constant(ir.VectorType(SHORT, len(lanes)), lanes))

    def spread(self, scalar: Any) -> Any:
        empty = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
        single = self.llvm.insert_element(empty, scalar, SHORT(0))
        return self.shuffled(single, single, [0] * LANES)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        return self.llvm.call(self.llvm.module.declare_intrinsic("llvm.fmuladd.v16f32", (), kind), [a, b, c])

    def sum(self, vector: Any) -> Any:
        """Put the halves onto each other until one number is left."""
        return self.folded(vector, self.llvm.fadd)

    def folded(self, vector: Any, join: Callable[[Any, Any], Any]) -> Any:
        """Join the halves of a vector until one number is left."""
        half = LANES // 2
        while half:
            lower, upper = _ALL[:half], _ALL[half : 2 * half]
            vector = join(self.shuffled(vector, vector, lower), self.shuffled(vector, vector, upper))
            half //= 2
        return self.llvm.extract_element(vector, SHORT(0))

    def prefetch(self, pointer: Any) -> None:
        """Hint that a line will be read: nothing enters the program, and no place is wrong."""
        line = self.llvm.bitcast(pointer, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [line.type, SHORT, SHORT, SHORT])
        function = self.llvm.module.declare_intrinsic("llvm.prefetch", [line.type], kind)
        self.llvm.call(function, [line, SHORT(0), SHORT(2), SHORT(1)])  # to read, into the L2 cache, data

    def variable(self, start: Any) -> Any:
        tools: Any = cgutils
        return tools.alloca_once_value(self.llvm, start)

    def mask(self, vector: Any, bar: Any) -> Any:
        """Bit i of the number: lane i is at most ``bar``."""
        bits = self.llvm.fcmp_ordered("<=", vector, self.spread(bar))
        return self.llvm.zext(self.llvm.bitcast(bits, ir.IntType(LANES)), LONG)


def called(name: str, result: Any, write: Callable[..., Any]) -> Callable[..., Any]:
    """Return numba's code generator of a call; ``write`` writes the function: an array and its place are a pointer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values: list[Any] = []
        numbers = iter(zip(signature.args, args, strict=True))
        for kind, value in numbers:
            if isinstance(kind, types.Array):
                data = context.make_array(kind)(context, builder, value).data
                values.append(builder.gep(data, [next(numbers)[1]]))
            else:
                values.append(value)
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(result, [value.type for value in values]), name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block())
            answer = write(Body(inner), *function.args)
            if answer is None:
                inner.ret_void()
            else:
                inner.ret(answer)
        answer = builder.call(function, values)
        return context.get_dummy_value() if isinstance(result, ir.VoidType) else answer

    return generate


def _write_shift(body: Body, source: Any, origin: Any, target: Any, width: Any) -> Any:
    total = body.variable(ZEROS)
    with cgutils.for_range(body.llvm, body.llvm.sdiv(width, LONG(LANES))) as loop:
        d = body.times(loop.index, LANES)
        vector = body.llvm.fsub(body.load(source, d), body.load(origin, d))
        body.store(vector, target, d)
        body.llvm.store(body.fused(vector, vector, body.llvm.load(total)), total)
    return body.sum(body.llvm.load(total))


def _write_gap(body: Body, left: Any, right: Any, length: Any) -> Any:
    total = body.variable(_DOUBLES([0.0] * LANES))
    with cgutils.for_range(body.llvm, body.llvm.sdiv(length, LONG(LANES))) as loop:
        d = body.times(loop.index, LANES)
        vectors = [body.llvm.fpext(body.load(pointer, d), _DOUBLES) for pointer in (left, right)]
        vector = body.llvm.fsub(*vectors)
        body.llvm.store(body.llvm.fadd(body.llvm.load(total), body.llvm.fmul(vector, vector)), total)
    return body.sum(body.llvm.load(total))


def _write_transpose(body: Body, source: Any, stride: Any, target: Any) -> None:
    rows = [body.load(source, body.times(stride, lane)) for lane in _ALL]
    step = LANES // 2
    while step:  # swap the off-diagonal quarters of every square of 2·step rows and lanes
        low = [lane if not lane & step else LANES + lane - step for lane in _ALL]
        high = [lane + step if not lane & step else LANES + lane for lane in _ALL]
        for i in _ALL:
            if not i & step:
                pair = rows[i], rows[i + step]
                rows[i], rows[i + step] = body.shuffled(*pair, low), body.shuffled(*pair, high)
        step //= 2
    for lane in _ALL:
        body.store(rows[lane], target, lane * LANES)


def _write_multiply(blocks: int, body: Body, rows: Any, words: Any, width: Any, target: Any, ahead: Any) -> None:
    sums = [[body.variable(ZEROS) for _ in range(blocks)] for _ in range(ROWS)]
    with cgutils.for_range(body.llvm, width) as loop:
        first = body.at(words, body.times(loop.index, LANES))
        body.prefetch(body.at(ahead, body.times(loop.index, LANES)))
        vectors = [body.load(first, body.times(width, LANES * block)) for block in range(blocks)]
        for row in range(ROWS):
            place = body.llvm.add(loop.index, body.times(width, row))
            scalar = body.spread(body.llvm.load(body.at(rows, place)))
            for total, vector in zip(sums[row], vectors, strict=True):
                body.llvm.store(body.fused(scalar, vector, body.llvm.load(total)), total)
    for row in range(ROWS):
        for block in range(blocks):
            body.store(body.llvm.load(sums[row][block]), target, row * CHUNK + block * LANES)


def _write_combine(body: Body, products: Any, norms: Any, base: Any, far: Any, target: Any, bar: Any) -> Any:
    limit, base, answer = body.spread(far), body.spread(base), LONG(0)
    for first in range(0, CHUNK, LANES):
        vector = body.fused(VECTOR([-2.0] * LANES), body.load(products, first), body.load(norms, first))
        vector = body.llvm.fadd(base, vector)
        vector = body.llvm.select(body.llvm.fcmp_ordered("<", vector, limit), vector, limit)
        body.store(vector, target, first)
        answer = body.llvm.or_(answer, body.llvm.shl(body.mask(vector, bar), LONG(first)))
    return answer


def _write_count(body: Body, values: Any, length: Any, bar: Any) -> Any:
    numbers = ir.VectorType(SHORT, LANES)
    totals = [body.variable(ir.Constant(numbers, [0] * LANES)) for _ in range(0, CHUNK, LANES)]
    limit = body.spread(bar)
    with cgutils.for_range(body.llvm, body.llvm.sdiv(length, LONG(CHUNK))) as loop:
        first = body.at(values, body.times(loop.index, CHUNK))
        for i, total in enumerate(totals):
            bits = body.llvm.fcmp_ordered("<=", body.load(first, i * LANES), limit)
            body.llvm.store(body.llvm.sub(body.llvm.load(total), body.llvm.sext(bits, numbers)), total)
    total = body.llvm.load(totals[0])
    for other in totals[1:]:
        total = body.llvm.add(total, body.llvm.load(other))
    return body.llvm.sext(body.folded(total, body.llvm.add), LONG)


def _write_mask(body: Body, values: Any, bar: Any) -> Any:
    answer = LONG(0)
    for first in range(0, CHUNK, LANES):
        bits = body.mask(body.load(values, first), bar)
        answer = body.llvm.or_(answer, body.llvm.shl(bits, LONG(first)))
    return answer


def _write_insert(body: Body, value: Any, values: Any) -> None:
    old, new = body.load(values), body.spread(value)
    moved = body.shuffled(old, old, [0, *_ALL[:-1]])
    larger = body.llvm.select(body.llvm.fcmp_ordered(">", moved, new), moved, new)
    first = body.llvm.insert_element(larger, value, SHORT(0))
    body.store(body.llvm.select(body.llvm.fcmp_ordered("<=", old, new), old, first), values)


_n, _f = types.int64, types.float32


def emitted(function: Callable[..., Any]) -> Any:
    """Make a function for compiled code, without the argument ``typing``; Python itself cannot call it."""
    return intrinsic(function)


@emitted
def shift(typing: Any, source: Any, at: Any, origin: Any, start: Any, target: Any, to: Any, width: Any) -> Any:
    """Write source - origin over ``width`` numbers, a multiple of 16; return its squared length, a float32.

    The length is summed in 16 lanes, then their halves are put onto each other.
    """
    return _f(source, _n, origin, _n, target, _n, _n), called("assign_shift", FLOAT, _write_shift)


@emitted
def gap(typing: Any, left: Any, at: Any, right: Any, start: Any, length: Any) -> Any:
    """Return the squared distance over ``length`` numbers, a multiple of 16, in float64: 16 sums, then their halves."""
    return types.float64(left, _n, right, _n, _n), called("assign_gap", ir.DoubleType(), _write_gap)


@emitted
def transpose(typing: Any, source: Any, at: Any, stride: Any, target: Any, to: Any) -> Any:
    """Write 16 rows of 16 numbers, ``stride`` apart, transposed and side by side."""
    return types.void(source, _n, _n, target, _n), called("assign_transpose", ir.VoidType(), _write_transpose)


@emitted
def multiply(
    typing: Any, rows: Any, at: Any, words: Any, start: Any, width: Any, target: Any, to: Any, ahead: Any, next_: Any
) -> Any:
    """Write the products of 6 rows of ``width`` numbers with 16·BLOCKS words, row after row 64 numbers apart.

    ``words`` holds block after block of width·16 numbers. Every product is summed in one lane over rising places.
    Meanwhile width·16 numbers of ``ahead`` come into the L2 cache.
    """
    write = partial(_write_multiply, BLOCKS)
    return types.void(rows, _n, words, _n, _n, target, _n, ahead, _n), called("assign_multiply", ir.VoidType(), write)


@emitted
def multiply_one(
    typing: Any, rows: Any, at: Any, words: Any, start: Any, width: Any, target: Any, to: Any, ahead: Any, next_: Any
) -> Any:
    """As ``multiply`` with 16 words."""
    write = partial(_write_multiply, 1)
    return types.void(rows, _n, words, _n, _n, target, _n, ahead, _n), called(
        "assign_multiply_one", ir.VoidType(), write
    )


@emitted
def combine(
    typing: Any, products: Any, at: Any, norms: Any, start: Any, base: Any, far: Any, target: Any, to: Any, bar: Any
) -> Any:
    """Write 64 times base + (norm - 2·product), or ``far`` where that is not smaller or NaN.

    Returns the int64 mask of those at most ``bar``.
    """
    signature = _n(products, _n, norms, _n, _f, _f, target, _n, _f)
    return signature, called("assign_combine", LONG, _write_combine)


@emitted
def count_up_to(typing: Any, values: Any, at: Any, length: Any, bar: Any) -> Any:
    """Return how many of ``length`` numbers, a multiple of 64, are at most ``bar``."""
    return _n(values, _n, _n, _f), called("assign_count", LONG, _write_count)


@emitted
def mask_up_to(typing: Any, values: Any, at: Any, bar: Any) -> Any:
    """Return the mask of those of 64 numbers that are at most ``bar``."""
    return _n(values, _n, _f), called("assign_mask", LONG, _write_mask)


@emitted
def insert(typing: Any, value: Any, values: Any, at: Any) -> Any:
    """Put a number into its place among 16 that rise, or nowhere; the largest leaves."""
    return types.void(_f, values, _n), called("assign_insert", ir.VoidType(), _write_insert)


@emitted
def first_bit(typing: Any, value: Any) -> Any:
    """Return the place of the lowest bit set of an int64 that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return _n(_n), generate
