"""Numbers of eight bits with a floating point: E4M3, of ONNX's type FLOAT8E4M3FN.

Sign, four bits of exponent with a bias of 7, three of mantissa; no infinity, one NaN, and 448 is the largest. Rounded
is to the nearest, of two equally near ones to the even code, and what is larger becomes 448.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 448.0
_BIAS, _MANTISSA = 7, 3
_CODES = 127  # of positive numbers, 0 among them; the last code of all is NaN


@cache
def _values() -> NDArray[np.float64]:
    """Return the numbers of the codes 0 to 126, ascending."""
    codes = np.arange(_CODES)
    exponents, mantissas = codes >> _MANTISSA, codes & 7
    normal = (1 + mantissas / 8) * 2.0 ** (exponents - _BIAS)
    return np.where(exponents == 0, mantissas / 8 * 2.0 ** (1 - _BIAS), normal)


def encode(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return the codes of finite numbers, in their shape."""
    numbers, values = _values(), np.asarray(values, np.float64)
    sizes = np.minimum(np.abs(values), LARGEST)
    above = np.searchsorted(numbers, sizes).clip(1, _CODES - 1)  # of 0 the code 1, and 0 is nearer
    below = above - 1
    middles = (numbers[below] + numbers[above]) / 2
    even = np.where(below % 2 == 0, below, above)
    codes = np.where(sizes < middles, below, np.where(sizes > middles, above, even))
    found: NDArray[np.uint8] = (codes | np.where(np.signbit(values), 128, 0)).astype(np.uint8)
    return found


def decode(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the numbers of codes, in their shape; none of them may be a NaN."""
    sizes = _values()[codes & 127]
    found: NDArray[np.float64] = np.where(codes & 128, -sizes, sizes)
    return found
