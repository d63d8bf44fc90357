"""Pickled numpy arrays, put together without numpy's own functions for it.

Those trust their arguments: a dtype's state can claim fields and sizes that are not so. Here an array is only ever the
constructor of ``numpy.ndarray`` over bytes that are there.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

_DTYPES = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,9}|O[48]?")
_HIGHEST_CODE = 0x10FFFF


class RefusedError(Exception):
    """A file asks for what plain data needs none of; the text says what."""


class Budget:
    """Bytes and values that may be made from others: a file that uses one value often does not get larger for it.

    Args:
        left: size of the file in bytes.
    """

    def __init__(self, left: int) -> None:
        self._left = left

    def spend(self, count: int) -> None:
        """Take ``count`` of it."""
        self._left -= count
        if self._left < 0:
            raise RefusedError("unpacks to more than its size")


class Name:
    """Stands for an admitted global name: can be called, and has nothing that a file could change."""

    __slots__ = ("_make",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> Never:
        raise RefusedError("changes a function")


class ArrayClass:
    """Stands for ``numpy.ndarray`` as an argument."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: Any) -> Never:
        raise RefusedError("changes the class of arrays")


class Dtype:
    """A dtype, complete once its state is set."""

    __slots__ = ("name", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: Any, align: Any, copy: Any) -> None:
        if type(name) is not str or _DTYPES.fullmatch(name) is None:
            raise RefusedError(f"holds an array of the dtype {_short(name)}")
        self.name = name
        self.value: np.dtype[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if self.value is not None or type(state) is not tuple or len(state) not in (8, 9):
            raise RefusedError("changes a dtype")
        order, extent = state[1], state[2:5] + state[8:]
        if type(order) is not str or order not in ("<", ">", "|") or any(part is not None for part in extent):
            raise RefusedError(f"holds an array of a dtype {self.name!r} with fields or of an unknown byte order")
        self.value = np.dtype("O" if self.name[0] == "O" else order + self.name)


class Array:
    """An array, complete once its state is set. One of objects keeps their list, which may still grow.

    Args:
        budget: for what it copies.
    """

    __slots__ = ("_budget", "_objects", "_shape", "_value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._value: NDArray[Any] | None = None
        self._objects: list[Any] | None = None
        self._shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        if self._value is not None or self._objects is not None or type(state) is not tuple or len(state) != 5:
            raise RefusedError("changes an array")
        _, shape, dtype, fortran, data = state
        if type(data) is list:
            if type(dtype) is not Dtype or dtype.value != np.dtype("O"):
                raise RefusedError("holds an array that is a list")
            self._shape, self._objects = _shape(shape), data
        else:
            self.fill(data, dtype, shape, "F" if fortran else "C", None)

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any) -> None:
        """Set the values: ``order`` is C, F, or K with the order of the axes."""
        if order not in ("C", "F", "K"):
            raise RefusedError(f"holds an array in the order {_short(order)}")
        array = over_bytes(as_bytes(data, self._budget), dtype, shape, "F" if order == "F" else "C")
        if order == "K":
            if type(axes) is not tuple or sorted(axes) != list(range(array.ndim)):
                raise RefusedError("holds an array without an order of its axes")
            array = array.transpose(axes)
        self._value = array

    def finished(self, complete: Callable[[Any], Any]) -> NDArray[Any]:
        """Return the array, its objects as ``complete`` returns them."""
        if self._value is not None:
            return self._value
        if self._objects is None:
            raise RefusedError("holds an array without values")
        count = len(self._objects)
        if math.prod(self._shape) != count:
            raise RefusedError(f"holds an array of {count} objects that should have the shape {_short(self._shape)}")
        self._budget.spend(count)
        made = np.empty(count, object)
        for number, part in enumerate(self._objects):
            made[number] = complete(part)
        made = made.reshape(self._shape)
        made.flags.writeable = False
        return made


def over_bytes(data: bytes, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Return a read-only array over bytes, which it does not copy.

    Raises:
        RefusedError: the dtype or the shape is none, or they do not take that many bytes.
    """
    if type(dtype) is not Dtype or dtype.value is None or dtype.value.hasobject:
        raise RefusedError("holds an array whose dtype is none of plain data")
    kind = dtype.value
    if math.prod(_shape(shape)) * kind.itemsize != len(data):
        raise RefusedError(f"holds {len(data)} bytes for an array of {kind} that should have the shape {_short(shape)}")
    array: NDArray[Any] = np.ndarray(shape, kind, buffer=data, order=order)
    array.flags.writeable = False
    if kind.kind == "U" and data:
        codes = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(kind.byteorder))
        if codes.max() > _HIGHEST_CODE:
            raise RefusedError("holds text that is none")
    return array


def as_bytes(data: Any, budget: Budget) -> bytes:
    """Return the bytes of an array: in protocol 5 a bytearray, in Python 2 a string."""
    if type(data) is bytes:
        return data
    if type(data) not in (bytearray, str):
        raise RefusedError("holds an array without bytes")
    budget.spend(len(data))
    return data.encode("utf-8", "surrogateescape") if isinstance(data, str) else bytes(data)


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or not all(type(side) is int and side >= 0 for side in shape):
        raise RefusedError("holds an array without a shape")
    return shape


def _short(value: Any) -> str:
    """Return how a value is shown, if it is of a kind that shows itself in a few letters."""
    if type(value) is str or (type(value) is tuple and len(value) < 40):
        return repr(value)[:60]
    return type(value).__name__
