"""Pickled data sets, read as data: the only module that imports ``pickle``.

The ground truth of Revisited Oxford and Paris and the lists of SfM-120k are published as pickles and as nothing else. A
pickle is a program: loaded as it stands it can run any command. Here it can build plain containers, text, numbers and
numpy arrays; the names that those consist of stand for functions of our own, and every other name is refused.
"""

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.errors import ConfigError, CtxdeployError
from ctxdeploy.core.pickle_scan import MOST_IN_KEY, scan
from ctxdeploy.core.plain_arrays import Array, ArrayClass, Budget, Dtype, Name, RefusedError, as_bytes, over_bytes
from ctxdeploy.core.text import printable

# The longest of the published lists, SfM-120k's, names 98 thousand photos.
MOST_BYTES = 256 << 20
MOST_DEPTH = 50
_ATOMS = (str, bytes, int, float, complex, bool, type(None))
_OPEN = object()


def load_plain(path: Path, error: type[CtxdeployError] = ConfigError) -> Any:
    """Return what a pickle holds: dict, list, tuple, set, frozenset, str, bytes, numbers, bool, None, numpy arrays and
    scalars of numbers, bool and text, arrays of objects that are plain themselves.

    Any protocol will do, Python 2's files too: their strings come as text, undecodable bytes as in names of files.
    Arrays are read-only. A container may be used twice, but not hold itself. What follows the pickle is left out.

    Args:
        path: the file.
        error: what to raise.

    Raises:
        CtxdeployError: ``error``: the file cannot be read, is larger than 256 MiB, is no pickle or truncated, or holds
            anything else, which the message names. Nothing in it was run.
    """
    shown = printable(str(path))
    data = _read(path, shown, error)
    try:
        scan(data)
        return _Plain().of(_Unpickler(data).content())
    except MemoryError:
        raise
    except RefusedError as reason:
        raise error(
            f"{shown} {printable(str(reason))}: it is refused, and nothing in it was run; take the file that the data "
            "set's authors publish"
        ) from reason
    except Exception as reason:  # pickle raises a dozen classes for a damaged file
        raise error(f"{shown} is no pickle of plain data, or damaged: {printable(str(reason))[:200]}") from reason


def _read(path: Path, shown: str, error: type[CtxdeployError]) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as reason:
        raise error(f"{shown} cannot be read ({getattr(reason, 'strerror', None) or reason})") from reason
    if len(data) > MOST_BYTES:
        raise error(f"{shown} has more than {MOST_BYTES >> 20} MiB: it is no data set's list of photos")
    return data


