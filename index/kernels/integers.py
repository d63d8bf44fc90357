"""Products of descriptors and words in int8, as numba cannot derive them from loops, and how both become int8.

A number stands for the nearest whole multiple, -127 to 127, of a step of its own row. Products of whole numbers are
exact, so they are the same with every instruction: VNNI multiplies 64 pairs at once, other processors 8 to 32 pairs of
int16. Words lie in blocks of 16, one a lane, their numbers plus 128, so that four neighbours of each are the 64 bytes
of a register. As in ``vectors``, each is a function of its own and every array argument is followed by its place.
"""

from functools import partial
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from ctxdeploy.index.kernels.processor import has
from ctxdeploy.index.kernels.vectors import FLOAT, LANES, LONG, SHORT, VECTOR, ZEROS, Body, called, emitted

_BYTE, _HALF = ir.IntType(8), ir.IntType(16)
_NUMBERS = ir.VectorType(SHORT, LANES)

# How products are made: bits of a register, and whether it takes bytes.
if has("avx512vnni"):
    WAY = "vnni512"
elif has("avxvnni"):
    WAY = "vnni256"
elif has("avx512bw"):
    WAY = "pairs512"
elif has("avx2"):
    WAY = "pairs256"
elif has("sse2"):
    WAY = "pairs128"
else:
    WAY = "plain"
# Descriptors and blocks of words of a tile, whose sums stay in registers: 6 times 4 of 32, or 6 times twice 1 of 16.
ROWS = 6
BLOCKS = {"vnni512": 4, "pairs512": 2}.get(WAY, 1)
WIDE = BLOCKS * LANES
# Bytes of a descriptor and a word that are multiplied at once.
GROUP = 4
# What a tile needs of each descriptor: step, error, limit.
FACTS = 3


def _parts(body: Body, vector: Any, count: int) -> list[Any]:
    size = vector.type.count // count
    return [body.shuffled(vector, vector, list(range(size * i, size * i + size))) for i in range(count)]


