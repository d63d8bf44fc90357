"""What follows from the windows of a record: percentiles, stages, memory, energy, drift, limits, and comparisons."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench.cases import AGAINST, MAIN, METER, PEER
from ctxdeploy.bench.record import Record, differences
from ctxdeploy.bench.statistics import (
    MIN_BLOCKS,
    Comparison,
    Measured,
    compare_interleaved,
    compare_runs,
    percentiles,
)
from ctxdeploy.core.errors import ConfigError

# Ratios nearer to 1 are not a difference: of two cases that took turns in one run, and of two runs.
MIN_INTERLEAVED, MIN_TWO_RUNS = 0.01, 0.02


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
    """Return the label of the first case of a role; None without one."""
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
        "where": _where(record, label),
    }


def _where(record: Record, label: str) -> dict[str, Any]:
    """Return what ran a case's network, and what searched, as its process said; what it did not have is left out."""
    facts = record.content.get("about", {}).get(label, {}).get("facts", {})
    found = {}
    if "backend" in facts:
        found["network"] = {name: facts.get(name) for name in ("backend", "precision", "device", "threads")}
    if "search" in facts:
        found["search"] = facts["search"]
    return found


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
        shortest = np.array(about["facts"]["bytes_read"]) / rate
        found[label] = {
            "limit": "postings read at the memory's bandwidth",
            "stage": "scan",
            "bytes": float(np.median(about["facts"]["bytes_read"])),
            "bytes_per_second": rate,
            "seconds": float(np.median(shortest)),
            "fraction": float(np.median(shortest[None] / np.maximum(scans, 1e-9))),
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
        shortest = operations / rate if seconds.shape[1] == len(operations) else np.array([operations.mean() / rate])
        found[label] = {
            "limit": f"operations at the rate of large convolutions in {main['backend']} {main['precision']}",
            "stage": "network",
            "operations": float(np.median(shortest) * rate),
            "operations_per_second": rate,
            "seconds": float(np.median(shortest)),
            "fraction": float(np.median(shortest[None] / seconds)),
            "fraction_of_whole": float(np.median(shortest[None] / (times_of(record, label) / case["units"]))),
        }
    return found


def _ratios(record: Record) -> dict[str, Any]:
    """Return how long the peers and the other configuration take, in times of the main case."""
    cases = record.content["configuration"]["cases"]
    main = label_of(record, MAIN)
    blocks = {window["block"] for window in record.windows}
    if main is None or len(blocks) < MIN_BLOCKS:
        return {}
    found = {}
    for label, case in cases.items():
        if case["role"] in (PEER, AGAINST):
            sides = pair(measured(record, main), measured(record, label))
            found[label] = compare_interleaved(*sides, MIN_INTERLEAVED).metadata()
    return found


def pair(a: Measured, b: Measured) -> tuple[Measured, Measured]:
    """Return two sides with the same items; where they have others, the means of their windows are all they share."""
    if a.seconds.shape[1] == b.seconds.shape[1]:
        return a, b
    first, second = (replace(side, seconds=side.seconds.mean(axis=1, keepdims=True)) for side in (a, b))
    return first, second


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was compared, and the verdict.

    Attributes:
        a, b: file and case of each side.
        comparison: of B with A.
        differences: of the two configurations, one line each; empty for identical ones.
        drifts: of A and B, by which share the end of a run took longer than its begin.
    """

    a: str
    b: str
    comparison: Comparison
    differences: list[str]
    drifts: tuple[float | None, float | None]

    def metadata(self) -> dict[str, Any]:
        """Return the comparison as JSON prints it."""
        rest = {"differences": self.differences, "drifts": self.drifts}
        return {"a": self.a, "b": self.b, **self.comparison.metadata(), **rest}


def compare_files(
    first: Record,
    second: Record | None,
    case: str | None = None,
    other: str | None = None,
    min_difference: float | None = None,
) -> Compared:
    """Compare two records, or the main case of one with the case that took turns with it.

    Args:
        first, second: A and B; without B the cases are both of A.
        case: label in A; the main case if None.
        other: label in B; the same as ``case`` of another record, else the first ``--against``.
        min_difference: a smaller difference is not one; the default depends on the design.

    Raises:
        ConfigError: what cannot be compared: another question, machine, photos or queries; fewer than three blocks.
    """
    for record in (first, second):
        if record is not None and not record.windows:
            raise ConfigError(f"{record.path} has no windows: run its command again")
    a = _label(first, case, MAIN)
    if second is None:
        b = _label(first, other, AGAINST)
        if a == b:
            raise ConfigError(f"{a!r} is compared with itself: name two cases with --case and --with")
        sides = pair(measured(first, a), measured(first, b))
        found = compare_interleaved(*sides, MIN_INTERLEAVED if min_difference is None else min_difference)
        return _compared(first, a, first, b, found)
    b = _label(second, other or (None if a == label_of(first, MAIN) and a not in _cases(second) else case), MAIN)
    _check_comparable(first, a, second, b)
    sides = pair(measured(first, a), measured(second, b))
    if _meter(first) != _meter(second):
        sides = replace(sides[0], meter=None), replace(sides[1], meter=None)
    found = compare_runs(*sides, MIN_TWO_RUNS if min_difference is None else min_difference)
    return _compared(first, a, second, b, found)


def _compared(first: Record, a: str, second: Record, b: str, comparison: Comparison) -> Compared:
    facts = [
        {
            "case": _cases(record)[label],
            "software": record.content["configuration"]["software"],
            "process": record.content.get("about", {}).get(label, {}).get("software"),
        }
        for record, label in ((first, a), (second, b))
    ]
    return Compared(
        a=f"{first.path} ({a})",
        b=f"{second.path} ({b})",
        comparison=comparison,
        differences=differences(facts[0], facts[1]),
        drifts=(drift_of(times_of(first, a)), drift_of(times_of(second, b))),
    )


def _check_comparable(first: Record, a: str, second: Record, b: str) -> None:
    """Raise ``ConfigError`` for records whose times are not of the same work on the same machine."""
    if first.kind != second.kind:
        raise ConfigError(f"{first.path} measured {first.kind}, {second.path} {second.kind}: they have no common unit")
    one, two = (record.content["configuration"] for record in (first, second))
    if one["machine"] != two["machine"]:
        found = differences(one["machine"], two["machine"])
        raise ConfigError(f"the two files are of different machines ({'; '.join(found[:2])}): measure on one machine")
    units = [_cases(record)[label]["units"] for record, label in ((first, a), (second, b))]
    asked = [_asked(record, label) for record, label in ((first, a), (second, b))]
    if one["settings"] != two["settings"] or asked[0] != asked[1] or units[0] != units[1]:
        settings = [{**c["settings"], **w, "units": u} for c, w, u in zip((one, two), asked, units, strict=True)]
        found = differences(settings[0], settings[1])
        raise ConfigError(f"the two did not measure the same photos or queries ({'; '.join(found[:2])})")


def _meter(record: Record) -> dict[str, Any]:
    """Return what decides the meter's own speed: only where that is the same does it tell how fast the machine was.

    Seconds in units of another engine's convolutions would say that bf16 is no faster than fp32.
    """
    label, software = label_of(record, METER), record.content["configuration"]["software"]
    versions = {name: number for name, number in software.get("versions", {}).items() if name != "ctxdeploy"}
    case = None if label is None else _cases(record)[label]
    return {"case": case, "versions": versions, **{name: software.get(name) for name in ("python", "environment")}}


def _asked(record: Record, label: str) -> dict[str, Any]:
    """Return what of a case decides the work itself: of a search the archive and the queries."""
    case = _cases(record)[label]
    return {name: case.get(name) for name in ("photos", "postings", "codebook", "queries", "descriptors", "seed", "at")}


def _cases(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = record.content["configuration"]["cases"]
    return found


def _label(record: Record, given: str | None, role: str) -> str:
    cases = _cases(record)
    label = given if given is not None else label_of(record, role)
    if label is None:
        raise ConfigError(f"{record.path} has one configuration: give a second file, or measure with --against")
    if label not in cases:
        raise ConfigError(f"{record.path} has no case {label!r}, only {', '.join(repr(name) for name in cases)}")
    return label
