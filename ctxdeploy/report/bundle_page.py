"""One page about a bundle: its artefacts, how well and how fast they do, and what made them. It needs no other file."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctxdeploy.core.bundle import Artefact, Bundle
from ctxdeploy.core.files import write_text
from ctxdeploy.report.bundle_plots import label, legend, rank_plot, scale_plot, swatch
from ctxdeploy.report.figures import page, text

_WORST = 3  # photos listed of each artefact
_MOST_SHOWN = 12  # entries of a list or a table inside the details that are shown unfolded
# Column, figure, sign (1: at least the tolerance, -1: at most), name in the tolerance.
_FIGURES: tuple[tuple[str, str, int, str | None], ...] = (
    ("least cosine", "cosine_min", 1, "cosine"),
    ("cosine, 1st percentile", "cosine_p1", 1, None),
    ("mean cosine", "cosine_mean", 1, "cosine_mean"),
    ("least overlap of positions", "overlap_min", 1, "overlap"),
    ("mean overlap", "overlap_mean", 1, None),
    ("length error", "length_error_max", -1, "length_error"),
    ("attention error", "attention_error_max", -1, "attention_error"),
)
_PHOTO = ("overlap", "cosine_min", "cosine_p1", "cosine_mean", "length_error", "attention_error")
_BAD = ' class="bad"'
_EMPTY = '<td class="soft">–</td>'


def write_report(path: Path, bundle: Bundle, rejected: Sequence[Artefact] = ()) -> None:
    """Write the page of a bundle.

    Args:
        path: the file.
        bundle: with the artefacts that passed, or could not be measured.
        rejected: artefacts that did not pass and are no part of the bundle.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    artefacts = (*bundle.artefacts, *rejected)
    body = "".join(
        (
            _lead(bundle),
            _artefacts(bundle.artefacts, rejected),
            _plots(artefacts),
            _worst_photos(artefacts),
            _details(artefacts),
            _network(bundle),
            _tools(bundle, artefacts),
        )
    )
    content = page(f"Export report: {_name(bundle)}", body)
    write_text(path, content, advice="choose another --report")


def _name(bundle: Bundle) -> str:
    return os.fsencode(bundle.path.name).decode("utf-8", "replace")


def _lead(bundle: Bundle) -> str:
    network, extraction = bundle.network, bundle.extraction
    what = ", ".join(f"{key} {network[key]}" for key in ("family", "architecture") if key in network)
    scales = ", ".join(f"{scale:g}" for scale in extraction.scales)
    return (
        f"<p>{text(what)}; {extraction.top_k} descriptors of {extraction.dim} dimensions from {len(extraction.scales)} "
        f"scales ({scales}), photos of up to {bundle.preprocessing.image_size} pixels.</p>\n"
    )


def _artefacts(passed: Sequence[Artefact], rejected: Sequence[Artefact]) -> str:
    columns = ("artefact", "size in MB", "seconds a photo", "times the reference", *(name for name, *_ in _FIGURES))
    header = "".join(f"<th>{text(name)}</th>" for name in (*columns, "answers in common"))
    rows = "".join(_row(artefact, artefact in rejected) for artefact in (*passed, *rejected))
    return (
        "<h2>Artefacts</h2>\n"
        f'<div class="scroll"><table class="artefacts"><tr>{header}<th class="text">verdict</th></tr>\n'
        f"{_reference([*passed, *rejected])}{rows}</table></div>\n"
        "<p>Against PyTorch, on the same photos; the tolerance stands under each figure. Cosines are of descriptors at "
        "positions that both sides select.</p>\n"
    )


def _reference(artefacts: Sequence[Artefact]) -> str:
    """Return the row of what the others are measured against."""
    for artefact in artefacts:
        seconds = artefact.parity.get("reference_seconds")
        if seconds is not None:
            empty = _EMPTY * (len(_FIGURES) + 1)
            name = text(artefact.parity["reference"])
            return f"<tr><td>{name}</td>{_EMPTY}<td>{seconds:.3f}</td><td>1.0</td>{empty}<td></td></tr>\n"
    return ""


def _row(artefact: Artefact, rejected: bool) -> str:
    parity = artefact.parity
    seconds, reference = parity.get("seconds"), parity.get("reference_seconds")
    speed = f"{reference / seconds:.1f}" if seconds and reference else "–"
    cells = [
        f"<td>{swatch(artefact)} {text(label(artefact))}<br><small>{text(artefact.file)}</small></td>",
        f"<td>{artefact.bytes / 1e6:.1f}</td>",
        f"<td>{'–' if seconds is None else f'{seconds:.3f}'}</td>",
        f"<td>{speed}</td>",
        *(_figure(parity, key, sign, limit) for _, key, sign, limit in _FIGURES),
        _ranking(parity),
        _verdict(artefact, rejected),
    ]
    return f"<tr>{''.join(cells)}</tr>\n"


def _figure(parity: Mapping[str, Any], key: str, sign: int, limit_name: str | None) -> str:
    if not parity:
        return _EMPTY
    limit = parity["tolerance"].get(limit_name) if limit_name else None
    return _cell(parity.get(key), sign, limit)


def _cell(value: float | None, sign: int, limit: float | None) -> str:
    """Return a figure and, under it, its tolerance; what misses it, or is no number, is marked."""
    under = "" if limit is None else f"<br><small>{'≥' if sign > 0 else '≤'} {limit:g}</small>"
    shown = "not a number" if value is None else _number(value)
    missed = value is None or (limit is not None and sign * value < sign * limit)
    return f"<td{_BAD if missed else ''}>{shown}{under}</td>"


