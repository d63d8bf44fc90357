"""Pickled data sets, read as data: the only module that imports ``pickle``.

The ground truth of Revisited Oxford and Paris and the lists of SfM-120k are published as pickles and as nothing else. A
pickle is a program: loaded as it stands, it can run any command. Here it can build plain containers, text, numbers and
numpy arrays. The few names that arrays consist of stand for functions of ours that check their arguments, since numpy's
own trust them; every other name is refused.
"""

import math
import pickle
import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, CtxdeployError
from ctxdeploy.core.reading import TooManyBytesError, read_regular
from ctxdeploy.core.text import printable

# The longest of the published lists, SfM-120k's, names 98 thousand photos.
MAX_BYTES = 256 << 20
_DTYPES = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,9}|O[48]?")
# Their values are not in the file. What EXT1 stands for is cached in Python: ``find_class`` may not be asked.
_OUTSIDE = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_HASHED = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}


class _RefusedError(Exception):
    """A file asks for what plain data does not need; the text says what."""


def load_plain(path: Path, error: type[CtxdeployError] = ConfigError) -> Any:
    """Return what a pickle of plain data holds: containers, text, bytes, numbers, numpy arrays and scalars.

    Any protocol will do, Python 2's files too: their strings come as text, undecodable bytes as in names of files.
    Containers may be shared, and may hold themselves: check what you take.

    Args:
        path: the file.
        error: what to raise.

    Raises:
        CtxdeployError: ``error``: the file cannot be read, is larger than 256 MiB, is damaged, or asks for anything but
            plain data, which the message names. Nothing in it was run.
    """
    shown = printable(str(path))
    try:
        data = read_regular(path, MAX_BYTES)
    except TooManyBytesError as reason:
        raise error(f"{shown} is larger than {MAX_BYTES >> 20} MiB: it is not a data set's list of photos") from reason
    except OSError as reason:
        raise error(f"{shown} cannot be read: {reason.strerror or reason}") from reason
    try:
        _check_opcodes(data)
        return _Unpickler(data).load()
    except MemoryError:
        raise
    except _RefusedError as reason:
        raise error(
            f"{shown} {printable(str(reason))}: it is refused, and nothing in it was run; take the file that the data "
            "set's authors publish"
        ) from reason
    except Exception as reason:  # pickle raises a dozen classes for a damaged file
        raise error(f"{shown} is not a pickle of plain data, or is damaged: {printable(str(reason))[:200]}") from reason


def _check_opcodes(data: bytes) -> None:
    """Refuse what takes memory or time out of proportion to the file; also, all lengths in it must be right.

    Measured with Python 3.11: nine bytes that use place 100,000,000 of the memo take 1.6 GB; a key of a dictionary of
    26 tuples, each of which holds the one before twice, takes 0.7 s to hash, and twice as long for every further tuple.
    """
    file, name = BytesIO(data), ""
    # In place of the values: how many values each tuple holds, with those in its tuples. Marks are None.
    stack: list[int | None] = []
    memo: dict[int, int] = {}
    while name != "STOP":
        position = file.tell()
        opcode = _OPCODES[file.read(1)]
        name, kinds = opcode.name, opcode.stack_before
        # A string of Python 2 holds any bytes; the reader of pickletools takes ASCII alone.
        argument: Any = file.readline() if name == "STRING" else opcode.arg and opcode.arg.reader(file)
        if name in _OUTSIDE:
            raise _RefusedError(f"takes a value from elsewhere, at byte {position}")
        if name == "MEMOIZE" or name in ("PUT", "BINPUT", "LONG_BINPUT"):
            place = len(memo) if name == "MEMOIZE" else argument
            if not 0 <= place <= len(data):
                raise _RefusedError(f"uses place {place} of the memo, in {len(data)} bytes")
            memo[place] = stack[-1] or 0
            continue
        first = len(stack) - len(kinds)
        if pickletools.markobject in kinds:
            first = len(stack) - 1 - stack[::-1].index(None) - kinds.index(pickletools.markobject)
        weights = [weight or 0 for weight in stack[first:]]
        del stack[first:]
        weight = 0
        if name in _HASHED:
            weight = 1 + sum(weights) + len(weights)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            weight = memo[argument]
        elif name == "DUP":
            weight = weights[0]
        if weight > len(data) + 2:
            raise _RefusedError(f"holds a tuple of more values than the file has bytes, at byte {position}")
        stack += [None] if name == "MARK" else [weight] * len(opcode.stack_after)


