"""Plots of a measurement, as PNG and SVG: latency, throughput against batch, time and memory against archive size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctxdeploy.bench.cases import MAIN, METER, PEER
from ctxdeploy.bench.record import Record
from ctxdeploy.bench.results import times_of
from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.extras import require

_COLOURS = ("#2a78b0", "#b0402a", "#3c8c4a", "#7a5aa8", "#888888", "#c08a20")
Draw = Callable[[Any, Record], None]


def draw(record: Record, folder: Path) -> list[Path]:
    """Draw what a record has figures for; return the files, two of each plot.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: the folder cannot be written.
    """
    require("matplotlib", "bench")
    from matplotlib.figure import Figure

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, plot in _plots(record).items():
            figure = Figure(figsize=(7, 3.2), layout="constrained")
            plot(figure.subplots(), record)
            for suffix in (".png", ".svg"):
                files.append(folder / f"{record.path.stem}-{name}{suffix}")
                figure.savefig(files[-1], dpi=110, metadata={"Date": None} if suffix == ".svg" else None)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another --plots") from error
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
