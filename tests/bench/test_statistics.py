"""The verdict of a comparison, on times drawn from a process as noisy machines have it.

Each time is an item's own, times the exponential of: a drift that forgets itself over a hundred items (an
Ornstein-Uhlenbeck process, common to all that is measured at the time), noise that depends on its neighbours, an offset
of each process that lasts as long as the process, and now and then a spike. Seeds are 0, 1, 2, …, none left out.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.bench.statistics import Comparison, Measured, compare_interleaved, compare_runs, in_turns, percentiles
from ctxdeploy.core.errors import ConfigError

RUNS = 100
WINDOWS, ITEMS, BLOCK = 18, 6, 3
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How noisy it is; deviations of logarithms, and items after which drift and noise forget."""

    drift: float = 0.03
    forgets: float = 100.0
    noise: float = 0.02
    process: float = 0.005
    spikes: float = 0.02


def forgetting(count: int, deviation: float, forgets: float, rng: np.random.Generator) -> Array:
    """Draw a stationary first-order process."""
    keep = np.exp(-1 / forgets)
    steps = rng.standard_normal(count) * deviation
    steps[1:] *= np.sqrt(1 - keep**2)
    for i in range(1, count):
        steps[i] += keep * steps[i - 1]
    return steps


def run(machine: Machine, rng: np.random.Generator, sides: int) -> tuple[list[Array], NDArray[np.int64], Array]:
    """Draw the times of sides that take turns, the blocks, and the meter."""
    drift = forgetting(WINDOWS * ITEMS * sides, machine.drift, machine.forgets, rng)
    blocks = np.arange(WINDOWS) // BLOCK
    times = []
    for side in range(sides):
        offsets = rng.standard_normal(WINDOWS // BLOCK)[blocks] * machine.process
        noise = forgetting(WINDOWS * ITEMS, machine.noise, 3.0, rng).reshape(WINDOWS, ITEMS)
        spikes = (rng.random((WINDOWS, ITEMS)) < machine.spikes) * rng.exponential(0.5, (WINDOWS, ITEMS))
        met = drift[side::sides].reshape(WINDOWS, ITEMS)
        times.append(np.linspace(0.5, 1.5, ITEMS) * np.exp(met + noise + spikes + offsets[:, None]))
    meter = np.exp(drift[::sides].reshape(WINDOWS, ITEMS).mean(axis=1) + 0.01 * rng.standard_normal(WINDOWS))
    return times, blocks, meter


def interleaved(machine: Machine, seed: int, slowdown: float) -> Comparison:
    (a, b), blocks, _ = run(machine, np.random.default_rng(seed), 2)
    return compare_interleaved(Measured(seconds=a, blocks=blocks), Measured(seconds=slowdown * b, blocks=blocks), 0.01)


def apart(machine: Machine, seed: int, slowdown: float, whole: float = 1.0) -> Comparison:
    rng = np.random.default_rng(seed)
    ((a,), blocks, meter_a), ((b,), _, meter_b) = run(machine, rng, 1), run(machine, rng, 1)
    first = Measured(seconds=a, blocks=blocks, meter=meter_a)
    return compare_runs(first, Measured(seconds=slowdown * whole * b, blocks=blocks, meter=whole * meter_b), 0.02)


def share(verdict: str, found: list[Comparison]) -> float:
    return float(np.mean([comparison.verdict == verdict for comparison in found]))


@pytest.mark.parametrize("machine", [Machine(), Machine(drift=0.15), Machine(drift=0.05, forgets=2000.0)])
def test_interleaved_identical_sides_do_not_differ_and_a_tenth_is_found(machine: Machine) -> None:
    same = [interleaved(machine, seed, 1.0) for seed in range(4 * RUNS)]
    assert share("no difference", same) >= 0.92  # 0.95 is what an interval of 95 % promises
    slower = [interleaved(machine, seed, 1.1) for seed in range(4 * RUNS)]
    assert share("slower", slower) >= 0.97
    assert np.mean([c.low <= 1.1 <= c.high for c in slower]) >= 0.92
    assert share("faster", [interleaved(machine, seed, 1 / 1.1) for seed in range(RUNS)]) >= 0.97
    assert np.median([c.detectable for c in same]) < 0.05


@pytest.mark.parametrize("machine", [Machine(), Machine(drift=0.10)])
def test_two_runs_of_one_configuration_do_not_differ_and_a_tenth_is_found(machine: Machine) -> None:
    assert share("no difference", [apart(machine, seed, 1.0) for seed in range(RUNS)]) >= 0.97
    slower = [apart(machine, seed, 1.1) for seed in range(RUNS)]
    assert share("slower", slower) >= 0.9
    assert share("faster", slower) == 0
    assert share("slower", [apart(machine, seed, 1.2) for seed in range(RUNS)]) >= 0.97


def test_a_machine_that_is_slower_as_a_whole_is_no_difference() -> None:
    assert share("no difference", [apart(Machine(), seed, 1.0, whole=1.3) for seed in range(RUNS)]) >= 0.95


def test_without_a_meter_the_machines_own_slowness_cannot_be_told() -> None:
    rng = np.random.default_rng(0)
    ((a,), blocks, _), ((b,), _, _) = run(Machine(drift=0.01), rng, 1), run(Machine(drift=0.01), rng, 1)
    found = compare_runs(Measured(seconds=a, blocks=blocks), Measured(seconds=1.3 * b, blocks=blocks), 0.02)
    assert found.verdict == "slower" and found.by_meter is None
    assert found.low < 1.3 < found.high


def test_exact_times_give_the_exact_ratio() -> None:
    a = np.outer(np.ones(6), [1.0, 2.0, 3.0])
    blocks = np.repeat(np.arange(3), 2)
    found = compare_interleaved(Measured(seconds=a, blocks=blocks), Measured(seconds=1.25 * a, blocks=blocks), 0.01)
    assert found.verdict == "slower"
    assert found.ratio == pytest.approx(1.25) and found.low == pytest.approx(1.25) and found.high == pytest.approx(1.25)
    assert found.detectable == 0.01
    same = compare_runs(Measured(seconds=a, blocks=blocks), Measured(seconds=1.015 * a, blocks=blocks), 0.02)
    assert same.verdict == "no difference"  # nearer to 1 than what counts
    assert same.metadata()["design"] == "two runs"


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.ones((4, 2)), np.ones((4, 2)), "too few"),
        (np.ones((6, 2)), np.ones((6, 3)), "not measure"),
        (np.ones((6, 2)), np.zeros((6, 2)), "positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: Array, b: Array, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compare_interleaved(*(Measured(seconds=side, blocks=np.arange(len(side)) // 2) for side in (a, b)), 0.01)


def test_windows_without_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="blocks for"):
        Measured(seconds=np.ones((3, 1)), blocks=np.arange(2))


def test_percentiles() -> None:
    found = percentiles([float(i) for i in range(101)])
    assert [found[name] for name in ("p05", "p25", "p50", "p75", "p95", "p99")] == [5, 25, 50, 75, 95, 99]
    assert percentiles([]) == {}


def test_ways_take_turns_forwards_and_backwards() -> None:
    calls, seen = [], []
    works = {name: lambda item, name=name: calls.append((name, item)) or item for name in "ab"}
    found = in_turns(works, range(6), turn=2, again=1, check=seen.append)
    first = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    second = [("b", 1), ("b", 2), ("b", 3), ("a", 1), ("a", 2), ("a", 3)]
    assert calls[:10] == first + second  # one item runs untimed before each turn but the first
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 4, "b": 4}  # the first turn warms up
    assert [results["a"] for results in seen] == [[0, 1], [2, 3], [4, 5]]
