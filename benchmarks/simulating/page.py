"""The figures of docs/capacity.md: worked examples and the simulation, from ``results/simulation.json``."""

from typing import Any

from ctxdeploy.capacity.figures import BYTES, COUNT, SECONDS, shown

_ROWS = (
    ("machines", "machines", "machines", COUNT),
    ("machines", "needed", "needed to hold it in memory", COUNT),
    ("archive", "on_disk", "on disk", BYTES),
    ("archive", "shards", "shards, compacted", COUNT),
    ("machines", "memory", "in memory, each machine", BYTES),
    ("extraction", "seconds", "extraction", SECONDS),
    ("extraction", "losses", "machines lost meanwhile, expected", COUNT),
    ("queries", "search", "a search of one machine's part", SECONDS),
    ("queries", "median", "a search over all, median", SECONDS),
    ("queries", "p99", "a search over all, 99 of 100", SECONDS),
    ("queries", "whole", "from photo to hits, median", SECONDS),
    ("upkeep", "commit", "a commit of a few photos", SECONDS),
    ("upkeep", "publish", "publish all segments", SECONDS),
    ("upkeep", "compact", "compact them", SECONDS),
    ("upkeep", "copying", "a new machine in place of a lost one", SECONDS),
)


def worked(r: dict[str, Any]) -> str:
    """Plans of three archives."""
    plans = r["simulation"]["plans"]
    lines = ["| photos |" + "".join(f" {name} |" for name in plans), "|---|" + "---|" * len(plans)]
    for part, name, label, unit in _ROWS:
        cells = [shown(plan[part][name], unit) for plan in plans.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def simulated(r: dict[str, Any]) -> str:
    """Queries, extraction, losses and growth, simulated, beside the plan."""
    found = r["simulation"]
    parts = [_about(found), _queries(found), _loads(found), _served(found), _extraction(found), _losses(found)]
    return "\n\n".join([*parts, _growth(found)])


def _about(found: dict[str, Any]) -> str:
    costs = found["costs"]
    return (
        f"{found['photos']:,} photos, {found['words']:,} words, machines of {found['processors_of_a_machine']} "
        f"processors; {found['seeds']} seeds, of which the tables have the mean. A search's 99th percentile is "
        f"{costs['spread']['value']:g} times its median, {costs['slow_share']['value']:g} of the searches take "
        f"{costs['slow_times']['value']:g} times as long, and a machine is lost every "
        f"{costs['machine_days']['value']:g} days."
    )


def _ms(value: float) -> str:
    return shown(value / 1000, SECONDS)


def _queries(found: dict[str, Any]) -> str:
    lines = [
        "Queries one after the other, in brackets what the plan says:",
        "",
        "| shard servers | search of one | all, median | all, 99 of 100 | all, 999 of 1000 |",
        "|---|---|---|---|---|",
    ]
    for count, of in found["queries"].items():
        one, plan = of["one_by_one"]["ms"], of["one_by_one"]["plan"]
        cells = [_ms(of["search_ms"]), *(f"{_ms(one[name])} ({_ms(plan[name])})" for name in ("p50", "p99"))]
        lines.append(f"| {count} | {' | '.join(cells)} | {_ms(one['p99.9'])} |")
    return "\n".join(lines)


def _loads(found: dict[str, Any]) -> str:
    loads = next(iter(found["queries"].values()))["loads"]
    lines = [
        "Queries that come by chance; 99 of 100 are answered within (in brackets the plan):",
        "",
        "| shard servers |" + "".join(f" busy {100 * float(load):.0f} % |" for load in loads),
        "|---|" + "---|" * len(loads),
    ]
    for count, of in found["queries"].items():
        cells = [
            f"{_ms(run['ms']['p99'])} ({_ms(run['plan']['p99'])}), {run['rate']:.2g} a second"
            for run in of["loads"].values()
        ]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _served(found: dict[str, Any]) -> str:
    count, of = list(found["queries"].items())[-1]
    lines = [
        f"{count} parts, servers busy three tenths of their time without copies (a copy is a server more); hedged: "
        "another copy is asked once a search takes longer than 95 of 100 do:",
        "",
        "| | median | 99 of 100 | 999 of 1000 | coverage | whole answers | searches a part |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in of["served"].items():
        times = [_ms(run["ms"][share]) for share in ("p50", "p99", "p99.9")]
        shares = [f"{run['coverage']:.5f}", f"{run['whole']:.4f}", f"{run['searches']:.3f}"]
        lines.append(f"| {name} | {' | '.join([*times, *shares])} |")
    return "\n".join(lines)


def _extraction(found: dict[str, Any]) -> str:
    counts = list(found["extraction"])
    lines = [
        "All photos through the network, in hours (mean of the seeds; the last column: minutes of work that lost "
        f"machines had done, with {counts[-1]} machines):",
        "",
        "| |" + "".join(f" {count} machines |" for count in counts) + " work lost, minutes |",
        "|---|" + "---|" * len(counts) + "---|",
        "| plan |" + "".join(f" {of['plan_hours']:.4g} |" for of in found["extraction"].values()) + " |",
    ]
    for name in found["extraction"][counts[0]]["runs"]:
        runs = [of["runs"][name] for of in found["extraction"].values()]
        cells = [f"{run['hours'][0]:.4g}" for run in runs]
        lines.append(f"| {name} | {' | '.join(cells)} | {runs[-1]['lost_machine_minutes']:.3g} |")
    return "\n".join(lines)


def _losses(found: dict[str, Any]) -> str:
    lines = [
        "Machines that are lost and replaced; the share of photos that queries miss, on average over years (in "
        "brackets: if machines are lost independently of each other):",
        "",
        "| parts | copies | losses a year | replaced in | photos missed | time with any missed |",
        "|---|---|---|---|---|---|",
    ]
    for count, of in found["rebuilding"].items():
        for copies, run in of.items():
            missed = f"{run['missing_share']:.1e} ({run['by_formula']:.1e})"
            lines.append(
                f"| {count} | {copies} | {run['losses_a_year']:.0f} | {shown(60 * run['rebuild_minutes'], SECONDS)} | "
                f"{missed} | {run['incomplete_share']:.1e} |"
            )
    return "\n".join(lines)


def _growth(found: dict[str, Any]) -> str:
    growing = found["growing"]
    plan = growing["plan"]
    lines = [
        "Publishing all segments, compacted after each commit where that is worth it, or once at the end (plan: "
        f"publish {shown(plan['publish_s'], SECONDS)}, compact {shown(plan['compact_s'], SECONDS)}):",
        "",
        "| | commits | in them | compaction | rewritten | most shards at once |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in growing.items():
        if name != "plan":
            times = [shown(run[key], SECONDS) for key in ("commit_seconds", "compact_seconds")]
            lines.append(
                f"| {name} | {run['commits']:,.0f} | {' | '.join(times)} | {run['written']:.2f} times | "
                f"{run['most_shards']:,.0f} |"
            )
    return "\n".join(lines)
