"""A measurement for people: in words, as Markdown, and in plots, as PNG and SVG, from what stands in the record alone.

The plots: latency, throughput against the size of a batch, time and memory against the size of the archive.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctxdeploy.bench.cases import MAIN, METER, PEER
from ctxdeploy.bench.machine import provenance
from ctxdeploy.bench.record import Record
from ctxdeploy.bench.results import Compared, times_of
from ctxdeploy.core.extras import require
from ctxdeploy.core.files import make_folder, replacing, write_json
from ctxdeploy.index import SearchPlace

_COLOURS = ("#2a78b0", "#b0402a", "#3c8c4a", "#7a5aa8", "#888888", "#c08a20")
Draw = Callable[[Any, Record], None]
_UNITS = {"extract": ("photo", "photos"), "search": ("query", "queries"), "end-to-end": ("photo", "photos")}


def markdown(record: Record) -> str:
    """Return a page about a record that has its results."""
    results, configuration = record.content["results"], record.content["configuration"]
    machine, (unit, units) = configuration["machine"], _UNITS[record.kind]
    lines = [
        f"# {record.kind}: {machine['processor']}, {machine['processors']} processors",
        "",
        _about(record),
        "",
        f"| | median a {unit} | p05 | p25 | p75 | p95 | p99 | {units}/s | peak memory | drift |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cases = {label: case for label, case in results["cases"].items() if configuration["cases"][label]["role"] != METER}
    for label, case in cases.items():
        spread = case["seconds"]
        times = [_time(spread[name]) for name in ("p50", "p05", "p25", "p75", "p95", "p99")]
        memory = case["memory"]["peak"]
        facts = [
            f"{case['per_second']:.3g}",
            "" if memory is None else f"{memory / 1e6:.0f} MB",
            _percent(case["drift"]),
        ]
        lines.append(f"| {' | '.join([label, *times, *facts])} |")
    lines += ["", *_limit_lines(results), *_ratio_lines(results), *_stage_lines(cases, unit)]
    lines += [*_where_lines(cases), _gpu(cases), _energy(cases, unit), ""]
    return "\n".join(lines)


def comparison_text(found: Compared) -> str:
    """Return a comparison in a few lines."""
    result = found.comparison
    lines = [
        f"A  {found.a}",
        f"B  {found.b}",
        f"{_verdict(found)}: B takes {result.ratio:.3f} times as long "
        f"(95 % interval {result.low:.3f} to {result.high:.3f}; {result.design}, "
        f"{result.blocks[0]} and {result.blocks[1]} blocks)",
        f"a difference of {100 * result.detectable:.1f} % or more could have been found (four times out of five)",
    ]
    if result.by_seconds is not None and result.by_meter is not None:
        seconds, meter = (f"{r:.3f} ({low:.3f} to {high:.3f})" for r, low, high in (result.by_seconds, result.by_meter))
        lines.append(f"in seconds {seconds}, in units of the machine's own meter {meter}")
    drifts = [_percent(drift) for drift in found.drifts]
    lines.append(f"drift from the first to the last third of the windows: A {drifts[0]}, B {drifts[1]}")
    return "\n".join([*lines, *(f"differs: {line}" for line in found.differences)])


def publish(
    result: Mapping[str, Any], output: Path, lines: Sequence[str], plot: Callable[[Any], None] | None = None
) -> None:
    """Write what a script of ``benchmarks/`` measured: JSON with the machine and the versions, and perhaps a plot.

    Args:
        result: figures by name.
        output: the file; the plot lies beside it.
        lines: what was measured, its limit and the fraction reached, for people.
        plot: draws into axes of matplotlib; skipped where that is not installed.
    """
    make_folder(output.parent)
    write_json(output, {**result, **provenance()})
    print("\n".join([*lines, f"wrote {output}"]))  # noqa: T201 (the scripts print their results)
    if plot is not None and find_spec("matplotlib") is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3), layout="constrained")
        plot(figure.subplots())
        figure.savefig(output.with_suffix(".svg"), metadata={"Date": None})


def limit_text(label: str, limit: dict[str, Any]) -> str:
    """Return the line that says what limits a case, and how much of it was reached."""
    if "operations" in limit:
        work = f"{limit['operations'] / 1e9:.1f} GFLOP at {limit['operations_per_second'] / 1e9:.0f} GFLOP/s"
    else:
        work = f"{limit['bytes'] / 1e6:.2f} MB at {limit['bytes_per_second'] / 1e9:.1f} GB/s"
    whole = f", the whole {limit['fraction_of_whole']:.2f}" if "fraction_of_whole" in limit else ""
    return (
        f"{label}: the limit is {limit['limit']}, {work}: {_time(limit['seconds'])}; the stage {limit['stage']} "
        f"reaches {limit['fraction']:.2f} of it{whole}."
    )


def _about(record: Record) -> str:
    configuration, results = record.content["configuration"], record.content["results"]
    software, machine = configuration["software"], configuration["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in software["versions"].items())
    variables = ", ".join(f"{name}={value}" for name, value in software["environment"].items()) or "none that matters"
    load = results["load_average"].get("p50")
    ids = {case["model_id"][:12]: None for case in configuration["cases"].values() if "model_id" in case}
    commits = list(dict.fromkeys(session.get("commit") or "none" for session in record.content["sessions"]))
    model = f"model {', '.join(ids)}; " if ids else ""
    return (
        f"{model}{results['windows']} windows in {results['blocks']} blocks of fresh processes; load average "
        f"{'unknown' if load is None else f'{load:.2f}'}; governor {machine['governor'] or 'unknown'}; environment: "
        f"{variables}; {versions}; commit {', '.join(commits)}; key {record.content['key'][:12]}."
    )


def _limit_lines(results: dict[str, Any]) -> list[str]:
    found = [f"- {limit_text(label, case['limit'])}" for label, case in results["cases"].items() if "limit" in case]
    return [*(found or ["- No limit was measured."]), ""]


def _ratio_lines(results: dict[str, Any]) -> list[str]:
    lines = []
    for label, ratio in results["ratios"].items():
        lines.append(
            f"- {label} takes {ratio['ratio']:.3f} times as long ({ratio['low']:.3f} to {ratio['high']:.3f}): "
            f"{ratio['verdict']}."
        )
    return [*lines, ""] if lines else []


def _stage_lines(cases: dict[str, Any], unit: str) -> list[str]:
    lines = [f"Median of each stage a {unit}:", ""]
    for label, case in cases.items():
        if case["stages"]:
            stages = ", ".join(f"{name} {_time(found['p50'])}" for name, found in case["stages"].items())
            lines.append(f"- {label}: {stages}")
    return [*lines, ""]


def _where_lines(cases: dict[str, Any]) -> list[str]:
    """Return where networks and searches ran, those of one place together."""
    by_place: dict[str, list[str]] = {}
    for label, case in cases.items():
        where = case.get("where", {})
        parts = [_network_text(where["network"])] if "network" in where else []
        parts += [f"search on {SearchPlace(**where['search']).label}"] if "search" in where else []
        if parts:
            by_place.setdefault("; ".join(parts), []).append(label)
    lines = [f"- {place}: {', '.join(labels)}" for place, labels in by_place.items()]
    return ["Where it ran:", "", *lines, ""] if lines else []


def _network_text(network: dict[str, Any]) -> str:
    device, threads = network["device"] or "", network["threads"]
    own = "" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}"
    place = device if device.startswith("GPU") else "the CPU"  # whose name stands above
    return f"network in {network['backend']} {network['precision']} on {place}{own}"


def _gpu(cases: dict[str, Any]) -> str:
    used = [case["memory"]["gpu"] for case in cases.values() if case["memory"]["gpu"] is not None]
    return f"GPU memory: {max(used) / 1e6:.0f} MB." if used else "GPU memory: not tried, no GPU engine ran."


def _energy(cases: dict[str, Any], unit: str) -> str:
    found = {label: case["joules"] for label, case in cases.items() if case["joules"] is not None}
    if not found:
        return "Energy: this machine does not report it."
    return f"Energy a {unit}: {', '.join(f'{label} {value:.3g} J' for label, value in found.items())}."


def _verdict(found: Compared) -> str:
    verdict = found.comparison.verdict
    return "no difference found" if verdict == "no difference" else f"B is {verdict} than A"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"


def draw(record: Record, folder: Path) -> list[Path]:
    """Draw what a record has figures for; return the files, two of each plot.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: the folder cannot be written.
    """
    require("matplotlib", "bench")
    from matplotlib.figure import Figure

    files = []
    make_folder(folder, advice="choose another --plots")
    for name, plot in _plots(record).items():
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        plot(figure.subplots(), record)
        for suffix in (".png", ".svg"):
            files.append(folder / f"{record.path.stem}-{name}{suffix}")
            with replacing(files[-1], advice="choose another --plots") as temporary:
                figure.savefig(temporary, dpi=110, metadata={"Date": None} if suffix == ".svg" else None)
    return files


def _plots(record: Record) -> dict[str, Draw]:
    cases = record.content["configuration"]["cases"].values()
    found: dict[str, Draw] = {"latency": _latency}
    if any(case.get("batch", 1) > 1 for case in cases):
        found["batch"] = _throughput
    if sum(_is_size(case) for case in cases) > 1:
        found |= {"size": _time_by_size, "memory": _memory_by_size}
    return found


def _latency(axes: Any, record: Record) -> None:
    """Draw the share of photos or queries that took at most so long."""
    cases = record.content["configuration"]["cases"]
    shown = [label for label, case in cases.items() if case["role"] != METER and case["units"] == 1]
    for number, label in enumerate(shown):
        values = sorted(1000 * times_of(record, label).reshape(-1))
        shares = [(i + 1) / len(values) for i in range(len(values))]
        axes.step(values, shares, where="post", color=_COLOURS[number % len(_COLOURS)], label=label)
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.set_ylabel("share that took at most so long")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _throughput(axes: Any, record: Record) -> None:
    """Draw what a second yields against the size of the batch: of a network alone, or of whole searches."""
    cases, results = record.content["configuration"]["cases"], record.content["results"]["cases"]
    points = []
    for label, case in cases.items():
        if case["role"] == MAIN or case.get("batch", 1) > 1:
            stages = results[label]["stages"]
            rate = 1 / stages["network"]["mean"] if "network" in stages else results[label]["per_second"]
            points.append((case["units"], rate))
    points.sort()
    axes.plot([size for size, _ in points], [rate for _, rate in points], "o-", color=_COLOURS[0])
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch")
    axes.set_ylabel("photos/s (network)" if record.kind == "extract" else "queries/s")
    axes.grid(alpha=0.3)


def _time_by_size(axes: Any, record: Record) -> None:
    """Draw the time of a query against the photos of the archive."""
    points = _sizes(record)
    axes.plot(*_line(points, lambda case: 1000 * case["seconds"]["p50"]), "o-", color=_COLOURS[0], label="median")
    axes.plot(*_line(points, lambda case: 1000 * case["seconds"]["p99"]), ":", color=_COLOURS[0], label="p99")
    scans = _line(points, lambda case: 1000 * case["stages"]["scan"]["p50"])
    axes.plot(*scans, "^-", color=_COLOURS[2], label="scan of the postings")
    cases, results = record.content["configuration"]["cases"], record.content["results"]["cases"]
    for label, case in cases.items():
        if case["role"] == PEER:
            axes.plot([case["photos"]], [1000 * results[label]["seconds"]["p50"]], "s", color=_COLOURS[4], label=label)
    _finish(axes, "ms a query")


def _memory_by_size(axes: Any, record: Record) -> None:
    """Draw memory against the photos of the archive."""
    points, about = _sizes(record), record.content["about"]
    axes.plot(
        *_line(points, lambda case: case["memory"]["peak"] / 1e6), "o-", color=_COLOURS[0], label="peak, with files"
    )
    if all(case["memory"]["own"] is not None for _, _, case in points):
        own = _line(points, lambda case: case["memory"]["own"] / 1e6)
        axes.plot(*own, "^-", color=_COLOURS[1], label="not file-backed")
    disk = [about[label]["facts"]["bytes"] / 1e6 for _, label, _ in points]
    axes.plot([photos for photos, _, _ in points], disk, "s-", color=_COLOURS[4], label="archive on disk")
    _finish(axes, "MB")


def _finish(axes: Any, label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("photos")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _is_size(case: dict[str, Any]) -> bool:
    return case["subject"] == "searches" and (case["role"] == MAIN or case.get("at") is not None)


def _sizes(record: Record) -> list[tuple[int, str, dict[str, Any]]]:
    """Return photos, label and results of the cases that differ in the archive's size alone."""
    cases, content = record.content["configuration"]["cases"], record.content
    found = [
        (int(content["about"][label]["facts"]["photos"]), label, content["results"]["cases"][label])
        for label, case in cases.items()
        if _is_size(case)
    ]
    return sorted(found, key=lambda point: point[0])


def _line(
    points: list[tuple[int, str, dict[str, Any]]], value: Callable[[dict[str, Any]], float]
) -> tuple[list[int], list[float]]:
    return [photos for photos, _, _ in points], [value(case) for _, _, case in points]
