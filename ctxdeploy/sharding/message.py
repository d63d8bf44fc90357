"""The messages of search over shards: facts and arrays, none of which is believed before it was checked.

Layout of a safetensors file (``index/storage/message.py``). What a field holds is checked when it is read, against the
archive that both sides have opened: dtypes, shapes, offsets, words that rise within the codebook, finite numbers. A
message of another version is refused; both sides run the same ctxdeploy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.index import read_message, write_message

REQUEST, REPLY = "ctxdeploy-shard-request", "ctxdeploy-shard-reply"
VERSION = 1
# Bytes of a message. Searches of more are cut into several (``MAX_SENT``), for each combination is its own.
MAX_BYTES = 1 << 26
MAX_SENT = 1 << 23
MAX_NAMES = 1 << 20
MAX_QUERIES = 1 << 14
MAX_HITS = 1 << 17


class MessageError(ConfigError):
    """What came is not a message, or not one that fits the archive."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """Facts and arrays.

    Attributes:
        facts: numbers, texts and short lists.
        arrays: by name; read ones are views of what came.
        where: the message, for errors.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    where: str = "message"

    def encode(self, name: str) -> bytes:
        """Return it as bytes; ``ConfigError`` if they are too many."""
        data = write_message(name, VERSION, self.facts, self.arrays)
        if len(data) > MAX_BYTES:
            raise ConfigError(
                f"{len(data):,} bytes are too many for one message of {MAX_BYTES:,}: ask for less at once"
            )
        return data

    @classmethod
    def decode(cls, data: bytes, name: str, where: str) -> Self:
        """Return the message in some bytes; ``MessageError`` if there is none."""
        if len(data) > MAX_BYTES:
            raise MessageError(f"{where} has {len(data):,} bytes, above {MAX_BYTES:,}")
        try:
            facts, arrays = read_message(bytes(data), name, VERSION, where)
        except ArchiveError as error:
            raise MessageError(str(error)) from error
        return cls(facts=facts, arrays=arrays, where=where)

    def wrong(self, what: str) -> MessageError:
        """Return the error of a message in which something is wrong."""
        return MessageError(f"{self.where} is wrong: {what}"[:500])

    def count(self, name: str, *, least: int = 0, most: int) -> int:
        """Return a whole number within its range."""
        value = self.facts.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(f"{name} is {value!r}, not a whole number in {least}..{most}")
        return value

    def text(self, name: str, *, most: int = 4096) -> str:
        """Return a text of at most so many characters."""
        value = self.facts.get(name)
        if not isinstance(value, str) or len(value) > most:
            raise self.wrong(f"{name} is not a text of up to {most} characters")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.facts.get(name)
        if not isinstance(value, bool):
            raise self.wrong(f"{name} is {value!r}, neither true nor false")
        return value

    def number(self, name: str) -> float:
        """Return a finite number."""
        value = self.facts.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(f"{name} is {value!r}, not a number")
        return float(value)

    def array(self, name: str, dtype: str, *shape: int | None) -> NDArray[Any]:
        """Return a copy of an array of this dtype and shape; None in it stands for any length."""
        found = self.arrays.get(name)
        if found is None or found.dtype != np.dtype(dtype) or found.ndim != len(shape):
            raise self.wrong(f"{name} is not an array of {len(shape)} dimensions of {np.dtype(dtype)}")
        if any(wanted is not None and length != wanted for length, wanted in zip(found.shape, shape, strict=True)):
            raise self.wrong(f"{name} has the shape {found.shape}, not {shape}")
        return np.array(found)

    def finite(self, name: str, dtype: str, *shape: int | None) -> NDArray[Any]:
        """Return an array of floats without NaN and infinity."""
        found = self.array(name, dtype, *shape)
        if not np.isfinite(found).all():
            raise self.wrong(f"{name} holds NaN or infinity")
        return found

    def ends(self, name: str, last: int, *, most: int, least: int = 0) -> NDArray[np.int64]:
        """Return offsets of ``least`` .. ``most`` items, which begin at 0, never fall, and end at ``last``."""
        found = self.array(name, "<u4", None).astype(np.int64)
        if not least + 1 <= len(found) <= most + 1:
            raise self.wrong(f"{name} has {len(found) - 1} items, not {least} to {most}")
        if found[0] != 0 or found[-1] != last or bool((found[1:] < found[:-1]).any()):
            raise self.wrong(f"{name} does not rise from 0 to {last}")
        return found

    def names(self, name: str, *, most: int = MAX_NAMES) -> list[str]:
        """Return a list of names of photos."""
        data = self.array(name, "|u1", None)
        ends = self.ends(f"{name}_ends", len(data), most=most).tolist()
        joined = data.tobytes()
        return [joined[a:b].decode("utf-8", "surrogateescape") for a, b in pairwise(ends)]

    def rows(self, name: str, count: int) -> NDArray[np.int64]:
        """Return rising places in a list of ``count``."""
        found = self.array(name, "<u4", None).astype(np.int64)
        if len(found) and (int(found[-1]) >= count or bool((found[1:] <= found[:-1]).any())):
            raise self.wrong(f"{name} does not rise below {count}")
        return found


def ends_of(lengths: Sequence[int]) -> NDArray[np.uint32]:
    """Return the offsets of items of such lengths, as ``Message.ends`` reads them."""
    return np.cumsum([0, *lengths], dtype=np.int64).astype(np.uint32)


def name_arrays(name: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return a list of names of photos, as ``Message.names`` reads it. All can be encoded: see ``is_name``."""
    if len(names) > MAX_NAMES:
        raise ConfigError(f"{len(names):,} names are too many for one message of {MAX_NAMES:,}: give fewer")
    encoded = [one.encode("utf-8", "surrogateescape") for one in names]
    data = np.frombuffer(b"".join(encoded), np.uint8)
    return {name: data, f"{name}_ends": ends_of([len(one) for one in encoded])}


def is_name(name: str) -> bool:
    """Return whether a photo can be called so: there are texts that no archive holds."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == name
    except UnicodeEncodeError:
        return False


def row_array(rows: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return places as ``Message.rows`` reads them."""
    return rows.astype(np.uint32)


def joined(*parts: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of several fields."""
    return {name: array for part in parts for name, array in part.items()}
