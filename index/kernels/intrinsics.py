"""How loops are compiled, and the instructions that numba cannot derive from loops over postings.

numba is imported with this module, which takes 0.5 s; so kernels are imported by the function that first needs one.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ctxdeploy.index.kernels.cache import MachineCode
from ctxdeploy.index.kernels.processor import has, target

target()  # before the first loop: numba asks once for which processor it compiles
LANES = 16
# Every loop whose machine code is kept, of the modules that were imported.
LOOPS: list[Any] = []


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call, and keep the machine code beside the module for the next process, if that can be."""
    return _kept(njit(nogil=True, error_model="numpy")(function), function)


def reordered(function: Callable[..., Any]) -> Callable[..., Any]:
    """As ``compiled``, with sums in whichever order is fastest on this processor: for what is looked at again only."""
    return _kept(njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function), function)


def _kept(loop: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    with suppress(OSError):  # the source is no file
        loop._cache = MachineCode(function)  # where cache=True puts numba's own
        LOOPS.append(loop)
    kept: Callable[..., Any] = loop
    return kept


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


def _as_float(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


def _as_bits(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate


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
# The float32 that has these bits.
as_float: Any = intrinsic(_as_float)
# And the bits of a float32.
as_bits: Any = intrinsic(_as_bits)
# A hint to the processor: it reads nothing into the program and never faults, whatever the place.
prefetch: Any = intrinsic(_touch)


def has_wide_popcount() -> bool:
    """Tell whether numba compiles for AVX-512 with vector popcount (Intel from Ice Lake, AMD from Zen 4 on)."""
    return has("avx512f", "avx512vpopcntdq")


def _vector(kind: Any) -> Any:
    return ir.VectorType(kind, LANES)


def _spread(builder: Any, value: Any, kind: Any) -> Any:
    """Return LLVM's vector of ``value`` in all lanes."""
    nothing = ir.Constant(_vector(kind), ir.Undefined)
    value = value if value.type == kind else builder.trunc(value, kind)
    one = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, nothing, ir.Constant(_vector(ir.IntType(32)), [0] * LANES))


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(builder.module.declare_intrinsic(name, (), kind), values)


def _keep(
    typing_context: Any,
    left: Any,
    right: Any,
    images: Any,
    place: Any,
    owners: Any,
    query: Any,
    first: Any,
    count: Any,
    low: Any,
    mask: Any,
    inside: Any,
    limit: Any,
    kept: Any,
    sizes: Any,
) -> Any:
    """Sixteen postings from ``place``: column << 16 | distance of those that are in the bits ``inside`` and nearer than
    ``limit`` go to ``kept[sizes[owner]]`` and on, for each of the ``count`` entries from ``first``.

    LLVM makes no compression of a loop, and would load the postings anew for each entry. Places are computed here for
    arrays without gaps; others do not compile.
    """
    if any(kind.layout != "C" for kind in (left, right, images, owners, query, kept, sizes)):
        return None
    wide, number, narrow = ir.IntType(64), ir.IntType(32), ir.IntType(16)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def pointer(argument: int, place: Any, kind: Any) -> Any:
            return pointer_to(context, builder, signature.args[argument], args[argument], place, kind)

        def load(argument: int, kind: Any) -> Any:
            return builder.load(pointer(argument, args[3], _vector(kind)), align=kind.width // 8)

        columns = [load(0, wide), load(1, wide)]
        photo = builder.sub(builder.zext(load(2, narrow), _vector(number)), _spread(builder, args[8], number))
        column = builder.and_(photo, _spread(builder, args[9], number))
        column = builder.shl(column, ir.Constant(_vector(number), [16] * LANES))
        limits = _spread(builder, args[11], number)
        within = builder.bitcast(builder.trunc(args[10], narrow), _vector(ir.IntType(1)))
        nothing = ir.Constant(_vector(number), [0] * LANES)
        with cgutils.for_range(builder, args[7]) as loop:
            entry = builder.add(args[6], loop.index)
            codes = pointer(5, ir.Constant(wide, 0), wide)
            bits = []
            for i in range(2):
                place = builder.gep(codes, [builder.add(builder.shl(entry, wide(1)), wide(i))])
                code = _spread(builder, builder.load(place), wide)
                bits.append(_call(builder, "llvm.ctpop.v16i64", _vector(wide), builder.xor(columns[i], code)))
            distance = builder.trunc(builder.add(*bits), _vector(number))
            near = builder.and_(builder.icmp_unsigned("<", distance, limits), within)
            packed = builder.or_(column, distance)
            name = "llvm.x86.avx512.mask.compress.v16i32"
            pressed = _call(builder, name, _vector(number), packed, nothing, near)
            size_at = pointer(13, builder.load(pointer(4, entry, wide)), wide)
            size = builder.load(size_at)
            builder.store(pressed, pointer(12, size, _vector(number)), align=4)
            added = builder.zext(_call(builder, "llvm.ctpop.i16", narrow, builder.bitcast(near, narrow)), wide)
            builder.store(builder.add(size, added), size_at)
        return context.get_dummy_value()

    integer = types.int64
    arguments = (left, right, images, integer, owners, query, integer, integer, *[integer] * 4, kept, sizes)
    return types.void(*arguments), generate


keep_lanes: Any = intrinsic(_keep)