class _Unpickler(pickle.Unpickler):
    """Admits the names that plain containers and numpy arrays consist of.

    Args:
        data: a pickle that ``scan`` has passed.
    """

    def __init__(self, data: bytes) -> None:
        # A string of Python 2 is text or the bytes of an array: this way either can be had back.
        super().__init__(BytesIO(data), encoding="utf-8", errors="surrogateescape")
        self._budget = Budget(len(data))
        both = ("builtins", "__builtin__")
        self._admitted: dict[tuple[str, str], Any] = {
            ("numpy", "dtype"): Name(Dtype),
            ("numpy", "ndarray"): ArrayClass(),
            ("_codecs", "encode"): Name(self._encode),
            **{(module, "set"): Name(self._set) for module in both},
            **{(module, "frozenset"): Name(self._frozenset) for module in both},
            **{(module, "bytes"): Name(self._bytes) for module in both},
            **{(module, "complex"): Name(self._complex) for module in both},
        }
        for core in ("numpy.core", "numpy._core"):  # before numpy 2, and since
            self._admitted[f"{core}.multiarray", "_reconstruct"] = Name(self._reconstruct)
            self._admitted[f"{core}.multiarray", "scalar"] = Name(self._scalar)
            self._admitted[f"{core}.numeric", "_frombuffer"] = Name(self._frombuffer)

    def content(self) -> Any:
        """Return what the pickle holds, its arrays not yet in place."""
        try:
            return self.load()
        finally:
            self._admitted.clear()  # they hold this object, and with it the file's bytes

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for an admitted name.

        Raises:
            RefusedError: it is another name.
        """
        found = self._admitted.get((module, name))
        if found is None:
            raise RefusedError(f"asks for {f'{module}.{name}'[:120]}, which is no plain data")
        return found

    def _reconstruct(self, kind: Any, shape: Any, code: Any) -> Array:
        if type(kind) is not ArrayClass or shape != (0,) or code not in (b"b", "b"):
            raise RefusedError("holds an array that is not numpy's own")
        return Array(self._budget)

    def _frombuffer(self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
        made = Array(self._budget)
        made.fill(data, dtype, shape, order, axes)
        return made

    def _scalar(self, dtype: Any, data: Any) -> Any:
        return over_bytes(as_bytes(data, self._budget), dtype, (), "C")[()]

    def _set(self, members: Any) -> set[Any]:
        return set(self._members(members))

    def _frozenset(self, members: Any) -> frozenset[Any]:
        return frozenset(self._members(members))

    def _members(self, members: Any) -> list[Any] | tuple[Any, ...]:
        if type(members) not in (list, tuple):
            raise RefusedError("holds a set that is not made from a list")
        self._budget.spend(len(members))
        for member in members:
            _weigh(member, MOST_IN_KEY)
        checked: list[Any] | tuple[Any, ...] = members
        return checked

    def _bytes(self, *arguments: Any) -> bytes:
        if arguments:  # pickle writes this name for empty bytes alone
            raise RefusedError("makes bytes of other data")
        return b""

    def _complex(self, real: Any, imaginary: Any) -> complex:
        if type(real) is not float or type(imaginary) is not float:
            raise RefusedError("holds a complex number that is none")
        return complex(real, imaginary)

    def _encode(self, text: Any, codec: Any) -> bytes:
        # Python 3 writes bytes so in protocols 0 to 2.
        if type(text) is not str or type(codec) is not str or codec not in ("latin1", "latin-1"):
            raise RefusedError(f"encodes its data with {repr(codec)[:60] if type(codec) is str else 'no text'}")
        self._budget.spend(len(text))
        return text.encode("latin-1")


def _weigh(value: Any, left: int) -> int:
    """Return how much of ``left`` remains, less the values that hashing this one touches."""
    left -= 1 + (value.bit_length() // 64 if type(value) is int else 0)
    if left < 0:
        raise RefusedError(f"holds a member of a set of more than {MOST_IN_KEY} values")
    for part in value if type(value) in (tuple, frozenset) else ():
        left = _weigh(part, left)
    return left


class _Plain:
    """Completes and checks what was unpickled; what is shared stays shared."""

    def __init__(self) -> None:
        # By identity, with the original, so that no other object takes it over.
        self._done: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return the value with its arrays in place.

        Raises:
            RefusedError: there is more in it than plain data, or it is nested too deeply.
        """
        if type(value) in _ATOMS or isinstance(value, np.generic):
            return value
        if depth > MOST_DEPTH:
            raise RefusedError(f"nests its data more than {MOST_DEPTH} deep")
        _, result = self._done.get(id(value), (None, None))
        if result is _OPEN:
            raise RefusedError("holds a container that holds itself")
        if result is None:
            self._done[id(value)] = (value, _OPEN)
            result = self._completed(value, depth + 1)
            self._done[id(value)] = (value, result)
        return result

    def _completed(self, value: Any, depth: int) -> Any:
        if type(value) is list:
            value[:] = [self.of(part, depth) for part in value]
        elif type(value) is dict:
            for key, part in list(value.items()):
                self.of(key, depth)
                value[key] = self.of(part, depth)
        elif type(value) is tuple:
            return tuple(self.of(part, depth) for part in value)
        elif type(value) in (set, frozenset):
            for part in value:
                self.of(part, depth)
        elif type(value) is Array:
            return value.finished(lambda part: self.of(part, depth))
        else:
            raise RefusedError(f"holds a {type(value).__name__.lower()} as a value")
        return value
