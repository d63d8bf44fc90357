"""What becomes of 100,000,000 photos on 16 to 64 machines? A simulation, from costs that were measured on one.

    python benchmarks/simulation.py                            # about two minutes
    python benchmarks/simulation.py --quick                    # ten seconds, few queries
    python benchmarks/simulation.py --measured FILE            # costs of `ctxdeploy plan --measure`

Queries over shard servers of which each answers one after the other, with rare slow searches, load, copies, hedged
requests, deadlines and lost servers (`simulating/serving.py`, on SimPy); extraction of all photos while machines are
lost and slow (`simulating/extracting.py`); commits, compaction and rebuilding (`simulating/keeping.py`). Beside each
figure stands what `ctxdeploy plan` says of the same, by formula: that is what the simulation checks.

Measured are the costs: how long a photo, a list of postings, a posting, a commit take. That servers differ by a
log-normal time, how often they are slow, and when machines are lost, are assumptions, and stand in the result.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from simulating.extracting import Extracting, ExtractingConfig
from simulating.keeping import GrowingConfig, LosingConfig, grow, lose
from simulating.serving import Serving, ServingConfig, lindley, lognormal, percentiles

from ctxdeploy.bench import publish
from ctxdeploy.capacity.config import PlanConfig
from ctxdeploy.capacity.costs import MEASURED, MODEL, Costs
from ctxdeploy.capacity.measurement import Measurement
from ctxdeploy.capacity.plan import Plan, make_plan
from ctxdeploy.capacity.queries import load_times, service_time
from ctxdeploy.capacity.subject import chosen, subject_of_model
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.models import find_model

MACHINES = (16, 32, 64)
LOADS = (0.3, 0.6, 0.8)
LISTS = (500, 2000, 10_000)
# Photos and machines of the worked examples of docs/capacity.md.
EXAMPLES = {"1M": (10**6, 1), "10M": (10**7, 4), "100M": (10**8, 32)}


def planned(options: argparse.Namespace, machines: int, replicas: int = 1, photos: int = 0) -> Plan:
    """Return the plan of the archive on so many machines, each copy on machines of its own."""
    config = PlanConfig(
        photos=photos or options.photos, machines=machines * replicas, replicas=replicas, words=options.words
    )
    subject = chosen(subject_of_model(open_bundle(find_model(None), check_hashes=False)), config, 0)
    costs = Costs().updated(subject.usual, MODEL)
    if options.measured is not None:
        found = Measurement.read(options.measured)
        costs = costs.updated(found.for_model(subject.model, "none", subject.words), MEASURED)
    return make_plan(subject, costs, config, processors=options.processors, memory=options.memory << 30)


def _example(options: argparse.Namespace, photos: int, machines: int) -> dict[str, Any]:
    """Return the figures of a plan."""
    plan = planned(options, machines, photos=photos).metadata()
    return {name: plan[name] for name in ("archive", "machines", "extraction", "queries", "upkeep", "problems")}


def queries(options: argparse.Namespace, machines: int) -> dict[str, Any]:
    """Simulate queries over one server a part, and over two."""
    plan = planned(options, machines)
    service, asking = service_time(plan.costs, plan.queries.search), plan.queries.asking
    draw = lognormal(service.median, service.sigma, service.slow_share, service.slow_times)
    base = ServingConfig(parts=machines, draw=draw, queries=options.queries, asking=asking)
    alone = _over_seeds(options, lambda seed: percentiles(lindley(replace(base, queries=20 * options.queries), seed)))
    found: dict[str, Any] = {
        "search_ms": round(1000 * service.median, 2),
        "one_by_one": {**alone, "plan": _milliseconds(p50=plan.queries.median, p99=plan.queries.p99)},
        "loads": {},
    }
    for load in LOADS:
        rate = load / service.mean
        config = replace(base, rate=rate, queries=20 * options.queries)
        by_formula = load_times(plan.costs, plan.queries, rate=rate, replicas=1, parts=machines)
        found["loads"][str(load)] = {
            "rate": round(rate, 2),
            **_over_seeds(options, partial(_percentiles_of, config)),
            "plan": _milliseconds(p99=by_formula.p99),
        }
    found["served"] = {
        name: _served(options, replace(base, rate=0.3 / service.mean, **change))
        for name, change in _variants(service.quantile(0.95), service.median, asking).items()
    }
    return found


def _variants(late: float, median: float, asking: float) -> dict[str, dict[str, Any]]:
    """Return what is changed beside one copy, no deadline: copies, hedged requests, a deadline, a lost server."""
    gone = frozenset({(0, 0)})
    return {
        "one copy": {},
        "one copy, deadline": {"deadline": 3 * median + asking},
        "two copies": {"replicas": 2},
        "two copies, hedged": {"replicas": 2, "hedge": late},
        "two copies, hedged, deadline": {"replicas": 2, "hedge": late, "deadline": 3 * median + asking},
        "one copy, a server lost, deadline": {"lost": gone, "deadline": 3 * median + asking},
        "two copies, a server lost, hedged": {"replicas": 2, "hedge": late, "lost": gone},
    }


def _percentiles_of(config: ServingConfig, seed: int) -> dict[str, float]:
    return percentiles(lindley(config, seed))


def _served(options: argparse.Namespace, config: ServingConfig) -> dict[str, Any]:
    runs = [Serving(config, seed).run() for seed in range(options.seeds)]
    asked = config.queries * config.parts
    return {
        **_together([percentiles(run.latencies) for run in runs]),
        "coverage": round(float(np.mean([run.coverage.mean() for run in runs])), 6),
        "whole": round(float(np.mean([(run.coverage == 1).mean() for run in runs])), 5),
        "searches": round(float(np.mean([run.searches / asked for run in runs])), 4),
        "busy": round(float(np.mean([run.busy for run in runs])), 4),
    }


def extraction(options: argparse.Namespace, machines: int) -> dict[str, Any]:
    """Simulate all photos, lists of several sizes, lost and slow machines."""
    plan = planned(options, machines)
    photo = plan.costs.photo.seconds_per_photo / plan.costs.machine.worker_share
    days = plan.costs.machine.machine_days
    found = {}
    for size in LISTS:
        base = ExtractingConfig(
            machines=machines, lists=-(-options.photos // size), list_seconds=size * photo, machine_days=days
        )
        found[f"lists of {size}"] = _extracted(options, base)
    middle = ExtractingConfig(
        machines=machines, lists=-(-options.photos // LISTS[1]), list_seconds=LISTS[1] * photo, machine_days=days
    )
    slow = replace(middle, slow_share=0.05, slow_times=5.0)
    found |= {
        "no machine lost": _extracted(options, replace(middle, machine_days=float("inf"))),
        "machines lost every 10 days": _extracted(options, replace(middle, machine_days=10.0)),
        "the same, commits every 5 minutes at most": _extracted(
            options, replace(middle, machine_days=10.0, commit_seconds=300.0)
        ),
        "slow machines": _extracted(options, replace(slow, repeat=False)),
        "slow machines, stragglers repeated": _extracted(options, slow),
    }
    hours = plan.extraction.seconds / 3600
    return {"plan_hours": round(hours, 3), "plan_last_minutes": round(plan.extraction.last_list / 60, 2), "runs": found}


def _extracted(options: argparse.Namespace, config: ExtractingConfig) -> dict[str, Any]:
    runs = [Extracting(config, seed).run() for seed in range(options.seeds)]
    return {
        "hours": _range([run.seconds / 3600 for run in runs]),
        "over_ideal": _range([run.seconds / run.ideal for run in runs]),
        "losses": round(float(np.mean([run.losses for run in runs])), 2),
        "lost_machine_minutes": round(float(np.mean([run.lost_seconds / 60 for run in runs])), 2),
        "repeated": round(float(np.mean([run.repeated for run in runs])), 2),
        "last_minutes": round(float(np.mean([run.last / 60 for run in runs])), 2),
    }


def rebuilding(options: argparse.Namespace, machines: int) -> dict[str, Any]:
    """Simulate years of lost machines, with one to three copies of each part."""
    found = {}
    for replicas in (1, 2, 3):
        plan = planned(options, machines, replicas)
        seconds, days = plan.upkeep.copying, plan.costs.machine.machine_days
        config = LosingConfig(parts=machines, replicas=replicas, machine_days=days, rebuild_seconds=seconds)
        runs = [lose(replace(config, years=options.years), seed) for seed in range(options.seeds)]
        gone = seconds / (days * 86400 + seconds)
        found[str(replicas)] = {
            "rebuild_minutes": round(seconds / 60, 3),
            "losses_a_year": round(float(np.mean([run.losses for run in runs])), 2),
            "missing_share": float(np.mean([run.missing for run in runs])),
            "incomplete_share": float(np.mean([run.incomplete for run in runs])),
            "by_formula": gone**replicas,
        }
    return found


def growing(options: argparse.Namespace) -> dict[str, Any]:
    """Publish all segments in portions, compacted after each or once at the end."""
    plan = planned(options, MACHINES[-1])
    storage, segments = plan.costs.storage, plan.archive.segments
    found: dict[str, Any] = {"plan": {"publish_s": plan.upkeep.publish, "compact_s": plan.upkeep.compact}}
    for portion in sorted({max(segments // parts, 1) for parts in (1000, 100, 10, 1)}):
        for compacting in (True, False):
            config = GrowingConfig(
                photos=options.photos,
                list_size=LISTS[1],
                portion=portion,
                compacting=compacting,
                photo_bytes=plan.archive.sizes.shard / options.photos,
                commit_seconds=storage.commit_seconds,
                shard_seconds=storage.shard_seconds,
                hash_rate=min(storage.hash_rate, storage.disk_read),
                compact_rate=storage.compact_rate,
            )
            name = f"{portion} segments a commit, {'compacted after each' if compacting else 'compacted at the end'}"
            found[name] = {key: round(float(value), 4) for key, value in asdict(grow(config)).items()}
    return found


def _over_seeds(options: argparse.Namespace, run: Callable[[int], dict[str, float]]) -> dict[str, Any]:
    return _together([run(seed) for seed in range(options.seeds)])


def _together(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the mean of each figure over seeds, and how far the seeds lie apart."""
    mean = {name: float(f"{np.mean([run[name] for run in runs]):.4g}") for name in runs[0]}
    low, high = ({name: pick(run[name] for run in runs) for name in runs[0]} for pick in (min, max))
    return {"ms": mean, "lowest": low, "highest": high}


