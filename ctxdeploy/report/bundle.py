"""The export report: the artefacts of a bundle, how well and how fast they do, and what made them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ctxdeploy.core.bundle import Artefact, Bundle
from ctxdeploy.core.targets import ENGINE_TARGETS
from ctxdeploy.core.text import counted
from ctxdeploy.report.figures import Style, rank_plot, scale_plot, style_of
from ctxdeploy.report.pages import Cell, Row, words, write_page

_WORST = 3  # photos listed of each artefact
# Column, figure, sign (1: at least the tolerance, -1: at most), name in the tolerance.
_FIGURES: tuple[tuple[str, str, int, str | None], ...] = (
    ("smallest cosine", "cosine_min", 1, "cosine"),
    ("cosine, 1st percentile", "cosine_p1", 1, None),
    ("mean cosine", "cosine_mean", 1, "cosine_mean"),
    ("smallest overlap of positions", "overlap_min", 1, "overlap"),
    ("mean overlap", "overlap_mean", 1, None),
    ("length error", "length_error_max", -1, "length_error"),
    ("attention error", "attention_error_max", -1, "attention_error"),
)
# The same of global descriptors, where a bundle gives any.
_GLOBAL: tuple[tuple[str, str, int, str | None], ...] = (
    ("global: smallest cosine", "cosine_min", 1, "cosine"),
    ("global: mean cosine", "cosine_mean", 1, "cosine_mean"),
    ("global: length error", "length_error_max", -1, "length_error"),
)
_PHOTO = ("overlap", "cosine_min", "cosine_p1", "cosine_mean", "length_error", "attention_error")
_EMPTY = Cell(text="–", kind="soft")

Facts = Sequence[tuple[str, Any]]


@dataclass(frozen=True, kw_only=True)
class BundlePage:
    """The export report.

    Attributes:
        title: name of the bundle.
        lead: what the network is.
        verdict, good: how the comparison with PyTorch went, in a line, and whether it went well.
        columns, rows: the table of artefacts; the reference comes first.
        plots: their titles and SVG.
        legend: names and styles of the artefacts in the plots.
        photo_columns, photos: the table of each artefact's worst photos.
        details: of each artefact, what made it.
        network, tools: names and values.
    """

    title: str
    lead: str
    verdict: str
    good: bool
    columns: Sequence[Cell | str]
    rows: Sequence[Row]
    plots: Sequence[tuple[str, Markup]]
    legend: Sequence[tuple[str, Style]]
    photo_columns: Sequence[Cell | str]
    photos: Sequence[Row]
    details: Sequence[tuple[str, Facts]]
    network: Facts
    tools: Facts


def write_bundle_report(path: Path, bundle: Bundle, rejected: Sequence[Artefact] = ()) -> None:
    """Write the export report of a bundle.

    Args:
        path: the file.
        bundle: with the artefacts that passed, or could not be measured.
        rejected: artefacts that did not pass and are not part of the bundle.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    artefacts = (*bundle.artefacts, *rejected)
    good, verdict = _verdict_of_all(artefacts)
    plots = (("Cosine against rank", rank_plot(artefacts)), ("Error per scale", scale_plot(artefacts)))
    gives = bundle.extraction.gives
    local = ([name for name, *_ in _FIGURES] + ["answers in common"]) if "local" in gives else []
    whole = ([name for name, *_ in _GLOBAL] + ["global: answers in common"]) if "global" in gives else []
    page = BundlePage(
        title=bundle.path.name,
        lead=_lead(bundle),
        verdict=verdict,
        good=good,
        columns=("artefact", "size in MB", *local, *whole, Cell(text="verdict", kind="text")),
        rows=[_row(artefact, artefact in rejected, gives) for artefact in artefacts],
        plots=[(title, plot) for title, plot in plots if plot is not None],
        legend=[
            (_label(artefact), style_of(artefact))
            for artefact in artefacts
            if artefact.parity.get("by_scale") or artefact.parity.get("by_rank")
        ],
        photo_columns=("artefact", Cell(text="photo", kind="text"), "size", "descriptors", *map(words, _PHOTO)),
        photos=list(_worst_photos(artefacts)),
        details=[(_label(artefact), _facts(artefact.details)) for artefact in artefacts if artefact.details],
        network=_network(bundle),
        tools=_tools(bundle, artefacts),
    )
    write_page(path, "bundle.html", page, option="--report")


def _lead(bundle: Bundle) -> str:
    network, extraction = bundle.network, bundle.extraction
    what = ", ".join(f"{key} {network[key]}" for key in ("family", "architecture") if key in network)
    parts = []
    if "local" in extraction.gives:
        parts.append(
            f"{extraction.top_k:,} descriptors of {extraction.dim} dimensions from {_scales(extraction.scales)}"
        )
    if "global" in extraction.gives:
        parts.append(
            f"a global descriptor of {extraction.global_dim} dimensions from {_scales(extraction.global_scales)}"
        )
    return f"{what}; {' and '.join(parts)}, photos of up to {bundle.preprocessing.image_size:,} pixels."


def _scales(scales: Sequence[float]) -> str:
    return f"{counted(len(scales), 'scale')} ({', '.join(f'{scale:g}' for scale in scales)})"


def _verdict_of_all(artefacts: Sequence[Artefact]) -> tuple[bool, str]:
    """Return whether no artefact failed, and how many passed, failed and were not measured."""
    measured = [artefact for artefact in artefacts if artefact.parity]
    passed = sum(artefact.parity["verdict"] == "passed" for artefact in measured)
    failed, unmeasured = len(measured) - passed, len(artefacts) - len(measured)
    parts = [f"{count} {what}" for count, what in ((failed, "failed"), (unmeasured, "not measured")) if count]
    return not failed, ", ".join(
        [f"{passed} of {counted(len(artefacts), 'artefact')} passed the comparison with PyTorch", *parts]
    )


