"""Samples wider than 8 bits to 8 bits: one rule for integers and floats."""

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError

# Where white may be: the ranges of 8, 10, 12, 14 and 16 bits, whatever the samples are stored in.
TOPS = (255, 1023, 4095, 16383, 65535)


def white_of(samples: NDArray[np.generic]) -> float:
    """Return the value that stands for white: the least of ``TOPS`` that the largest sample does not exceed.

    A camera's 12 bits in 16 are then as bright as they are in 8. Floats may also range from 0 to 1, and the samples of
    signed integers up to their own largest value. Nothing else says where white is: formats do not tell.

    Raises:
        PhotoError: a sample is negative, above 65535, or not a number.
    """
    is_float = samples.dtype.kind == "f"
    low, high = (samples.min(), samples.max()) if samples.size else (0, 0)
    if not (low >= 0 and high <= TOPS[-1]):  # also when NaN
        kind, range_ = ("float samples", f"{low:g} to {high:g}") if is_float else ("samples", f"{low} to {high}")
        raise PhotoError(f"its {kind} range from {range_}, but 0 to 65535 is the widest supported")
    tops: list[float] = [1.0, *TOPS] if is_float else [*TOPS]
    if samples.dtype.kind == "i" and samples.dtype.itemsize <= 2:
        tops = sorted([*tops, np.iinfo(samples.dtype).max])  # type: ignore[type-var]
    return next(top for top in tops if high <= top)


def to_8_bits(samples: NDArray[np.generic], white: float | None = None) -> NDArray[np.uint8]:
    """Return samples as 8 bits, so that ``white`` becomes 255, rounded; what is above it is white.

    Args:
        samples: of any shape and type.
        white: as ``white_of`` says if None.

    Raises:
        PhotoError: as ``white_of``.
    """
    top = white_of(samples) if white is None else white
    if samples.dtype == np.uint8 and top == 255:
        return np.asarray(samples, np.uint8)
    if top == 65535 and samples.dtype.kind in "ui":
        return ((samples.astype(np.int64) + 128) // 257).astype(np.uint8)
    return np.rint(samples.astype(np.float64) * (255.0 / top)).clip(0, 255).astype(np.uint8)


def alpha_to_8_bits(alpha: NDArray[np.generic], white: float) -> NDArray[np.uint8]:
    """Return alpha as 8 bits: opaque is what white is, unless something is more opaque than that."""
    most = float(alpha.max()) if alpha.size else 0.0
    return to_8_bits(alpha, white if most <= white else None)


def over_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], *, premultiplied: bool = False) -> NDArray[np.uint8]:
    """Return colours H×W×3 on a white page, by their alpha H×W×1."""
    opaque = alpha.astype(np.int32)
    shown = rgb.astype(np.int32) if premultiplied else (rgb * opaque + 127) // 255
    return np.asarray((shown + 255 - opaque).clip(0, 255), np.uint8)
