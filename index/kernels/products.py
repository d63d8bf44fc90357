"""Products of int16 vectors in exact int32, as numba cannot derive them from loops: 16 pairs of vectors at a time.

Whole numbers have no order of summation: every processor gives the same. x86 multiplies pairs of int16 and adds them in
one instruction since SSE2, and adds the sum in the same one since AVX-512 VNNI.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ctxdeploy.index.kernels.intrinsics import pointer_to
from ctxdeploy.index.kernels.processor import has

LANES = 16
_HALF, _NUMBER, _LONG = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SUMS = ir.VectorType(_NUMBER, LANES)
_PAIRS = ir.VectorType(_HALF, 2 * LANES)
WIDE = has("avx512bw")
# 24 sums of 512 bits, or 12 of 256, stay in registers.
ROWS, BLOCKS = (6, 4) if WIDE else (6, 1)


def _multiplied(builder: Any, left: Any, right: Any) -> Any:
    """Return a₀b₀ + a₁b₁ of each pair of lanes."""

    def call(name: str, kind: Any, result: Any, *values: Any) -> Any:
        function = ir.FunctionType(result, [kind, kind])
        return builder.call(builder.module.declare_intrinsic(name, (), function), values)

    def lanes(vector: Any, numbers: list[int]) -> Any:
        return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_NUMBER, len(numbers)), numbers))

    if WIDE:
        return call("llvm.x86.avx512.pmaddw.d.512", _PAIRS, _SUMS, left, right)
    if has("avx2"):
        half, sums = ir.VectorType(_HALF, LANES), ir.VectorType(_NUMBER, LANES // 2)
        parts = [
            call("llvm.x86.avx2.pmadd.wd", half, sums, lanes(left, numbers), lanes(right, numbers))
            for numbers in (list(range(LANES)), list(range(LANES, 2 * LANES)))
        ]
        return builder.shuffle_vector(*parts, ir.Constant(ir.VectorType(_NUMBER, LANES), list(range(LANES))))
    products = [
        builder.mul(*(builder.sext(lanes(side, list(range(k, 2 * LANES, 2))), _SUMS) for side in (left, right)))
        for k in range(2)
    ]
    return builder.add(*products)


def _write(builder: Any, rows: Any, columns: Any, pairs: Any, target: Any, width: Any) -> None:
    def at(pointer: Any, place: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(pointer, [place]), kind.as_pointer())

    tools: Any = cgutils
    zeros = ir.Constant(_SUMS, [0] * LANES)
    sums = [[tools.alloca_once_value(builder, zeros) for _ in range(BLOCKS)] for _ in range(ROWS)]
    dim = builder.mul(pairs, _LONG(2))
    with cgutils.for_range(builder, pairs) as loop:
        first = builder.mul(loop.index, _LONG(2 * LANES))
        vectors = []
        for block in range(BLOCKS):
            place = builder.add(first, builder.mul(dim, _LONG(block * LANES)))
            vectors.append(builder.load(at(columns, place, _PAIRS), align=2))
        for row in range(ROWS):
            place = builder.add(builder.mul(loop.index, _LONG(2)), builder.mul(dim, _LONG(row)))
            pair = builder.load(at(rows, place, _NUMBER), align=2)
            single = builder.insert_element(ir.Constant(_SUMS, ir.Undefined), pair, _NUMBER(0))
            spread = builder.shuffle_vector(single, single, zeros)
            for total, vector in zip(sums[row], vectors, strict=True):
                product = _multiplied(builder, vector, builder.bitcast(spread, _PAIRS))
                builder.store(builder.add(builder.load(total), product), total)
    for row in range(ROWS):
        for block in range(BLOCKS):
            place = builder.add(builder.mul(width, _LONG(row)), _LONG(block * LANES))
            builder.store(builder.load(sums[row][block]), at(target, place, _SUMS), align=4)


def _dots(
    typing: Any, rows: Any, at: Any, columns: Any, start: Any, pairs: Any, target: Any, to: Any, width: Any
) -> Any:
    """Write the products of ROWS vectors with 16·BLOCKS vectors, row after row ``width`` numbers apart.

    Arrays are C-contiguous and followed by the place at which to begin; nothing is checked. A function of its own,
    never inlined: inside a caller with many variables the sums would leave their registers.

    Args:
        rows: int16, ROWS vectors of 2·pairs numbers each.
        columns: int16, BLOCKS blocks of pairs×16×2: two numbers of 16 vectors side by side.
        target: int32.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def pointer(argument: int) -> Any:
            kind = {_HALF: _HALF, _NUMBER: _NUMBER}[context.get_data_type(signature.args[argument].dtype)]
            return pointer_to(context, builder, signature.args[argument], args[argument], args[argument + 1], kind)

        values = [pointer(0), pointer(2), args[4], pointer(5), args[7]]
        name = "matches_dots"
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block())
            _write(inner, *function.args)
            inner.ret_void()
        builder.call(function, values)
        return context.get_dummy_value()

    integer = types.int64
    return types.void(rows, integer, columns, integer, integer, target, integer, integer), generate


dots: Any = intrinsic(_dots)