class _Unpickler(pickle.Unpickler):
    """Admits the names that numpy arrays consist of, before numpy 2 and since, and those of sets and empty bytes."""

    def __init__(self, data: bytes) -> None:
        # A string of Python 2 is text or the bytes of an array: this way either can be had back.
        super().__init__(BytesIO(data), encoding="utf-8", errors="surrogateescape")
        self._left = len(data)
        names: dict[str, Callable[..., Any]] = {
            "numpy.dtype": _Dtype,
            "numpy.ndarray": _refuse,
            "_codecs.encode": self._encode,
        }
        for module in ("builtins", "__builtin__"):
            names |= {f"{module}.set": set, f"{module}.frozenset": frozenset, f"{module}.bytes": lambda: b""}
        for core in ("numpy.core", "numpy._core"):
            names[f"{core}.multiarray._reconstruct"] = self._array
            names[f"{core}.multiarray.scalar"] = lambda dtype, data: _values(_bytes(data), dtype, (), "C")[()]
            names[f"{core}.numeric._frombuffer"] = lambda data, dtype, shape, order, axes=None: (
                _values(data, dtype, shape, order) if axes is None else _values(data, dtype, shape, "C").transpose(axes)
            )
        self._admitted = {name: _Name(function) for name, function in names.items()}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for an admitted name, and refuse any other."""
        found = self._admitted.get(f"{module}.{name}")
        if found is None:
            raise _RefusedError(f"asks for {f'{module}.{name}'[:120]}, which is not plain data")
        return found

    def _array(self, kind: Any, shape: Any, code: Any) -> "_Array":
        array = np.ndarray.__new__(_Array, 0)
        array.spend = self._spend
        return array

    def _encode(self, text: str, codec: str) -> bytes:
        # Python 3 writes bytes so in protocols 0 to 2.
        self._spend(len(text))
        if codec not in ("latin1", "latin-1"):
            raise _RefusedError("encodes text in a way that plain data does not")
        return text.encode("latin-1")

    def _spend(self, count: int) -> None:
        """Count bytes and values that are made from others: a file that uses one often must not become larger."""
        self._left -= count
        if self._left < 0:
            raise _RefusedError("unpacks to more than its size")


class _Name:
    """Stands for an admitted name: it can be called, and has nothing that a file could change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        _refuse()


class _Dtype:
    """A dtype, complete once its state is set; without fields, since numpy believes what is said of them."""

    def __init__(self, name: str, align: Any, copy: Any) -> None:
        if type(name) is not str or _DTYPES.fullmatch(name) is None:
            raise _RefusedError(f"holds an array of the dtype {str(name)[:20] if type(name) is str else type(name)}")
        self.name, self.value = name, np.dtype("O" if name[0] == "O" else name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in (*state[2:5], *state[8:])):
            raise _RefusedError("holds an array of a dtype with fields")
        self.value = self.value.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array, complete once its state is set; ``spend`` is the budget of the file."""

    spend: Callable[[int], None]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if type(data) is list:
            self.spend(len(data))
            if type(dtype) is not _Dtype or not dtype.value.hasobject or _size(shape) != len(data):
                raise _RefusedError(f"holds {len(data)} objects for an array of another kind or size")
        else:
            data = _bytes(data)
            _values(data, dtype, shape, "C")
        complete: Any = (1, shape, dtype.value, bool(fortran), data)
        super().__setstate__(complete)
        del self.spend  # it holds the file, and a state is set once


def _values(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    """Return an array over bytes, of which there must be as many as the shape takes."""
    if type(data) not in (bytes, bytearray) or type(dtype) is not _Dtype or dtype.value.hasobject:
        raise _RefusedError("holds an array whose values are neither numbers nor text")
    kind = dtype.value
    if _size(shape) * kind.itemsize != len(data) or _size(shape) > len(data) + 1:
        raise _RefusedError(f"holds {len(data)} bytes for an array of {kind} of another size")
    if kind.kind == "U" and data and np.frombuffer(data, kind.byteorder + "u4").max() > 0x10FFFF:
        raise _RefusedError("holds text that is not text")
    return np.ndarray(shape, kind, buffer=data, order="F" if order == "F" else "C")


def _size(shape: Any) -> int:
    if type(shape) is not tuple or not all(type(side) is int and side >= 0 for side in shape):
        raise _RefusedError("holds an array without a shape")
    return math.prod(shape)


def _bytes(data: Any) -> Any:
    """Return the bytes of an array or a scalar, which are a text in a file of Python 2."""
    return data.encode("utf-8", "surrogateescape") if type(data) is str else data


def _refuse(*arguments: Any) -> Any:
    raise _RefusedError("uses numpy in a way that plain data does not")
