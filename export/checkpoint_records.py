"""What stands for the classes in checkpoints that PyTorch does not know: records without behaviour; none is run.

Learned whitenings are arrays of numpy, and a PCA of scikit-learn that is pickled as an object. Of both the numbers are
read. HOW's own files carry training scores, Lightning's and mast3r's the options of the program: they say nothing of
the network.
"""

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import CheckpointError

_KINDS = re.compile(r"[<=|]?(f[48]|[iu][1248]|b1)")
_MOST = 8192**2
PCA = re.compile(r"sklearn\.decomposition(\.\w+)*\.PCA")


class Ignored:
    """Stands for what says nothing of a network."""

    def __new__(cls, *_: Any) -> "Ignored":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class ArrayKind(Ignored):
    """Stands for ``numpy.dtype``."""

    def __init__(self, *arguments: Any) -> None:
        self.name = str(arguments[0]) if arguments else ""
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1]) if isinstance(state, tuple) and len(state) > 1 else "?"


class ArrayRecord(Ignored):
    """Stands for an array of numpy, complete once its state is set."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class PcaRecord(Ignored):
    """Stands for a PCA of scikit-learn; ``state`` is what the object held."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def numbers_of(value: Any, what: str) -> NDArray[np.float64]:
    """Return the numbers of an array or a tensor of a checkpoint.

    Args:
        value: an ``ArrayRecord``, a tensor or a number.
        what: it is, with its file, for messages.

    Raises:
        CheckpointError: it is something else, or is not complete or not finite.
    """
    if isinstance(value, ArrayRecord):
        found = _array(value.state, what)
    elif hasattr(value, "detach"):
        if value.numel() > _MOST:  # numbers that share a place take no room in the file
            raise CheckpointError(f"{what} has {value.numel():,} numbers, more than a whitening of {_MOST:,}")
        found = value.detach().cpu().double().numpy()
    elif isinstance(value, int | float):
        found = np.array(value, dtype=np.float64)
    else:
        raise CheckpointError(f"{what} is not an array of numbers, but a {type(value).__name__}")
    if not np.isfinite(found).all():
        raise CheckpointError(f"{what} is not finite")
    return found


def _array(state: Any, what: str) -> NDArray[np.float64]:
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], ArrayKind):
        raise CheckpointError(f"{what} is an array without its numbers: save it anew with numpy.asarray")
    _, shape, kind, fortran, data = state
    if not isinstance(data, bytes) or not _KINDS.fullmatch(kind.name) or kind.order not in "<|=":
        raise CheckpointError(f"{what} is an array of {kind.order}{kind.name}, not of numbers")
    whole = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or math.prod(shape) * np.dtype(kind.name).itemsize != len(data):
        raise CheckpointError(f"{what} is an array of {shape} that holds {len(data)} bytes: the file is damaged")
    values = np.frombuffer(data, np.dtype(kind.name)).reshape(shape, order="F" if fortran else "C")
    return values.astype(np.float64)
