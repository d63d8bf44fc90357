"""Two measurements, or two cases of one: which is faster, by how much, and what could have been found."""

from dataclasses import dataclass, replace
from typing import Any

from ctxdeploy.bench.cases import AGAINST, MAIN, METER
from ctxdeploy.bench.record import Record, differences
from ctxdeploy.bench.results import LEAST_INTERLEAVED, drift_of, label_of, measured, pair, times_of
from ctxdeploy.bench.statistics import Comparison, compare_interleaved, compare_runs
from ctxdeploy.core.errors import ConfigError

# Ratios of two runs nearer to 1 are no difference.
LEAST_TWO_RUNS = 0.02


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
    first: Record, second: Record | None, case: str | None = None, other: str | None = None, least: float | None = None
) -> Compared:
    """Compare two records, or the main case of one with the case that took turns with it.

    Args:
        first, second: A and B; without B the cases are both of A.
        case: label in A; the main case if None.
        other: label in B; the same as ``case`` of another record, else the first ``--against``.
        least: a smaller difference is none.

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
        found = compare_interleaved(*sides, LEAST_INTERLEAVED if least is None else least)
        return _compared(first, a, first, b, found)
    b = _label(second, other or (None if a == label_of(first, MAIN) and a not in _cases(second) else case), MAIN)
    _check_comparable(first, a, second, b)
    sides = pair(measured(first, a), measured(second, b))
    if _meter(first) != _meter(second):
        sides = replace(sides[0], meter=None), replace(sides[1], meter=None)
    found = compare_runs(*sides, LEAST_TWO_RUNS if least is None else least)
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
        raise ConfigError(
            f"{first.path} measured {first.kind} and {second.path} {second.kind}: they have no common unit"
        )
    one, two = (record.content["configuration"] for record in (first, second))
    if one["machine"] != two["machine"]:
        found = differences(one["machine"], two["machine"])
        raise ConfigError(f"the two were measured on different machines ({'; '.join(found[:2])}): nothing can be said")
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
