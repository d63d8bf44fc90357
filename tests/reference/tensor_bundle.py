"""A writer of TensorFlow's tensor bundles, from ``tensor_bundle.proto`` and LevelDB's description of its tables.

Checksums of small tensors are reckoned bit by bit; of large ones by the function that is given.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
TEXT = 7
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number * 8 + 2) + varint(len(value)) + value
    return varint(number * 8) + varint(value) if value else b""


def shape_proto(shape: Sequence[int]) -> bytes:
    return b"".join(field(2, field(1, size)) for size in shape)


def entry(
    kind: int, shape: Sequence[int], shard: int, offset: int, data: bytes, crc: int, slices: Sequence[Any] = ()
) -> bytes:
    parts = [field(1, kind), field(2, shape_proto(shape)), field(3, shard), field(4, offset), field(5, len(data))]
    parts += [varint(6 * 8 + 5) + crc.to_bytes(4, "little")] if crc else []
    for extents in slices:
        body = b"".join(field(1, field(1, start) + field(2, length)) for start, length in extents)
        parts.append(field(7, body))
    return b"".join(parts)


def slice_key(name: str, extents: Sequence[tuple[int, int]]) -> bytes:
    """Return the key of a slice whose starts and lengths are below 8192."""
    key = b"\0" + name.encode() + b"\0\1" + bytes([1, len(extents)])
    for number in (number for extent in extents for number in extent):
        key += bytes([128 + number]) if number < 64 else (0xC000 + number).to_bytes(2, "big")
    return key


def block(entries: Sequence[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """Return a block with restarts every 16 entries, its compression and its checksum."""
    out, restarts, last = bytearray(), [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % 16 == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    for restart in (*restarts, len(restarts)):
        out += restart.to_bytes(4, "little")
    out.append(compression)
    return bytes(out) + masked(slow_crc32c(bytes(out))).to_bytes(4, "little")


def write_table(path: Path, entries: Sequence[tuple[bytes, bytes]], a_block: int = 60, compression: int = 0) -> None:
    out, index = bytearray(), []
    for start in range(0, len(entries), a_block):
        made = block(entries[start : start + a_block], compression)
        last = entries[min(start + a_block, len(entries)) - 1][0]
        index.append((last, varint(len(out)) + varint(len(made) - 5)))
        out += made
    handles = []
    for made in (block([]), block(index)):
        handles.append(varint(len(out)) + varint(len(made) - 5))
        out += made
    footer = b"".join(handles).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    path.write_bytes(bytes(out) + footer)


def write(
    prefix: Path,
    tensors: Mapping[str, Any],
    *,
    shards: int = 1,
    rows: Mapping[str, int] | None = None,
    suffix: str = "",
    crc32c: Callable[[bytes], int] = slow_crc32c,
    compression: int = 0,
    header: bytes | None = None,
) -> None:
    """Write a checkpoint.

    Args:
        prefix: its path without endings.
        tensors: by name; bytes for a single text, to whose name nothing is appended.
        shards: data files, which the tensors go to in turn.
        rows: of partitioned variables, the rows of each slice but the last.
        suffix: appended to every name, as TensorFlow 2 does.
        crc32c: of the tensors' bytes.
        compression: said of the table's blocks, which are not compressed for it.
        header: in place of the usual one.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    table = {b"": field(1, shards) + field(3, field(1, 1)) if header is None else header}
    files = [bytearray() for _ in range(shards)]

    def store(array: Any, number: int) -> tuple[Any, ...]:
        shard = number % shards
        offset = len(files[shard])
        if isinstance(array, bytes):
            length = len(array).to_bytes(4, "little")
            check = masked(crc32c(length)).to_bytes(4, "little")
            data = varint(len(array)) + check + array
            files[shard] += data
            return TEXT, (), shard, offset, data, masked(crc32c(length + check + array))
        data = array.tobytes()
        files[shard] += data
        return TYPES[array.dtype.name], array.shape, shard, offset, data, masked(crc32c(data))

    for number, (name, value) in enumerate(tensors.items()):
        if isinstance(value, bytes):
            table[name.encode()] = entry(*store(value, number))
            continue
        array = np.asarray(value)
        step = (rows or {}).get(name)
        if step is None:
            table[(name + suffix).encode()] = entry(*store(array, number))
            continue
        slices = []
        for start in range(0, len(array), step):
            part = np.ascontiguousarray(array[start : start + step])
            extents = [(start, len(part)), *((0, size) for size in array.shape[1:])]
            slices.append(extents)
            table[slice_key(name + suffix, extents)] = entry(*store(part, number + start))
        table[(name + suffix).encode()] = entry(TYPES[array.dtype.name], array.shape, 0, 0, b"", 0, slices)
    write_table(Path(f"{prefix}.index"), sorted(table.items()), compression=compression)
    for shard, content in enumerate(files):
        Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