def _label(artefact: Artefact) -> str:
    return f"{artefact.target} {artefact.precision}"


def _row(artefact: Artefact, rejected: bool, gives: Sequence[str]) -> Row:
    parity = artefact.parity
    sides = [(parity, _FIGURES)] if "local" in gives else []
    if "global" in gives:
        sides.append((parity.get("global", {}), _GLOBAL))
    cells: list[Cell | str] = [
        f"{artefact.bytes / 1e6:.1f}",
        *(
            cell
            for side, figures in sides
            for cell in (*(_figure(side, key, sign, limit) for _, key, sign, limit in figures), _ranking(side))
        ),
        _verdict(artefact, rejected),
    ]
    return Row(head=_label(artefact), note=artefact.file, style=style_of(artefact), cells=cells)


def _figure(parity: Mapping[str, Any], key: str, sign: int, limit_name: str | None) -> Cell:
    if not parity:
        return _EMPTY
    return _cell(parity.get(key), sign, parity["tolerance"].get(limit_name) if limit_name else None)


def _cell(value: float | None, sign: int = 1, limit: float | None = None) -> Cell:
    """Return a figure and, under it, its tolerance; what misses it, or is not a number, is marked."""
    # The least cosine of int8 has no limit: percentile, mean and answers decide.
    note = "" if limit is None else "any" if sign > 0 and limit <= 0 else f"{'≥' if sign > 0 else '≤'} {limit:g}"
    missed = value is None or (limit is not None and sign * value < sign * limit)
    return Cell(text="not a number" if value is None else _number(value), note=note, kind="bad" if missed else "")


def _number(value: float) -> str:
    """Return a figure with the digits that tell artefacts apart; small ones as powers of ten."""
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 0.001 else f"{value:.5f}"


def _ranking(parity: Mapping[str, Any]) -> Cell:
    ranking = parity.get("ranking")
    if ranking is None:
        return _EMPTY
    tolerance = parity["tolerance"]
    if ranking.get("map") is None:
        return _cell(ranking["overlap"], 1, tolerance.get("top_ten"))
    limit = tolerance.get("map_drop")
    missed = limit is not None and ranking["reference_map"] - ranking["map"] > limit
    note = f"reference {ranking['reference_map']:.4f}"
    return Cell(text=f"mAP {ranking['map']:.4f}", note=note, kind="bad" if missed else "")


def _verdict(artefact: Artefact, rejected: bool) -> Cell:
    if not artefact.parity:
        reason = artefact.details.get("not_measured") or f"{artefact.target} did not run where this was exported"
        return Cell(text=f"not measured: {reason}", kind="text soft")
    verdict = artefact.parity["verdict"]
    kind = "text good" if verdict == "passed" else "text bad"
    if artefact.target in ENGINE_TARGETS and artefact.format == "onnx":
        verdict += f" in {artefact.parity['measured_with']}; no engine of {artefact.target} was run"
    return Cell(text=verdict + "; rejected" * rejected, kind=kind)


def _worst_photos(artefacts: Sequence[Artefact]) -> Iterator[Row]:
    """Yield the photos whose smallest cosine is the lowest; one that is not a number comes first."""
    for artefact in artefacts:
        photos = artefact.parity.get("photos", ())
        ordered = sorted(photos, key=lambda photo: -2.0 if photo["cosine_min"] is None else photo["cosine_min"])
        for photo in ordered[:_WORST]:
            height, width = photo["shape"]
            name = Cell(text=photo["photo"], kind="text")
            figures = [_cell(photo[key]) for key in _PHOTO]
            yield Row(head=_label(artefact), cells=(name, f"{width}×{height}", f"{photo['descriptors']:,}", *figures))
        wholes = artefact.parity.get("global", {}).get("photos", ())
        for photo in sorted(wholes, key=lambda photo: -2.0 if photo["cosine"] is None else photo["cosine"])[:_WORST]:
            height, width = photo["shape"]
            name = Cell(text=photo["photo"], kind="text")
            shown = {"cosine_min": photo["cosine"], "length_error": photo["length_error"]}
            figures = [_cell(shown[key]) if key in shown else _EMPTY for key in _PHOTO]
            yield Row(head=f"{_label(artefact)}, global", cells=(name, f"{width}×{height}", "1", *figures))


def _network(bundle: Bundle) -> Facts:
    facts = {
        **bundle.network,
        "checkpoint": f"{bundle.source.get('file', 'unknown')} ({bundle.source.get('format', 'unknown')})",
        "sha256 of the checkpoint": bundle.source.get("sha256", "unknown"),
        "model id": bundle.model_id,
        "preprocessing": {**bundle.preprocessing.metadata(), "hash": bundle.preprocessing.hash},
        "input": {name: f"{low} to {high}" for name, (low, high) in asdict(bundle.shapes).items()},
    }
    return _facts(facts)


def _tools(bundle: Bundle, artefacts: Sequence[Artefact]) -> Facts:
    measured = dict.fromkeys(a.parity["measured_with"] for a in artefacts if a.parity.get("measured_with"))
    return _facts({**bundle.tools, "measured with": list(measured) or "nothing was measured"})


def _facts(facts: Mapping[str, Any]) -> Facts:
    return [(words(key), value) for key, value in facts.items()]
