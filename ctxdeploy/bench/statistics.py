"""Times, and the question whether one side is faster than the other on a machine that drifts.

Distributions, trimmed means and intervals are those of ``scipy.stats``. No library has the design around them, which
decides whether an interval keeps what it promises on a shared machine:

- The unit is a block: windows that were measured by the same processes, one after another. Neighbouring samples depend
  on each other, and a process keeps the layout of its memory as long as it lives, so that single samples say too little
  about how far a repetition may lie off. Blocks do.
- Interleaved (two sides of one run): every photo or query of a window is paired with itself, and Student's interval is
  that of the blocks' means of the logarithm of the ratio. What the machine does to both sides cancels.
- Two runs: a machine whose thirds of a run lie apart may lie apart as far between two runs, so the variance of that is
  added to each side's. Beside the seconds, the times divided by the run's own meter are compared (a fixed piece of work
  that is timed in every window). Where the meter explains half of the variance between blocks, it decides; otherwise
  the interval covers both, so that a machine that was slower as a whole is not a difference.

``tests/bench/test_statistics.py`` simulates such machines: identical sides differ in about one of twenty interleaved
comparisons, and a slowdown of a tenth is found.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require

Times = NDArray[np.float64]
PERCENTILES = (5, 25, 50, 75, 95, 99)
MIN_BLOCKS = 3
# Cut from a block's samples at either end: on a busy machine single times lie off by a factor.
_TRIMMED = 0.25
_CONFIDENCE, _POWER = 0.95, 0.8


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def in_turns(
    works: Mapping[str, Callable[[Any], Any]],
    items: Sequence[Any],
    *,
    turn: int = 1,
    again: int = 0,
    warm_up: int = 1,
    check: Callable[[Mapping[str, list[Any]]], None] | None = None,
) -> dict[str, list[float]]:
    """Time several ways to do the same work in this process; they take turns, forwards and backwards.

    ``run.measure`` does the same between processes, for engines that would get in each other's way.

    Args:
        works: calls by name; each is given every item.
        items: what is worked on.
        turn: items of a turn; the next way follows.
        again: items before a turn's that run untimed, where the turns of others take the caches from short ones.
        warm_up: turns at the begin that do not count.
        check: is given the results of each turn by name, to raise where they differ.

    Returns:
        Seconds of each item that counts, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number, start in enumerate(range(0, len(items), turn)):
        results: dict[str, list[Any]] = {}
        for name in list(works)[:: -1 if number % 2 else 1]:
            for item in items[max(start - again, 0) : start]:
                works[name](item)
            pairs = [timed(partial(works[name], item)) for item in items[start : start + turn]]
            results[name] = [result for _, result in pairs]
            if number >= warm_up:
                seconds[name] += [spent for spent, _ in pairs]
        if check is not None:
            check(results)
    return seconds


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return ``p05`` to ``p99``, ``mean`` and ``samples``, in the unit given; an empty list has none of them."""
    if not len(seconds):
        return {}
    values = np.asarray(seconds, np.float64)
    found = np.percentile(values, PERCENTILES)
    named = {f"p{share:02d}": float(value) for share, value in zip(PERCENTILES, found, strict=True)}
    return {**named, "mean": float(values.mean()), "samples": len(values)}


def milliseconds(seconds: Sequence[float], *, p99: bool = False) -> dict[str, float]:
    """Return median, p05, p95, on demand p99, and number of runs, in milliseconds."""
    found = {name: round(1000 * value, 3) for name, value in percentiles(seconds).items()}
    last = {"p99_ms": found["p99"]} if p99 else {}
    return {"median_ms": found["p50"], "p05_ms": found["p05"], "p95_ms": found["p95"], "runs": len(seconds), **last}


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One side.

    Attributes:
        seconds: W×I of W windows and I photos or queries, positive.
        blocks: W numbers; windows of one number were measured by the same processes.
        meter: W seconds of the run's fixed piece of work; None without one.
    """

    seconds: Times
    blocks: NDArray[np.int64]
    meter: Times | None = None

    def __post_init__(self) -> None:
        if self.seconds.ndim != 2 or self.seconds.size == 0 or not (self.seconds > 0).all():
            raise ConfigError(f"times of shape {self.seconds.shape} are not positive seconds of windows × items")
        if len(self.blocks) != len(self.seconds):
            raise ConfigError(f"{len(self.blocks)} blocks for {len(self.seconds)} windows")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How long B takes, in times of A.

    Attributes:
        verdict: ``faster``, ``slower`` or ``no difference``, of B.
        ratio: seconds of B over those of A.
        low, high: its interval of 95 %.
        detectable: the difference (0.03 is 3 %) that a comparison as noisy as this one finds four times out of five.
        design: ``interleaved``, ``two runs``, or ``two runs, in units of the meter``.
        blocks: of each side.
        by_seconds, by_meter: ratio, low and high of two runs, of seconds as they were, and in units of the meter.
    """

    verdict: str
    ratio: float
    low: float
    high: float
    detectable: float
    design: str
    blocks: tuple[int, int]
    by_seconds: tuple[float, float, float] | None = None
    by_meter: tuple[float, float, float] | None = None

    def metadata(self) -> dict[str, Any]:
        """Return the comparison as JSON prints it."""
        return {**asdict(self), "confidence": _CONFIDENCE}


def compare_interleaved(a: Measured, b: Measured, min_difference: float) -> Comparison:
    """Compare two sides of one run: same windows, same items.

    Args:
        a, b: the sides.
        min_difference: a ratio nearer to 1 than this is not a difference, whatever the interval.

    Raises:
        ConfigError: other windows or items, or fewer than three blocks.
        MissingExtraError: scipy is not installed.
    """
    if a.seconds.shape != b.seconds.shape or not np.array_equal(a.blocks, b.blocks):
        raise ConfigError("the two sides did not measure the same items in the same windows")
    means = _block_means(np.log(b.seconds) - np.log(a.seconds), a.blocks)
    found = _interval(float(means.mean()), _squared_error(means), len(means) - 1)
    return _judge(found[0], found[1:], min_difference, "interleaved", (len(means),) * 2)


def compare_runs(a: Measured, b: Measured, min_difference: float) -> Comparison:
    """Compare two runs of the same items at different times; arguments and errors as ``compare_interleaved``."""
    if a.seconds.shape[1] != b.seconds.shape[1]:
        raise ConfigError("the two runs did not measure the same items")
    logs = [np.log(side.seconds) for side in (a, b)]
    items = np.median(np.concatenate(logs), axis=0)
    seconds = [_block_means(log - items, side.blocks) for log, side in zip(logs, (a, b), strict=True)]
    raw = _between(seconds)
    counts = len(seconds[0]), len(seconds[1])
    if a.meter is None or b.meter is None:
        judged = _judge(raw[0], raw[1:], min_difference, "two runs", counts)
        return replace(judged, by_seconds=_ratios(raw))
    meters = [_block_means(np.log(side.meter)[:, None], side.blocks) for side in (a, b) if side.meter is not None]
    metered = [means - meter for means, meter in zip(seconds, meters, strict=True)]
    relative = _between(metered)
    # Where the meter takes half of the variance between blocks away, it tells the machine's drift.
    if sum(means.var() for means in metered) < 0.5 * sum(means.var() for means in seconds):
        judged = _judge(relative[0], relative[1:], min_difference, "two runs, in units of the meter", counts)
    else:
        interval = min(raw[1], relative[1]), max(raw[2], relative[2])
        judged = _judge(raw[0], interval, min_difference, "two runs", counts)
    return replace(judged, by_seconds=_ratios(raw), by_meter=_ratios(relative))


def _ratios(logs: tuple[float, float, float]) -> tuple[float, float, float]:
    return float(np.exp(logs[0])), float(np.exp(logs[1])), float(np.exp(logs[2]))


def _between(means: list[Times]) -> tuple[float, float, float]:
    """Return the difference of two runs' block means, and its interval."""
    slow = float(np.mean([_slow_variance(part) for part in means]))
    squared_error = sum(_squared_error(part) + slow for part in means)
    return _interval(float(means[1].mean() - means[0].mean()), squared_error, sum(len(part) - 1 for part in means))


