"""The simulation of many machines: against queueing theory where that has an answer, and plans against it.

What is compared by chance has fixed seeds: a test gives the same on every machine.
"""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ctxdeploy.capacity.config import PlanConfig
from ctxdeploy.capacity.costs import Costs
from ctxdeploy.capacity.plan import make_plan
from ctxdeploy.capacity.service_time import ServiceTime
from ctxdeploy.capacity.subject import Subject
from ctxdeploy.index import IndexConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HOUR = 3600.0


def module(name: str) -> ModuleType:
    """Import a module of ``benchmarks/simulating``."""
    spec = importlib.util.spec_from_file_location(f"simulating_{name}", BENCHMARKS / "simulating" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # its dataclasses look their module up
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def serving() -> ModuleType:
    return module("serving")


@pytest.fixture(scope="module")
def extracting() -> ModuleType:
    return module("extracting")


@pytest.fixture(scope="module")
def keeping() -> ModuleType:
    return module("keeping")


# --- queueing theory


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_with_exponential_times_is_mm1(serving: ModuleType, load: float) -> None:
    config = serving.ServingConfig(parts=1, rate=load, queries=150_000, draw=serving.exponential(1.0))
    seconds = serving.lindley(config, 0)
    # The time that a query takes is exponential with 1 / (µ - λ).
    assert seconds.mean() == pytest.approx(1 / (1 - load), rel=0.04)
    assert np.percentile(seconds, 99) == pytest.approx(np.log(100) / (1 - load), rel=0.08)
    few = serving.Serving(replace(config, queries=15_000), 0).run()
    assert few.latencies.mean() == pytest.approx(1 / (1 - load), rel=0.12)
    assert few.busy == pytest.approx(load, rel=0.05)


@pytest.mark.parametrize("servers", [2, 16, 64])
def test_the_slowest_of_exponential_times_is_harmonic(serving: ModuleType, servers: int) -> None:
    config = serving.ServingConfig(parts=servers, queries=20_000, draw=serving.exponential(1.0))
    harmonic = sum(1 / k for k in range(1, servers + 1))
    assert serving.lindley(config, 1).mean() == pytest.approx(harmonic, rel=0.02)
    found = serving.Serving(replace(config, queries=400), 1).run()
    assert found.latencies.mean() == pytest.approx(harmonic, rel=0.12)
    assert found.searches == 400 * servers and (found.coverage == 1).all()


def test_events_and_recursion_agree_query_by_query(serving: ModuleType) -> None:
    constant = serving.ServingConfig(
        parts=3, rate=7.0, queries=300, draw=lambda rng, count: np.full(count, 0.1), asking=0.01
    )
    events = serving.Serving(constant, 3).run()
    np.testing.assert_allclose(events.latencies, serving.lindley(constant, 3), rtol=1e-9)


# --- plans


@pytest.mark.parametrize("servers", [1, 16, 64])
@pytest.mark.parametrize(("spread", "slow"), [(1.05, 0.0), (1.5, 0.0), (1.2, 0.001), (1.2, 0.02)])
def test_plans_of_single_queries_are_within_a_twentieth(
    serving: ModuleType, servers: int, spread: float, slow: float
) -> None:
    time = ServiceTime(median=0.1, spread=spread, slow_share=slow, slow_times=10.0)
    draw = serving.lognormal(0.1, time.sigma, slow, 10.0)
    seconds = serving.lindley(serving.ServingConfig(parts=servers, queries=40_000, draw=draw), 0)
    assert time.slowest(servers, 0.5) == pytest.approx(np.percentile(seconds, 50), rel=0.05)
    # At the edge of the slow share a percentile leaps from the body into the tail: there it says nothing.
    if abs(0.01 - (1 - (1 - slow) ** servers)) > 0.003:
        assert time.slowest(servers, 0.99) == pytest.approx(np.percentile(seconds, 99), rel=0.05)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("slow", [0.0, 0.002])
def test_plans_of_mean_waits_are_within_a_tenth(serving: ModuleType, load: float, slow: float) -> None:
    time = ServiceTime(median=0.1, spread=1.5, slow_share=slow, slow_times=10.0)
    draw, rate = serving.lognormal(0.1, time.sigma, slow, 10.0), load / time.mean
    config = serving.ServingConfig(parts=1, rate=rate, queries=300_000, draw=draw)
    seconds = serving.lindley(config, 0)
    assert seconds.mean() - time.mean == pytest.approx(time.mean_wait(rate), rel=0.1)


@pytest.mark.parametrize("servers", [1, 16, 64])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("slow", [0.0, 0.001])
def test_plans_under_load_are_not_far_below_and_not_twice_what_is_simulated(
    serving: ModuleType, servers: int, load: float, slow: float
) -> None:
    time = ServiceTime(median=0.1, spread=1.2, slow_share=slow, slow_times=10.0)
    rate = load / time.mean
    draw = serving.lognormal(0.1, time.sigma, slow, 10.0)
    seconds = serving.lindley(serving.ServingConfig(parts=servers, rate=rate, queries=30_000, draw=draw), 0)
    planned = time.wait_quantile(rate, 0.99) + time.slowest(servers, 0.99)
    assert 0.8 < planned / np.percentile(seconds, 99) < 2.0


@pytest.mark.parametrize(
    ("photos", "machines", "list_size", "days"),
    [(1_000_000, 8, 2000, 1e6), (2_000_000, 32, 500, 30.0), (4_000_000, 16, 2000, 5.0)],
)
def test_plans_of_extraction_are_within_the_last_list(
    extracting: ModuleType, photos: int, machines: int, list_size: int, days: float
) -> None:
    subject = Subject(name="a", config=IndexConfig(), words=65536, dim=128, photos=photos)
    costs = Costs().updated({"machine_days": days}, "given")
    config = PlanConfig(photos=photos, machines=machines, list_size=list_size)
    plan = make_plan(subject, costs, config, processors=2, memory=1 << 40).extraction
    each = list_size * costs.photo.seconds_per_photo / costs.machine.worker_share
    runs = [
        extracting.Extracting(
            extracting.ExtractingConfig(
                machines=machines, lists=photos // list_size, list_seconds=each, machine_days=days, replaced=0.0
            ),
            seed,
        ).run()
        for seed in range(3)
    ]
    seconds = np.mean([run.seconds for run in runs])
    assert 0.98 * plan.seconds < seconds < 1.02 * plan.seconds + 2 * plan.last_list
    losses = np.mean([run.losses for run in runs])
    assert losses == pytest.approx(plan.losses, rel=0.25, abs=3)


# --- stragglers, copies, losses


def test_a_second_copy_that_is_asked_when_the_first_is_late_cuts_the_tail(serving: ModuleType) -> None:
    time = ServiceTime(median=0.1, spread=1.2, slow_share=0.01, slow_times=10.0)
    draw = serving.lognormal(0.1, time.sigma, 0.01, 10.0)
    config = serving.ServingConfig(parts=16, replicas=2, rate=2.0, queries=600, draw=draw)
    plain, hedged = (serving.Serving(replace(config, hedge=late), 0).run() for late in (float("inf"), 0.15))
    assert np.percentile(hedged.latencies, 95) < 0.5 * np.percentile(plain.latencies, 95)
    assert plain.searches == 600 * 16 and 1.0 < hedged.searches / plain.searches < 1.1


def test_a_lost_server_costs_its_part_unless_another_copy_has_it(serving: ModuleType) -> None:
    config = serving.ServingConfig(
        parts=8, rate=1.0, queries=100, draw=serving.exponential(0.01), deadline=1.0, lost=frozenset({(3, 0)})
    )
    alone = serving.Serving(config, 0).run()
    assert (alone.coverage == 7 / 8).all() and alone.latencies == pytest.approx(np.ones(100))
    both = serving.Serving(replace(config, replicas=2, hedge=0.05), 0).run()
    assert (both.coverage == 1).all() and both.latencies.max() < 1


def test_lists_of_one_length_take_as_many_rounds_as_needed(extracting: ModuleType) -> None:
    config = extracting.ExtractingConfig(machines=8, lists=25, list_seconds=60.0, spread=0.0)
    found = extracting.Extracting(config, 0).run()
    assert found.seconds == pytest.approx(4 * 60.0) and found.ideal == pytest.approx(25 * 60 / 8)
    assert (found.losses, found.lost_seconds, found.repeated) == (0, 0.0, 0)


def test_stragglers_are_repeated_elsewhere(extracting: ModuleType) -> None:
    config = extracting.ExtractingConfig(machines=40, lists=400, list_seconds=60.0, slow_share=0.1, slow_times=30.0)
    waits, repeats = (extracting.Extracting(replace(config, repeat=repeat), 2).run() for repeat in (False, True))
    assert repeats.repeated > 0 and repeats.seconds < 0.6 * waits.seconds


def test_commits_save_most_of_what_lost_machines_had_done(extracting: ModuleType) -> None:
    config = extracting.ExtractingConfig(machines=10, lists=500, list_seconds=HOUR, machine_days=0.5)
    nothing, commits = (
        extracting.Extracting(replace(config, commit_seconds=seconds), 4).run() for seconds in (float("inf"), 60.0)
    )
    assert nothing.losses > 20 and commits.lost_seconds / commits.losses < 60
    assert nothing.lost_seconds / nothing.losses > 600


@pytest.mark.parametrize("replicas", [1, 2])
def test_missing_photos_are_what_independent_machines_give(keeping: ModuleType, replicas: int) -> None:
    config = keeping.LosingConfig(parts=20, replicas=replicas, machine_days=1.0, rebuild_seconds=2 * HOUR, years=20.0)
    gone = 2 / (2 + 24)
    found = keeping.lose(config, 0)
    assert found.missing == pytest.approx(gone**replicas, rel=0.05)
    assert found.incomplete == pytest.approx(1 - (1 - gone**replicas) ** 20, rel=0.05)
    assert found.losses == pytest.approx(20 * replicas * 365.25 * 24 / 26, rel=0.02)


def test_an_archive_grows_by_the_rules_of_compaction(keeping: ModuleType) -> None:
    config = keeping.GrowingConfig(photos=2_000_000, list_size=2000, portion=1000, compacting=False, photo_bytes=7000.0)
    once = keeping.grow(config)
    assert (once.commits, once.most_shards, once.written) == (1, 1000, pytest.approx(1.0))
    assert once.shards == -(-2_000_000 // 64_000)  # 32 segments of 2,000 fill a shard of 65,536 as far as they can
    often = keeping.grow(replace(config, portion=10, compacting=True))
    assert often.commits > 100 and often.most_shards < 100
    assert 1.0 < often.written < 6.0


@pytest.mark.long  # what it simulates is compared with the plans above
@pytest.mark.slow
def test_a_quick_run_has_the_figures_of_the_stored_one(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "simulation.py", "--quick", "-o", tmp_path / "s.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=BENCHMARKS)
    assert done.returncode == 0, done.stderr
    found, stored = (
        json.loads(path.read_text()) for path in (tmp_path / "s.json", BENCHMARKS / "results" / "simulation.json")
    )
    assert set(found) == set(stored)
    for part in ("queries", "extraction", "rebuilding"):
        assert found[part].keys() == stored[part].keys() and found[part]["16"].keys() == stored[part]["16"].keys()
