"""Seconds of calls, and what is said about many of them."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PERCENTILES = (5, 25, 50, 75, 95, 99)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return ``p05`` to ``p99`` and ``mean``, in the unit given; a list without values has none."""
    if not len(seconds):
        return {}
    values = np.asarray(seconds, np.float64)
    found = np.percentile(values, PERCENTILES)
    named = {f"p{share:02d}": float(value) for share, value in zip(PERCENTILES, found, strict=True)}
    return {**named, "mean": float(values.mean()), "samples": len(values)}


def summary(seconds: list[float]) -> dict[str, float]:
    """Return median and spread in milliseconds."""
    low, median, high = np.percentile(np.array(seconds) * 1000, (5, 50, 95))
    return {"median_ms": round(median, 3), "p05_ms": round(low, 3), "p95_ms": round(high, 3), "runs": len(seconds)}