def _slow_variance(means: Times) -> float:
    """Return how far a machine lies from itself a while later: the variance of the means of a run's thirds, beyond what
    blocks that know nothing of each other would give."""
    thirds = [part.mean() for part in np.array_split(means, 3)]
    return max(float(np.var(thirds, ddof=1)) - 3 * float(np.var(means, ddof=1)) / len(means), 0.0)


def _squared_error(means: Times) -> float:
    """Return the squared standard error of the mean of blocks."""
    return float(_stats().sem(means) ** 2)


def _interval(centre: float, squared_error: float, freedom: int) -> tuple[float, float, float]:
    """Return the centre and Student's interval: percentiles of a few resampled blocks would be too narrow."""
    half = _stats().t.ppf((1 + _CONFIDENCE) / 2, freedom) * np.sqrt(squared_error)
    return centre, centre - float(half), centre + float(half)


def _judge(
    centre: float, interval: tuple[float, float], min_difference: float, design: str, blocks: tuple[int, int]
) -> Comparison:
    low, high = interval
    different = (low > 0 or high < 0) and abs(centre) > np.log1p(min_difference)
    # Half widths of an interval that a difference must have to be found with probability 0.8.
    normal = _stats().norm.ppf([(1 + _CONFIDENCE) / 2, _POWER])
    widths = normal.sum() / normal[0]
    return Comparison(
        verdict=("slower" if centre > 0 else "faster") if different else "no difference",
        ratio=float(np.exp(centre)),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        detectable=max(float(np.expm1(widths * (high - low) / 2)), min_difference),
        design=design,
        blocks=blocks,
    )


def _block_means(values: Times, blocks: NDArray[np.int64]) -> Times:
    """Return the mean of the middle half of each block's windows × items."""
    numbers = np.unique(blocks)
    if len(numbers) < MIN_BLOCKS:
        raise ConfigError(
            f"{len(numbers)} blocks of windows are too few to compare: run the same command with more --windows"
        )
    trimmed = _stats().trim_mean
    return np.array([trimmed(values[blocks == number], _TRIMMED, axis=None) for number in numbers])


def _stats() -> Any:
    return require("scipy.stats", "bench")
