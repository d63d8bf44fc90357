"""The loops over names of photos that numba compiles; imported on first use, as ``kernels``."""

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled


@compiled
def mark_beginning(
    names: NDArray[np.uint8], offsets: NDArray[np.uint32], prefix: NDArray[np.uint8], found: NDArray[np.bool_]
) -> None:
    """Set ``found`` (n) for the names that begin with a prefix. ``offsets`` (n+1, checked) cut ``names`` into them."""
    for i in range(offsets.size - 1):
        begin = np.int64(offsets[i])
        if np.int64(offsets[i + 1]) - begin < prefix.size:
            continue
        same = True
        for place in range(prefix.size):
            if names[begin + place] != prefix[place]:
                same = False
                break
        if same:
            found[i] = True


@compiled
def are_equal(
    names: NDArray[np.uint8],
    offsets: NDArray[np.uint32],
    numbers: NDArray[np.int64],
    others: NDArray[np.uint8],
    other_offsets: NDArray[np.uint32],
    other_numbers: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Return whether each of n names of one list, by number, is that of the other list."""
    found = np.zeros(numbers.size, np.bool_)
    for i in range(numbers.size):
        begin, end = np.int64(offsets[numbers[i]]), np.int64(offsets[numbers[i] + 1])
        start = np.int64(other_offsets[other_numbers[i]])
        if end - begin != np.int64(other_offsets[other_numbers[i] + 1]) - start:
            continue
        same = True
        for place in range(end - begin):
            if names[begin + place] != others[start + place]:
                same = False
                break
        found[i] = same
    return found
