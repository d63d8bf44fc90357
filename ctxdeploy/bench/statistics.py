"""Is one side faster? Intervals for the ratio of two sides' times on a machine that drifts.

What is resampled is a block: windows that were measured by the same processes, one after another. Neighbouring samples
depend on each other, and a process keeps the layout of its memory as long as it lives, so that samples say too little
about how far a repetition may lie off, and blocks say it.

- Interleaved (two sides of one run): every photo or query of a window is paired with itself, then the blocks' means of
  the logarithm of the ratio are resampled. What the machine does to both cancels.
- Two runs: each is resampled by itself. A machine whose thirds of a run lie apart may lie apart as far between two
  runs, so that each replicate moves a run by a draw of that deviation. Beside the seconds, the times divided by the
  run's own meter are compared (a fixed piece of work that is timed in every window). Where the meter explains half of
  the variance between blocks, they decide; else the interval covers both, so that a machine that was slower as a whole
  is no difference.

The bootstrap gives the deviation, and Student's t with the blocks' degrees of freedom the interval.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError

Times = NDArray[np.float64]
REPLICATES = 4000
LEAST_BLOCKS = 3
# Of a block's samples, on either side.
_TRIMMED = 0.25
_CONFIDENCE = 0.95
# Half widths of an interval that a difference must have to be found with probability 0.8: (1.96 + 0.84) / 1.96.
_FOUND = 1.429
# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One side.

    Attributes:
        seconds: W×I of W windows and I photos or queries, positive.
        blocks: W numbers; windows of one number were measured by the same processes.
        meter: W seconds of the run's fixed piece of work; None if there is none.
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


def compare_interleaved(a: Measured, b: Measured, least: float, seed: int = 0) -> Comparison:
    """Compare two sides of one run: same windows, same items.

    Args:
        a, b: the sides.
        least: a ratio nearer to 1 than this is no difference, whatever the interval.
        seed: of the resampling.

    Raises:
        ConfigError: other windows or items, or fewer than three blocks.
    """
    if a.seconds.shape != b.seconds.shape or not np.array_equal(a.blocks, b.blocks):
        raise ConfigError("the two sides did not measure the same items in the same windows")
    means = _block_means(np.log(b.seconds) - np.log(a.seconds), a.blocks)
    centre = float(means.mean())
    spread = _replicates(means, np.random.default_rng(seed))
    half = _half_width(spread, len(means) - 1)
    return _judge(centre, (centre - half, centre + half), least, "interleaved", (len(means),) * 2)


def compare_runs(a: Measured, b: Measured, least: float, seed: int = 0) -> Comparison:
    """Compare two runs of the same items at different times; arguments and errors as ``compare_interleaved``."""
    if a.seconds.shape[1] != b.seconds.shape[1]:
        raise ConfigError("the two runs did not measure the same items")
    logs = [np.log(side.seconds) for side in (a, b)]
    items = np.median(np.concatenate(logs), axis=0)
    seconds = [_block_means(log - items, side.blocks) for log, side in zip(logs, (a, b), strict=True)]
    raw = _between(seconds, seed)
    counts = len(seconds[0]), len(seconds[1])
    if a.meter is None or b.meter is None:
        judged = _judge(raw[0], raw[1:], least, "two runs", counts)
        return replace(judged, by_seconds=_ratios(raw))
    meters = [_block_means(np.log(side.meter)[:, None], side.blocks) for side in (a, b) if side.meter is not None]
    metered = [means - meter for means, meter in zip(seconds, meters, strict=True)]
    relative = _between(metered, seed)
    # Where the meter takes half of the variance between blocks away, it tells the machine's drift.
    if sum(means.var() for means in metered) < 0.5 * sum(means.var() for means in seconds):
        judged = _judge(relative[0], relative[1:], least, "two runs, in units of the meter", counts)
    else:
        interval = min(raw[1], relative[1]), max(raw[2], relative[2])
        judged = _judge(raw[0], interval, least, "two runs", counts)
    return replace(judged, by_seconds=_ratios(raw), by_meter=_ratios(relative))


def _ratios(logs: tuple[float, float, float]) -> tuple[float, float, float]:
    return float(np.exp(logs[0])), float(np.exp(logs[1])), float(np.exp(logs[2]))


def _between(means: list[Times], seed: int) -> tuple[float, float, float]:
    """Return the difference of two runs' block means, and its interval."""
    rng = np.random.default_rng(seed)
    centre = float(means[1].mean() - means[0].mean())
    slow = np.sqrt(np.mean([_slow_variance(part) for part in means]))
    spread = np.zeros(REPLICATES)
    for part in means:
        spread += _replicates(part, rng) + slow * rng.standard_normal(REPLICATES)
    half = _half_width(spread, sum(len(part) - 1 for part in means))
    return centre, centre - half, centre + half


def _slow_variance(means: Times) -> float:
    """Return how far a machine lies from itself a while later: the variance of the means of a run's thirds, beyond what
    blocks that know nothing of each other would give."""
    thirds = [part.mean() for part in np.array_split(means, 3)]
    return max(float(np.var(thirds, ddof=1)) - 3 * float(np.var(means, ddof=1)) / len(means), 0.0)


def _replicates(means: Times, rng: np.random.Generator) -> Times:
    """Return deviations of the mean of resampled blocks from the mean, R."""
    count = len(means)
    drawn = means[rng.integers(0, count, (REPLICATES, count))].mean(axis=1) - means.mean()
    return np.asarray(drawn * np.sqrt(count / (count - 1)))


def _half_width(spread: Times, freedom: int) -> float:
    """Return Student's half width: percentiles of means of a few blocks are too narrow, for they are bounded."""
    return float(_STUDENT[min(freedom, len(_STUDENT)) - 1] * spread.std())


def _judge(
    centre: float,
    interval: tuple[float, float],
    least: float,
    design: str,
    blocks: tuple[int, int],
) -> Comparison:
    low, high = interval
    different = (low > 0 or high < 0) and abs(centre) > np.log1p(least)
    return Comparison(
        verdict=("slower" if centre > 0 else "faster") if different else "no difference",
        ratio=float(np.exp(centre)),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        detectable=max(float(np.expm1(_FOUND * (high - low) / 2)), least),
        design=design,
        blocks=blocks,
    )


def _block_means(values: Times, blocks: NDArray[np.int64]) -> Times:
    """Return a robust mean of each block's windows × items."""
    numbers = sorted(set(blocks.tolist()))
    if len(numbers) < LEAST_BLOCKS:
        raise ConfigError(
            f"{len(numbers)} blocks of windows are too few to say anything: run the same command with more --windows"
        )
    return np.array([_trimmed_mean(values[blocks == number]) for number in numbers])


def _trimmed_mean(values: Times) -> float:
    """Return the mean of the middle half: on a busy machine single times lie off by a factor."""
    ordered = np.sort(values, axis=None)
    cut = int(_TRIMMED * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean())