def _range(values: Sequence[float]) -> list[float]:
    """Return mean, least and most."""
    return [float(f"{value:.5g}") for value in (float(np.mean(values)), min(values), max(values))]


def _milliseconds(**seconds: float) -> dict[str, float]:
    return {name: float(f"{1000 * value:.4g}") for name, value in seconds.items()}


def plot(found: dict[str, Any], axes: Any) -> None:
    """Draw the latencies of queries against the number of servers."""
    lines = {
        "one by one, median": ("#2a78b0", lambda of: of["one_by_one"]["ms"]["p50"]),
        "one by one, p99": ("#b0402a", lambda of: of["one_by_one"]["ms"]["p99"]),
        "one by one, p99 by formula": ("#888888", lambda of: of["one_by_one"]["plan"]["p99"]),
        "30 % load, p99": ("#3c8c4a", lambda of: of["served"]["one copy"]["ms"]["p99"]),
        "30 % load, p99, two copies, hedged": ("#7a5aa8", lambda of: of["served"]["two copies, hedged"]["ms"]["p99"]),
        "one server's search": ("#c08a20", lambda of: of["search_ms"]),
    }
    counts = [int(count) for count in found["queries"]]
    for label, (colour, value) in lines.items():
        style = "--" if "formula" in label else "-"
        axes.plot(counts, [value(of) for of in found["queries"].values()], f"o{style}", color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="shard servers of 100M photos", ylabel="ms")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)