def _number(value: float) -> str:
    """Return a figure with the digits that tell artefacts apart; small ones as powers of ten."""
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 0.001 else f"{value:.5f}"


def _ranking(parity: Mapping[str, Any]) -> str:
    ranking = parity.get("ranking")
    if ranking is None:
        return _EMPTY
    tolerance = parity["tolerance"]
    if ranking.get("map") is None:
        return _cell(ranking["overlap"], 1, tolerance.get("top_ten"))
    limit = tolerance.get("map_drop")
    missed = limit is not None and ranking["reference_map"] - ranking["map"] > limit
    under = f"<br><small>reference {ranking['reference_map']:.4f}</small>"
    return f"<td{_BAD if missed else ''}>mAP {ranking['map']:.4f}{under}</td>"


def _verdict(artefact: Artefact, rejected: bool) -> str:
    if not artefact.parity:
        reason = artefact.details.get("not_measured") or f"{artefact.target} did not run where this was exported"
        return f'<td class="wrap soft">not measured: {text(reason)}</td>'
    verdict = artefact.parity["verdict"]
    mark = "good" if verdict == "passed" else "bad"
    return f'<td class="wrap {mark}">{text(verdict)}{"; rejected" * rejected}</td>'


def _plots(artefacts: Sequence[Artefact]) -> str:
    key = f"<figcaption>{legend(artefacts)}</figcaption>"
    found = ""
    for title, plot in (
        ("Cosine against rank", rank_plot(artefacts)),
        ("Error per scale", scale_plot(artefacts)),
    ):
        found += f"<h2>{title}</h2>\n<figure>{plot}{key}</figure>\n" if plot else ""
    return found


def _worst_photos(artefacts: Sequence[Artefact]) -> str:
    rows = ""
    for artefact in artefacts:
        photos = sorted(artefact.parity.get("photos", ()), key=lambda photo: _order(photo["cosine_min"]))
        for photo in photos[:_WORST]:
            height, width = photo["shape"]
            figures = "".join(_cell(photo[name], 1, None) for name in _PHOTO)
            rows += (
                f'<tr><td>{text(label(artefact))}</td><td class="wrap">{text(photo["photo"])}</td>'
                f"<td>{width}×{height}</td><td>{photo['descriptors']}</td>{figures}</tr>\n"
            )
    names = ("photo", "size", "descriptors", *(name.replace("_", " ") for name in _PHOTO))
    header = "".join(f"<th>{name}</th>" for name in names).replace("<th>", '<th class="text">', 1)
    table = f'<div class="scroll"><table><tr><th>artefact</th>{header}</tr>\n{rows}</table></div>\n'
    return f"<h2>Worst photos of each</h2>\n{table}" if rows else ""


def _order(value: float | None) -> float:
    return -2.0 if value is None else value


def _details(artefacts: Sequence[Artefact]) -> str:
    rows = "".join(
        f'<tr><td>{text(label(artefact))}</td><td class="text">{text(key.replace("_", " "))}</td>'
        f'<td class="wrap">{_value(value)}</td></tr>\n'
        for artefact in artefacts
        for key, value in artefact.details.items()
    )
    return f'<h2>What made them</h2>\n<div class="scroll"><table>{rows}</table></div>\n' if rows else ""


def _value(value: Any) -> str:
    """Return a value of the details: lists and tables in one line, long ones folded."""
    if isinstance(value, Mapping):
        parts = [f"{text(str(key).replace('_', ' '))} {_value(part)}" for key, part in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        parts = [_value(part) for part in value]
    elif value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    else:
        return f"{value:.6g}" if isinstance(value, float) else text(value)
    joint = "; " if any(isinstance(part, Mapping) for part in (value if isinstance(value, Sequence) else ())) else ", "
    if len(parts) > _MOST_SHOWN:
        return f"<details><summary>{len(parts)} entries</summary>{joint.join(parts)}</details>"
    return joint.join(parts) or "none"


def _network(bundle: Bundle) -> str:
    facts = {
        **bundle.network,
        "checkpoint": f"{bundle.source.get('file', 'unknown')} ({bundle.source.get('format', 'unknown')})",
        "sha256 of the checkpoint": bundle.source.get("sha256", "unknown"),
        "model id": bundle.model_id,
        "preprocessing": {**bundle.preprocessing.metadata(), "hash": bundle.preprocessing.hash},
        "input": {name: f"{low} to {high}" for name, (low, high) in asdict(bundle.shapes).items()},
    }
    return f"<h2>The network</h2>\n{_facts(facts)}"


def _tools(bundle: Bundle, artefacts: Sequence[Artefact]) -> str:
    measured = dict.fromkeys(a.parity["measured_with"] for a in artefacts if a.parity.get("measured_with"))
    facts = {**bundle.tools, "measured with": list(measured) or "nothing was measured"}
    return f"<h2>Tools and machine</h2>\n{_facts(facts)}"


def _facts(facts: Mapping[str, Any]) -> str:
    def rows() -> Iterator[str]:
        for key, value in facts.items():
            yield f'<tr><td>{text(key.replace("_", " "))}</td><td class="wrap">{_value(value)}</td></tr>\n'

    return f'<div class="scroll"><table>{"".join(rows())}</table></div>\n'
