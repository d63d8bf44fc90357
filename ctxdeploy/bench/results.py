"""What follows from the windows of a record: percentiles, throughput, stages, memory, energy, drift, limits, ratios."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench.cases import AGAINST, MAIN, METER, PEER
from ctxdeploy.bench.record import Record
from ctxdeploy.bench.statistics import LEAST_BLOCKS, Measured, compare_interleaved
from ctxdeploy.bench.timing import percentiles

# Ratios of one run that lie nearer to 1 are no difference.
LEAST_INTERLEAVED = 0.01


def results_of(record: Record) -> dict[str, Any]:
    """Return the results of a record, as they stand in its file under ``results``."""
    cases = record.content["configuration"]["cases"]
    found = {label: _case(record, label, case["units"]) for label, case in cases.items()}
    limits = limits_of(record)
    for label, limit in limits.items():
        found[label]["limit"] = limit
    return {
        "windows": len(record.windows),
        "blocks": len({window["block"] for window in record.windows}),
        "load_average": percentiles([w["load_average"] for w in record.windows if w["load_average"] is not None]),
        "cases": found,
        "ratios": _ratios(record),
    }


def label_of(record: Record, role: str) -> str | None:
    """Return the label of the first case of a role; None if there is none."""
    cases = record.content["configuration"]["cases"]
    return next((label for label, case in cases.items() if case["role"] == role), None)


def times_of(record: Record, label: str) -> NDArray[np.float64]:
    """Return a case's seconds, windows × items."""
    return np.array([window["cases"][label]["seconds"] for window in record.windows], np.float64)


def measured(record: Record, label: str) -> Measured:
    """Return a case as it is compared; the meter is the run's."""
    meter = label_of(record, METER)
    blocks = np.array([window["block"] for window in record.windows], np.int64)
    metered = None if meter is None else np.median(times_of(record, meter), axis=1)
    return Measured(seconds=times_of(record, label), blocks=blocks, meter=metered)


def drift_of(times: NDArray[np.float64]) -> float | None:
    """Return by which share the last third of the windows took longer than the first; None of fewer than three."""
    third = len(times) // 3
    if third == 0:
        return None
    logs = np.log(times).mean(axis=1)
    return float(np.expm1(np.median(logs[-third:]) - np.median(logs[:third])))


def _case(record: Record, label: str, units: int) -> dict[str, Any]:
    times = times_of(record, label)
    windows = [window["cases"][label] for window in record.windows]
    stages = {name: [s for w in windows for s in w["stages"][name]] for name in windows[0]["stages"]}
    memory = [window["memory"] for window in windows]
    joules = [window["joules"] for window in windows]
    return {
        "seconds": percentiles((times / units).reshape(-1).tolist()),
        "per_second": float(units * times.size / times.sum()),
        "stages": {name: percentiles([s / units for s in seconds]) for name, seconds in stages.items()},
        "memory": {
            name: max((m[name] for m in memory if m[name] is not None), default=None) for name in ("peak", "own", "gpu")
        },
        "joules": None if None in joules else float(sum(joules) / (units * times.size)),
        "drift": drift_of(times),
    }


def limits_of(record: Record) -> dict[str, dict[str, Any]]:
    """Return for each case with a known limit what it is and the fraction of it that was reached."""
    meter = label_of(record, METER)
    about = record.content.get("about", {})
    if meter is None or meter not in about:
        return {}
    best = float(times_of(record, meter).min())
    operations = record.content.get("known", {}).get("operations")
    facts = about[meter]["facts"]
    if "bytes" in facts:
        return _read_limits(record, facts["bytes"] / best)
    return {} if operations is None else _operation_limits(record, np.array(operations), facts["operations"] / best)


def _read_limits(record: Record, rate: float) -> dict[str, dict[str, Any]]:
    """Limits of searches one by one: their postings, read as fast as so many threads read memory."""
    found = {}
    meter = next(case for case in record.content["configuration"]["cases"].values() if case["role"] == METER)
    threads = meter["threads"]
    for label, about in record.content["about"].items():
        case = record.content["configuration"]["cases"][label]
        if case["subject"] != "searches" or case["units"] > 1 or case["threads"] != threads:
            continue
        scans = np.array([window["cases"][label]["stages"]["scan"] for window in record.windows])
        least = np.array(about["facts"]["bytes_read"]) / rate
        found[label] = {
            "limit": "postings read at the memory's bandwidth",
            "stage": "scan",
            "bytes": float(np.median(about["facts"]["bytes_read"])),
            "bytes_per_second": rate,
            "seconds": float(np.median(least)),
            "fraction": float(np.median(least[None] / np.maximum(scans, 1e-9))),
        }
    return found


def _operation_limits(record: Record, operations: NDArray[np.float64], rate: float) -> dict[str, dict[str, Any]]:
    """Limits of the main network: its operations of each photo, at the main engine's rate of large convolutions."""
    found = {}
    # Another precision has another limit, another model or size of photos other operations.
    alike = ("precision", "threads", "model_id", "preprocessing_hash")
    cases = record.content["configuration"]["cases"]
    main = next(case for case in cases.values() if case["role"] == MAIN)
    for label, case in cases.items():
        if case["role"] == METER or any(case.get(name, main.get(name)) != main.get(name) for name in alike):
            continue
        stages = [window["cases"][label]["stages"] for window in record.windows]
        if "network" not in stages[0]:
            continue
        seconds = np.array([stage["network"] for stage in stages]) / case["units"]
        least = operations / rate if seconds.shape[1] == len(operations) else np.array([operations.mean() / rate])
        found[label] = {
            "limit": f"operations at the rate of large convolutions in {main['backend']} {main['precision']}",
            "stage": "network",
            "operations": float(np.median(least) * rate),
            "operations_per_second": rate,
            "seconds": float(np.median(least)),
            "fraction": float(np.median(least[None] / seconds)),
            "fraction_of_whole": float(np.median(least[None] / (times_of(record, label) / case["units"]))),
        }
    return found


def _ratios(record: Record) -> dict[str, Any]:
    """Return how long the peers and the other configuration take, in times of the main case."""
    cases = record.content["configuration"]["cases"]
    main = label_of(record, MAIN)
    blocks = {window["block"] for window in record.windows}
    if main is None or len(blocks) < LEAST_BLOCKS:
        return {}
    found = {}
    for label, case in cases.items():
        if case["role"] in (PEER, AGAINST):
            sides = pair(measured(record, main), measured(record, label))
            found[label] = compare_interleaved(*sides, LEAST_INTERLEAVED).metadata()
    return found


def pair(a: Measured, b: Measured) -> tuple[Measured, Measured]:
    """Return two sides with the same items; where they have others, the means of their windows are all they share."""
    if a.seconds.shape[1] == b.seconds.shape[1]:
        return a, b
    first, second = (replace(side, seconds=side.seconds.mean(axis=1, keepdims=True)) for side in (a, b))
    return first, second