def main() -> None:
    """Read the options, simulate, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000_000)
    parser.add_argument("--words", type=int, default=65_536, help="of the codebook")
    parser.add_argument("--processors", type=int, default=2, help="of a machine")
    parser.add_argument("--memory", type=int, default=64, help="GiB of a machine")
    parser.add_argument("--queries", type=int, default=600, help="of a run with events; 20 times as many without")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--years", type=float, default=200.0, help="of lost machines")
    parser.add_argument("--measured", type=Path, help="costs that  ctxdeploy plan --measure  found")
    parser.add_argument("--quick", action="store_true", help="few queries, two seeds")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "simulation.json")
    options = parser.parse_args()
    if options.quick:
        options.queries, options.seeds, options.years, options.photos = 60, 2, 20.0, 2_000_000
    plan = planned(options, MACHINES[0])
    found: dict[str, Any] = {
        "question": "queries, extraction and upkeep of many photos on many machines, simulated from measured costs",
        "photos": options.photos,
        "words": options.words,
        "processors_of_a_machine": options.processors,
        "seeds": options.seeds,
        "costs": {entry.name: {"value": value, "source": source} for entry, value, source in plan.costs.listed()},
        "plans": {name: _example(options, photos, machines) for name, (photos, machines) in EXAMPLES.items()},
        "queries": {str(count): queries(options, count) for count in MACHINES},
        "extraction": {str(count): extraction(options, count) for count in MACHINES},
        "rebuilding": {str(count): rebuilding(options, count) for count in MACHINES},
        "growing": growing(options),
    }
    lines = [
        f"{count} servers: {of['one_by_one']['ms']['p50']:.0f} ms (by formula {of['one_by_one']['plan']['p50']:.0f}), "
        f"p99 {of['one_by_one']['ms']['p99']:.0f} ({of['one_by_one']['plan']['p99']:.0f}); all photos "
        f"{found['extraction'][count]['runs'][f'lists of {LISTS[1]}']['hours'][0]:.1f} h "
        f"({found['extraction'][count]['plan_hours']:.1f})"
        for count, of in found["queries"].items()
    ]
    publish(found, options.output, lines, partial(plot, found))


if __name__ == "__main__":
    main()
