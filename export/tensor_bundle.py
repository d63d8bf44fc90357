"""Checkpoints and variables of SavedModels as TensorFlow writes them, read without TensorFlow: the tensor bundle.

``PREFIX.index`` is a sorted table from the names of tensors to where they lie in ``PREFIX.data-00000-of-00001`` and its
neighbours (``tensor_bundle.proto``; the table is LevelDB's). Every block of the table and every tensor has a CRC-32C.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.core.protobuf import fields, varint
from ctxdeploy.core.reading import TooManyBytesError, open_regular, read_regular
from ctxdeploy.core.text import printable
from ctxdeploy.export.crc32c import crc32c

INDEX = ".index"
# What TensorFlow 2 appends to the names of variables.
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# The index of a ResNet-101 with its optimiser has 0.1 MB.
_MAX_INDEX = 64 << 20
_FOOTER, _MAGIC = 48, bytes.fromhex("57fb808b247547db")
# After a block: its compression, and the checksum of both.
_TRAILER = 5
_SNAPPY = 1
_TEXT, _MAX_TEXT = 7, 64 << 20
_CRC_DELTA = 0xA282EAD8
_MAX_RANK, _MAX_SHARDS = 16, 100_000
# Numbers of ``types.proto``; bfloat16 is read as float32.
_BFLOAT16 = 14
_DTYPES: Mapping[int, str] = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", _BFLOAT16: "<u2", 17: "<u2",
    19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip

Extent = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where a tensor lies.

    Attributes:
        type: its number in ``types.proto``: 1 float32, 7 text, 9 int64, 14 bfloat16, 19 float16.
        shape: its sizes; none for a single number.
        shard: number of its data file.
        offset: of its first byte there.
        size: its bytes.
        crc: masked CRC-32C of its bytes.
        slices: of a partitioned variable, start and length of each slice on each axis (length -1: the whole axis).
    """

    type: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[tuple[Extent, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TensorBundle:
    """An opened checkpoint.

    Attributes:
        prefix: the path without ``.index``.
        shards: number of data files.
        entries: tensors by name, TensorFlow 2's suffix taken off; texts and the graph of objects are among them.
        parts: slices of partitioned variables, by their key in the table.
    """

    prefix: Path
    shards: int
    entries: Mapping[str, TensorEntry]
    parts: Mapping[bytes, TensorEntry]

    @classmethod
    def open(cls, prefix: str | os.PathLike[str]) -> "TensorBundle":
        """Read the index of a checkpoint; nothing is read of its tensors.

        Args:
            prefix: as TensorFlow takes it, or the path of the index itself.

        Raises:
            CheckpointError: there is none, or it is damaged or of a form that is not read here.
        """
        given = os.fspath(prefix)
        path = Path(given if given.endswith(INDEX) else given + INDEX)
        try:
            data = read_regular(path, _MAX_INDEX)
        except TooManyBytesError as error:
            raise CheckpointError(f"{path} is not the index of a TensorFlow checkpoint: {error.strerror}") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        try:
            return _parse(Path(str(path).removesuffix(INDEX)), memoryview(data))
        except (ValueError, IndexError, OverflowError) as error:
            raise CheckpointError(
                f"{path} is not the index of a TensorFlow checkpoint, or is damaged: {error}; copy it again"
            ) from error

    def read(self, name: str) -> NDArray[np.generic]:
        """Return a tensor in C order, little endian; bfloat16 as float32.

        Raises:
            CheckpointError: there is none of that name, it is text, its file is missing or cut short, its bytes are not
                those that were written, or the slices of a partitioned variable do not make it up.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.prefix}{INDEX} has no tensor {printable(name)}")
        shown = printable(name)[:200]
        return self._assembled(name, shown, entry) if entry.slices else self._stored(shown, entry)

    def text(self, name: str) -> bytes:
        """Return a single text: its length, the checksum of that, and its bytes.

        Raises:
            CheckpointError: there is none of that name, or it is not what was written.
        """
        entry = self.entries.get(name)
        shown = printable(name)[:200]
        if entry is None or entry.type != _TEXT or entry.shape or entry.size > _MAX_TEXT:
            raise CheckpointError(f"{self.prefix}{INDEX} has no text {shown}")
        data = memoryview(self._bytes(shown, entry))
        try:
            length, at = varint(data, 0)
        except (ValueError, IndexError):
            length, at = 0, len(data)
        # The checksum of the whole counts the length in four bytes, not as it is written.
        content = data[at + 4 :]
        counted = (
            length.to_bytes(8, "little")[: 4 if length < 1 << 32 else 8] + bytes(data[at : at + 4]) + bytes(content)
        )
        if len(content) != length or _masked(crc32c(counted)) != entry.crc:
            raise CheckpointError(f"{self._file(entry.shard)}: {shown} is not what was written: copy the file again")
        return bytes(content)

    def _stored(self, shown: str, entry: TensorEntry) -> NDArray[np.generic]:
        dtype = _DTYPES.get(entry.type)
        if dtype is None:
            raise CheckpointError(f"{self.prefix}{INDEX}: {shown} is of TensorFlow's type {entry.type}: not numbers")
        count = math.prod(entry.shape)
        if count * np.dtype(dtype).itemsize != entry.size:
            raise CheckpointError(
                f"{self.prefix}{INDEX}: {shown} has {entry.size:,} bytes, but its shape {list(entry.shape)} needs "
                f"{count * np.dtype(dtype).itemsize:,}: the file is damaged"
            )
        data = self._bytes(shown, entry)
        if _masked(crc32c(data)) != entry.crc:
            raise CheckpointError(f"{self._file(entry.shard)}: {shown} is not what was written: copy the file again")
        array = np.frombuffer(data, dtype)
        if entry.type == _BFLOAT16:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(entry.shape)

    def _file(self, shard: int) -> Path:
        return Path(f"{self.prefix}.data-{shard:05d}-of-{self.shards:05d}")

    def _bytes(self, shown: str, entry: TensorEntry) -> bytes:
        path = self._file(entry.shard)
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if entry.offset + entry.size > size:
                    raise CheckpointError(
                        f"{path} has {size:,} bytes, but {shown} ends at {entry.offset + entry.size:,}: copy it again"
                    )
                file.seek(entry.offset)
                data = file.read(entry.size)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read: {error.strerror or error}; the data files of a checkpoint lie beside its index"
            ) from error
        if len(data) != entry.size:
            raise CheckpointError(f"{path} ends within {shown}: copy it again")
        return data

    def _assembled(self, name: str, shown: str, entry: TensorEntry) -> NDArray[np.generic]:
        """Return a partitioned variable, put together from its slices, which must cover it exactly once."""
        boxes, parts = [], []
        if len(set(entry.slices)) < len(entry.slices):
            raise CheckpointError(f"{self.prefix}{INDEX}: a slice of {shown} is missing or comes twice")
        for extents in entry.slices:
            part = self.parts.get(_slice_key(name, extents)) or self.parts.get(_slice_key(name + SUFFIX, extents))
            box = _box(entry.shape, extents)
            lengths = tuple(axis.stop - axis.start for axis in box)
            if part is None or part.slices or part.type != entry.type or part.shape != lengths:
                raise CheckpointError(f"{self.prefix}{INDEX}: a slice of {shown} is missing or does not fit")
            boxes.append(box)
            parts.append(part)
        if sum(math.prod(part.shape) for part in parts) != math.prod(entry.shape):
            raise CheckpointError(f"{self.prefix}{INDEX}: the slices of {shown} do not make up {list(entry.shape)}")
        # The slices are read first: the whole is not larger than they are together.
        arrays = [self._stored(shown, part) for part in parts]
        whole, filled = np.empty(entry.shape, arrays[0].dtype), np.zeros(entry.shape, bool)
        for box, array in zip(boxes, arrays, strict=True):
            whole[box], filled[box] = array, True
        if not filled.all():
            raise CheckpointError(f"{self.prefix}{INDEX}: the slices of {shown} overlap")
        return whole


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _CRC_DELTA) & 0xFFFFFFFF


def _parse(prefix: Path, data: memoryview) -> TensorBundle:
    table = dict(_table(data))
    shards = _header(table.pop(b"", None))
    entries: dict[str, TensorEntry] = {}
    parts: dict[bytes, TensorEntry] = {}
    for key, value in table.items():
        entry = _entry(value)
        if not 0 <= entry.shard < shards:
            raise ValueError(f"a tensor in data file {entry.shard} of {shards}")
        # Keys of the slices of partitioned variables begin with a byte of 0, and are not text.
        if key.startswith(b"\0"):
            parts[key] = entry
            continue
        name = key.decode("utf-8").removesuffix(SUFFIX)
        if name in entries:
            raise ValueError(f"two tensors {printable(name)[:200]}")
        entries[name] = entry
    return TensorBundle(prefix=prefix, shards=shards, entries=entries, parts=parts)


def _header(value: memoryview | None) -> int:
    """Return the number of data files."""
    if value is None:
        raise ValueError("it has no header")
    found = dict(fields(value))
    shards = found.get(1, 0)
    if not isinstance(shards, int) or not 1 <= shards <= _MAX_SHARDS:
        raise ValueError("its number of data files")
    if found.get(2, 0) != 0:
        raise ValueError("it was written on a machine that puts the highest byte first, which is not read")
    return shards


def _table(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield keys and values of the whole table, in order."""
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise ValueError("its last bytes are not those of one")
    footer = data[-_FOOTER:-8]
    _, at = varint(footer, 0)
    _, at = varint(footer, at)
    offset, at = varint(footer, at)
    size, at = varint(footer, at)
    if any(footer[at:]):
        raise ValueError("its footer")
    last: bytes | None = None
    for _, handle in _entries(_block(data, offset, size)):
        block_offset, at = varint(handle, 0)
        block_size, at = varint(handle, at)
        for key, value in _entries(_block(data, block_offset, block_size)):
            if last is not None and key <= last:
                raise ValueError("its names are not in order")
            last = key
            yield key, value


def _block(data: memoryview, offset: int, size: int) -> memoryview:
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise ValueError("a block beyond its end")
    if _masked(crc32c(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + _TRAILER], "little"):
        raise ValueError("a checksum")
    if data[end]:
        how = "Snappy" if data[end] == _SNAPPY else f"the method {data[end]}"
        raise ValueError(f"it is compressed with {how}, which TensorFlow's own writer does not do and is not read")
    return data[offset:end]


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield keys and values of a block: a key repeats the beginning of the one before it."""
    if len(block) < 4:
        raise ValueError("a block without an end")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise ValueError("the end of a block")
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or at + own + length > end:
            raise ValueError("an entry beyond the end of its block")
        key = key[:shared] + bytes(block[at : at + own])
        at += own
        yield key, block[at : at + length]
        at += length


def _entry(value: memoryview) -> TensorEntry:
    numbers = {"type": 0, "shard": 0, "offset": 0, "size": 0}
    names = {1: "type", 3: "shard", 4: "offset", 5: "size"}
    shape: tuple[int, ...] = ()
    crc, slices = 0, []
    for number, field in fields(value):
        if isinstance(field, int):
            if number in names:
                numbers[names[number]] = field
        elif number == 2:
            shape = _shape(field)
        elif number == 6:
            crc = int.from_bytes(field, "little")
        elif number == 7:
            slices.append(_extents(field))
    return TensorEntry(shape=shape, crc=crc, slices=tuple(slices), **numbers)


def _shape(value: memoryview) -> tuple[int, ...]:
    """Return the sizes of a TensorShapeProto, in which a size of 0 stands as no size."""
    sizes = []
    for number, dimension in fields(value):
        if number == 2 and not isinstance(dimension, int):
            size = dict(fields(dimension)).get(1, 0)
            if not isinstance(size, int) or size >= 1 << 40:
                raise ValueError("a size of a tensor")
            sizes.append(size)
    if len(sizes) > _MAX_RANK:
        raise ValueError(f"a tensor of {len(sizes)} axes")
    if math.prod(max(size, 1) for size in sizes) > 1 << 56:
        raise ValueError("a tensor of more numbers than any file has")
    return tuple(sizes)


def _extents(value: memoryview) -> tuple[Extent, ...]:
    extents = []
    for number, extent in fields(value):
        if number == 1 and not isinstance(extent, int):
            found = dict(fields(extent))
            start, length = found.get(1, 0), found.get(2, -1)
            if not isinstance(start, int) or not isinstance(length, int) or max(start, length) >= 1 << 40:
                raise ValueError("a slice of a tensor")
            extents.append((start, length))
    return tuple(extents)


def _box(shape: tuple[int, ...], extents: tuple[Extent, ...]) -> tuple[slice, ...]:
    """Return where a slice lies; one of another rank, or beyond the whole, is empty."""
    if len(shape) != len(extents):
        return ()
    both = zip(shape, extents, strict=True)
    return tuple(slice(start, size if length < 0 else min(start + length, size)) for size, (start, length) in both)


def _slice_key(name: str, extents: tuple[Extent, ...]) -> bytes:
    """Return the key of a slice: 0, the name, the number of axes, start and length of each, so coded as to sort."""
    text = name.encode().replace(b"\xff", b"\xff\x00").replace(b"\0", b"\0\xff")
    count = bytes([1, len(extents)]) if extents else b"\0"
    return b"\0" + text + b"\0\1" + count + b"".join(_signed(number) for extent in extents for number in extent)


def _signed(number: int) -> bytes:
    """Return a whole number as Google's ordered code has it: as many leading ones as it has bytes, 7 bits in each."""
    length = 1
    while not -(1 << (7 * length - 1)) <= number < 1 << (7 * length - 1):
        length += 1
    header = ((1 << length) - 1) << (8 * length - length)
    return ((number & ((1 << 8 * length) - 1)) ^ header).to_bytes(length, "big")