def _joined(body: Body, parts: list[Any]) -> Any:
    while len(parts) > 1:
        lanes = list(range(2 * parts[0].type.count))
        parts = [body.shuffled(left, right, lanes) for left, right in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _call(body: Body, name: str, *values: Any) -> Any:
    kind = ir.FunctionType(values[0].type, [value.type for value in values])
    return body.llvm.call(body.llvm.module.declare_intrinsic(name, (), kind), values)


def _spread_bytes(body: Body, four: Any, way: str) -> Any:
    """Return what four numbers of a descriptor are multiplied as."""
    vector = body.spread(four)
    if way.startswith("vnni"):
        return vector
    pairs = body.llvm.bitcast(vector, ir.VectorType(_HALF, 2 * LANES))
    eight = ir.Constant(pairs.type, [8] * (2 * LANES))
    return body.llvm.ashr(body.llvm.shl(pairs, eight), eight), body.llvm.ashr(pairs, eight)


def _load_bytes(body: Body, pointer: Any, way: str) -> Any:
    """Return what four numbers of 16 words are multiplied as."""
    vector = body.llvm.load(body.llvm.bitcast(pointer, _NUMBERS.as_pointer()), align=4)
    if way.startswith("vnni"):
        return vector
    pairs = body.llvm.bitcast(vector, ir.VectorType(_HALF, 2 * LANES))
    low, eight = (ir.Constant(pairs.type, [number] * (2 * LANES)) for number in (255, 8))
    return body.llvm.and_(pairs, low), body.llvm.lshr(pairs, eight)


def _add_products(body: Body, total: Any, words: Any, row: Any, way: str) -> Any:
    """Add to each of 16 sums the four products of its lane."""
    if way == "vnni512":
        return _call(body, "llvm.x86.avx512.vpdpbusd.512", total, words, row)
    if way == "vnni256":
        halves = zip(*(_parts(body, vector, 2) for vector in (total, words, row)), strict=True)
        return _joined(body, [_call(body, "llvm.x86.avx512.vpdpbusd.256", *half) for half in halves])
    for left, right in zip(words, row, strict=True):
        total = body.llvm.add(total, _pairs(body, left, right, way))
    return total


def _pairs(body: Body, left: Any, right: Any, way: str) -> Any:
    """Return 16 sums of two products each, of 32 int16."""
    if way == "plain":
        kind = ir.VectorType(SHORT, 2 * LANES)
        products = body.llvm.mul(body.llvm.sext(left, kind), body.llvm.sext(right, kind))
        even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
        return body.llvm.add(body.shuffled(products, products, even), body.shuffled(products, products, odd))
    bits = int(way.removeprefix("pairs"))
    name = {512: "llvm.x86.avx512.pmaddw.d.512", 256: "llvm.x86.avx2.pmadd.wd", 128: "llvm.x86.sse2.pmadd.wd"}[bits]
    sums = []
    for a, b in zip(_parts(body, left, 512 // bits), _parts(body, right, 512 // bits), strict=True):
        kind = ir.FunctionType(ir.VectorType(SHORT, bits // 32), [a.type, b.type])
        sums.append(body.llvm.call(body.llvm.module.declare_intrinsic(name, (), kind), [a, b]))
    return _joined(body, sums)


def _write_tile(
    blocks: int,
    way: str,
    body: Body,
    codes: Any,
    lanes: Any,
    groups: Any,
    rows: Any,
    own: Any,
    facts: Any,
    found: Any,
    ahead: Any,
) -> None:
    places = [body.llvm.load(body.at(own, row)) for row in range(ROWS)]
    totals = []
    for row in range(ROWS):
        start = body.spread(body.llvm.trunc(body.llvm.load(body.at(own, ROWS + row)), SHORT))
        totals.append([body.variable(start) for _ in range(blocks)])
    with cgutils.for_range(body.llvm, groups) as loop:
        first = body.at(codes, body.times(loop.index, LANES))
        body.prefetch(body.at(ahead, body.times(loop.index, LANES)))
        size = body.times(groups, LANES)
        words = [_load_bytes(body, body.at(first, body.times(size, block)), way) for block in range(blocks)]
        for row in range(ROWS):
            place = body.llvm.add(places[row], body.times(loop.index, GROUP))
            four = body.llvm.load(body.llvm.bitcast(body.at(rows, place), SHORT.as_pointer()), align=1)
            numbers = _spread_bytes(body, four, way)
            for total, word in zip(totals[row], words, strict=True):
                body.llvm.store(_add_products(body, body.llvm.load(total), word, numbers, way), total)
    for row in range(ROWS):
        step, error, limit = (body.spread(body.llvm.load(body.at(facts, FACTS * row + i))) for i in range(FACTS))
        answer = LONG(0)
        for block in range(blocks):
            norms, steps, sizes = (body.load(lanes, (3 * block + i) * LANES) for i in range(3))
            product = body.llvm.sitofp(body.llvm.load(totals[row][block]), VECTOR)
            product = body.fused(step, product, body.llvm.fmul(error, sizes))
            least = body.fused(body.llvm.fneg(steps), product, norms)
            body.store(least, found, row * WIDE + block * LANES)
            bits = body.llvm.bitcast(body.llvm.fcmp_ordered("<=", least, limit), ir.IntType(LANES))
            answer = body.llvm.or_(answer, body.llvm.shl(body.llvm.zext(bits, LONG), LONG(LANES * block)))
        body.llvm.store(answer, body.at(own, 2 * ROWS + row))


def _write_round(body: Body, source: Any, width: Any, step: Any, inverse: Any, target: Any, facts: Any) -> None:
    sums = [body.variable(ZEROS) for _ in range(2)]
    total = body.variable(ir.Constant(_NUMBERS, [0] * LANES))
    # A float of 1.5·2^23 and more has no fraction: adding it rounds to a whole number, in its lowest bits.
    magic = 1.5 * 2**23
    with cgutils.for_range(body.llvm, body.llvm.sdiv(width, LONG(LANES))) as loop:
        d = body.times(loop.index, LANES)
        vector = body.load(source, d)
        shifted = body.llvm.fadd(body.llvm.fmul(vector, body.spread(inverse)), VECTOR([magic] * LANES))
        whole = body.llvm.fsub(shifted, VECTOR([magic] * LANES))
        gap = body.llvm.fsub(vector, body.llvm.fmul(whole, body.spread(step)))
        for place, value in zip(sums, (gap, whole), strict=True):
            body.llvm.store(body.fused(value, value, body.llvm.load(place)), place)
        numbers = body.llvm.bitcast(shifted, _NUMBERS)
        bits = ir.Constant(_NUMBERS, [0x4B400000] * LANES)
        numbers = body.llvm.sub(numbers, bits)
        body.llvm.store(body.llvm.add(body.llvm.load(total), numbers), total)
        place = body.llvm.bitcast(body.at(target, d), ir.VectorType(_BYTE, LANES).as_pointer())
        body.llvm.store(body.llvm.trunc(numbers, ir.VectorType(_BYTE, LANES)), place, align=1)
    for i, place in enumerate(sums):
        body.llvm.store(body.sum(body.llvm.load(place)), body.at(facts, i))
    number = body.folded(body.llvm.load(total), body.llvm.add)
    body.llvm.store(body.llvm.sitofp(number, FLOAT), body.at(facts, 2))


def _write_largest(body: Body, source: Any, width: Any) -> Any:
    bits = ir.Constant(_NUMBERS, [0x7FFFFFFF] * LANES)
    most = body.variable(ir.Constant(_NUMBERS, [0] * LANES))
    with cgutils.for_range(body.llvm, body.llvm.sdiv(width, LONG(LANES))) as loop:
        numbers = body.llvm.bitcast(body.load(source, body.times(loop.index, LANES)), _NUMBERS)
        numbers = body.llvm.and_(numbers, bits)
        body.llvm.store(_larger(body, numbers, body.llvm.load(most)), most)
    return body.llvm.bitcast(body.folded(body.llvm.load(most), partial(_larger, body)), FLOAT)


def _larger(body: Body, left: Any, right: Any) -> Any:
    return body.llvm.select(body.llvm.icmp_signed(">", left, right), left, right)


_n, _f = types.int64, types.float32


@emitted
def round_row(
    typing: Any, source: Any, at: Any, width: Any, step: Any, inverse: Any, target: Any, to: Any, facts: Any, place: Any
) -> Any:
    """Write ``width`` numbers, a multiple of 16, as int8: the nearest multiples of ``step``, 1 / ``inverse``.

    Writes to ``facts``, float32, the squared length of what rounding took, that of the whole numbers, and their sum.
    """
    signature = types.void(source, _n, _n, _f, _f, target, _n, facts, _n)
    return signature, called("assign_round", ir.VoidType(), _write_round)


@emitted
def largest(typing: Any, source: Any, at: Any, width: Any) -> Any:
    """Return the largest magnitude of ``width`` numbers, a multiple of 16; NaN counts as more than infinity."""
    return _f(source, _n, _n), called("assign_largest", FLOAT, _write_largest)


def _tile(blocks: int, way: str) -> Any:
    def tile(
        typing: Any,
        codes: Any,
        at: Any,
        lanes: Any,
        first: Any,
        groups: Any,
        rows: Any,
        row: Any,
        own: Any,
        first_own: Any,
        facts: Any,
        fact: Any,
        found: Any,
        to: Any,
        ahead: Any,
        next_: Any,
    ) -> Any:
        """Bound the distances of 6 descriptors to the words of ``blocks`` blocks from below.

        Args:
            codes, lanes: of the blocks, see ``packed.pack``.
            groups: fours of numbers of a word.
            rows: descriptors in int8.
            own: int64 of the descriptors: 6 places in ``rows``, 6 times -128 times the sum of the numbers; the masks
                of the words that are within the limits are written behind them.
            facts: float32, of each descriptor step, error (by which lengths of words are multiplied) and limit.
            found: the bounds are written here, row after row 16·BLOCKS apart.
            ahead: codes that come into the L2 cache meanwhile, as many as one block has.
        """
        arrays = (codes, _n, lanes, _n, _n, rows, _n, own, _n, facts, _n, found, _n, ahead, _n)
        name = f"assign_tile_{blocks}_{way}"
        return types.void(*arrays), called(name, ir.VoidType(), partial(_write_tile, blocks, way))

    return emitted(tile)


tile, tile_1 = _tile(BLOCKS, WAY), _tile(1, WAY)
