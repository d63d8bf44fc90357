"""Reads the opcodes of a pickle without executing them, and refuses what a file of plain data needs none of.

``pickle`` trusts the numbers in its input. Measured with Python 3.11: nine bytes that put a value into place
100,000,000 of the memo take 1.6 GB, and a dictionary's key of 26 tuples, each of which holds the one before twice,
takes 0.7 s to hash; every further tuple, two bytes, doubles that.
"""

import io
import pickletools
from collections.abc import Callable
from typing import IO, Any

# Values of persistent ids, of copyreg's registry (which ``find_class`` is not asked for) and of buffers out of band.
_REFUSED = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_HASHABLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
_INTEGERS = {"INT", "LONG", "LONG1", "LONG4"}
# A dictionary's key or a set's member is hashed as often as the file names it, with all that it holds: no more values.
MOST_IN_KEY = 64


def _read_line(file: IO[bytes]) -> bytes:
    return file.readline()


def _read_lines(file: IO[bytes]) -> bytes:
    return file.readline() + file.readline()


_LINES = {"STRING": _read_line, "PERSID": _read_line, "GLOBAL": _read_lines, "INST": _read_lines}


def _table() -> dict[bytes, tuple[str, Callable[[IO[bytes]], Any] | None, int, int, bool]]:
    """Return by opcode: its name, the reader of its argument, how many values it takes above or below a mark and gives
    back, and whether it takes all above the mark too."""
    table = {}
    for op in pickletools.opcodes:
        taken = [kind.name for kind in op.stack_before]
        marked = "mark" in taken
        reader = None if op.arg is None else op.arg.reader
        if op.name in _LINES:  # a string of Python 2 holds any bytes, where pickletools' own reader takes ASCII alone
            reader = _LINES[op.name]
        below = taken.index("mark") if marked else len(taken)
        table[op.code.encode("latin-1")] = (op.name, reader, below, len(op.stack_after), marked)
    return table


class _Stack:
    """The unpickler's stack, with the weight of each value in place of it: how many values hashing it touches."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[int, int] = {}

    def step(self, name: str, argument: Any, below: int, given: int, marked: bool) -> None:
        """Do what an opcode does."""
        if name == "MARK":
            self._marks.append(len(self._values))
        elif name == "POP" and self._marks and self._marks[-1] == len(self._values):
            self._marks.pop()
        elif name in _PUTS or name == "MEMOIZE":
            self._put(len(self._memo) if name == "MEMOIZE" else argument)
        elif name in _GETS:
            self._values.append(self._memo[argument])
        else:
            parts = self._take(below, marked)
            self._check_keys(name, parts)
            weight = 1
            if name in _HASHABLE:
                weight = min(1 + sum(parts), MOST_IN_KEY + 1)
            elif name in _INTEGERS:
                weight = min(1 + int(argument).bit_length() // 64, MOST_IN_KEY + 1)
            self._values += parts * 2 if name == "DUP" else [weight] * given

    def _put(self, place: int) -> None:
        # A pickler counts the values that it stores, and each of them takes a byte of the file.
        if not 0 <= place <= self._size:
            raise ValueError(f"it uses place {place} of the memo, in {self._size} bytes")
        self._memo[place] = self._values[-1]

    def _take(self, below: int, marked: bool) -> list[int]:
        begin = (self._marks.pop() if marked else len(self._values)) - below
        if begin < 0 or begin > len(self._values) or (self._marks and begin < self._marks[-1]):
            raise ValueError("an opcode finds too few values")
        parts = self._values[begin:]
        del self._values[begin:]
        return parts

    def _check_keys(self, name: str, parts: list[int]) -> None:
        keys = {"SETITEM": parts[1:2], "SETITEMS": parts[1::2], "DICT": parts[::2], "ADDITEMS": parts[1:]}.get(name)
        keys = parts if name == "FROZENSET" else keys
        if keys and max(keys) > MOST_IN_KEY:
            raise ValueError(f"a key of a dictionary or a set holds more than {MOST_IN_KEY} values")


def scan(data: bytes) -> None:
    """Check that a pickle is whole, and that unpickling it takes memory and time in proportion to its size.

    Hash collisions are not looked for.

    Raises:
        ValueError: it is no pickle, truncated, or holds what plain data needs none of; the message says what.
    """
    table, file, stack = _table(), io.BytesIO(data), _Stack(len(data))
    name = ""
    while name != "STOP":
        position, code = file.tell(), file.read(1)
        if not code:
            raise ValueError("it ends before the pickle does" if data else "it is empty")
        if code not in table:
            raise ValueError(f"byte {position} is no opcode of a pickle")
        name, reader, below, given, marked = table[code]
        if name in _REFUSED:
            raise ValueError(f"the opcode {name} at byte {position} stands for a value that is not in the file")
        try:
            stack.step(name, None if reader is None else reader(file), below, given, marked)
        except (IndexError, KeyError) as error:
            raise ValueError(f"the opcode {name} at byte {position} asks for a value that is not there") from error
        except ValueError as error:
            raise ValueError(f"the opcode {name} at byte {position}: {error}") from error
