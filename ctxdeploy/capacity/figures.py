"""Figures of a plan with their unit, as people read them (two digits) and as JSON has them (seconds and bytes)."""

import math
from dataclasses import field, fields
from typing import Any

SECONDS, BYTES, COUNT, RATE, SHARE = "s", "bytes", "", "1/s", "share"
_KEY = "ctxdeploy.figure"
_BYTES = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_COUNTS = (("G", 1e9), ("M", 1e6))
_DIGITS = 2


def figure(label: str, unit: str) -> Any:
    """Return a field of a dataclass that is a figure of a plan."""
    return field(metadata={_KEY: (label, unit)})


def figures_of(part: Any) -> list[tuple[str, str, float | None, str]]:
    """Return name, label, value and unit of the figures of a dataclass, in order; None where there is no value."""
    return [(entry.name, *_labelled(entry, part)) for entry in fields(part) if _KEY in entry.metadata]


def _labelled(entry: Any, part: Any) -> tuple[str, float | None, str]:
    label, unit = entry.metadata[_KEY]
    return label, getattr(part, entry.name), unit


def rounded(value: float) -> float:
    """Return a number to two digits."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, _DIGITS - 1 - math.floor(math.log10(abs(value))))


def shown(value: float | None, unit: str) -> str:
    """Return a figure for people: two digits, and a unit that makes it short; counts below a million are whole."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "never"
    if unit == SECONDS:
        return duration(value)
    if unit == BYTES:
        return amount(value)
    if unit == SHARE:
        return f"{_plain(rounded(100 * value))} %"
    if unit == COUNT and float(value).is_integer() and abs(value) < 1e6:
        return f"{int(value):,}"
    for letter, size in _COUNTS:
        if abs(value) >= size:
            return f"{_plain(rounded(value / size))} {letter}"
    return _plain(rounded(value))


def amount(value: float) -> str:
    """Return bytes for people."""
    scaled, number = rounded(value), 0
    while abs(scaled) >= 1000 and number < len(_BYTES) - 1:
        scaled, number = scaled / 1000, number + 1
    return f"{_plain(rounded(scaled))} {_BYTES[number]}"


_TIMES = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days"))
# A duration is given in a unit until there are so many of it.
_UNTIL = {"s": 120.0, "min": 120.0, "h": 72.0}


def duration(value: float) -> str:
    """Return seconds for people."""
    chosen = _TIMES[0]
    for here, following in zip(_TIMES, (*_TIMES[1:], (math.inf, "")), strict=True):
        chosen = here
        until = _UNTIL.get(here[1], following[0] / here[0])
        if rounded(value / here[0]) < until:
            break
    return f"{_plain(rounded(value / chosen[0]))} {chosen[1]}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or float(value).is_integer() else f"{value:g}"
