"""The report's plots: cosine against rank, and error per scale, of all artefacts side by side."""

import math
from collections.abc import Sequence
from typing import Any

from ctxdeploy.core.bundle import Artefact
from ctxdeploy.report.figures import INK, SERIES, figure, svg, text

# Nines of a cosine that the axes end at: fp32 lies beyond, at the rounding of its own figures.
_MOST_NINES = 6
_COLOURS = {"fp32": SERIES[0], "fp16": SERIES[2], "bf16": SERIES[1], "int8": SERIES[3]}
# Line, marker, and the marker as SVG, by runtime.
_STYLES = {
    "onnxruntime": ("-", "o", '<circle cx="17" cy="6" r="3.5"/>'),
    "openvino": ("--", "s", '<rect x="14" y="3" width="6" height="6"/>'),
    "tensorrt": (":", "^", '<path d="M17 2 21 9H13z"/>'),
    "tensorrt-rtx": ("-.", "D", '<path d="M17 1.5 21.5 6 17 10.5 12.5 6z"/>'),
}
_DASHES = {"-": "", "--": "6 3", ":": "2 2", "-.": "6 2 2 2"}


def label(artefact: Artefact) -> str:
    """Return what the page calls an artefact."""
    return f"{artefact.target} {artefact.precision}"


def swatch(artefact: Artefact) -> str:
    """Return the line and the marker that stand for an artefact in the plots."""
    line, _, marker = _style(artefact)
    colour = _colour(artefact)
    return (
        f'<svg class="swatch" width="34" height="12" aria-hidden="true" fill="{colour}"><path d="M0 6H34" '
        f'stroke="{colour}" stroke-width="2" stroke-dasharray="{_DASHES[line]}"/>{marker}</svg>'
    )


def rank_plot(artefacts: Sequence[Artefact]) -> str:
    """Return mean and 1st percentile of the cosine over the rank by attention, or nothing where none was measured."""
    drawn, axes = figure(11, 4, columns=2)
    lowest = float(_MOST_NINES)
    shown = [artefact for artefact in artefacts if artefact.parity.get("by_rank")]
    for ax, (key, title) in zip(axes[0], (("cosine_mean", "mean"), ("cosine_p1", "1st percentile")), strict=True):
        for artefact in shown:
            parts = [part for part in artefact.parity["by_rank"] if part[key] is not None]
            ranks = [1 + (part["first"] + part["last"]) / 2 for part in parts]
            line, marker, _ = _style(artefact)
            style = {"linestyle": line, "marker": marker, "color": _colour(artefact)}
            nines = [-math.log10(_error(part[key])) for part in parts]
            lowest = min([lowest, *nines])
            ax.plot(ranks, nines, markersize=3.5, linewidth=1.3, **style)
        ax.set_title(f"{title} of the cosine")
        ax.set_xlabel("rank by attention, 1 is the strongest")
    _nines_axis(axes[0, 0], lowest)
    return svg(drawn, "cosine against rank by attention") if shown else ""


def scale_plot(artefacts: Sequence[Artefact]) -> str:
    """Return 1 − cosine of each scale: a marker at the mean, a line to the worst; nothing where none was measured."""
    shown = [artefact for artefact in artefacts if artefact.parity.get("by_scale")]
    scales = sorted({part["scale"] for artefact in shown for part in artefact.parity["by_scale"]}, reverse=True)
    drawn, axes = figure(11, 4.2)
    ax = axes[0, 0]
    for number, artefact in enumerate(shown):
        parts = {part["scale"]: part for part in artefact.parity["by_scale"] if part["cosine_mean"] is not None}
        # Side by side in the order of the table, in four fifths of a scale's width.
        shift = 0.8 * ((number + 0.5) / len(shown) - 0.5)
        places = [scales.index(scale) + shift for scale in parts]
        colour, marker = _colour(artefact), _style(artefact)[1]
        means = [_error(part["cosine_mean"]) for part in parts.values()]
        ax.vlines(places, means, [_error(part["cosine_min"]) for part in parts.values()], color=colour, linewidth=1.1)
        ax.plot(places, means, linestyle="none", marker=marker, markersize=5, color=colour)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.6 * 10.0**-_MOST_NINES)
    ax.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
    for edge in range(1, len(scales)):
        ax.axvline(edge - 0.5, color=INK, linewidth=0.4, alpha=0.35)
    ax.grid(False, axis="x")
    ax.set_xlabel("scale of the image")
    ax.set_ylabel(f"1 − cosine (from $10^{{-{_MOST_NINES}}}$): mean (marker) to worst")
    return svg(drawn, "error per scale") if shown else ""


def legend(artefacts: Sequence[Artefact]) -> str:
    """Return the artefacts' marks and names, those alone that were measured."""
    shown = [artefact for artefact in artefacts if artefact.parity.get("by_scale") or artefact.parity.get("by_rank")]
    return "".join(f'<span class="key">{swatch(artefact)} {text(label(artefact))}</span> ' for artefact in shown)


def _colour(artefact: Artefact) -> str:
    return _COLOURS.get(artefact.precision, SERIES[4])


def _style(artefact: Artefact) -> tuple[str, str, str]:
    return _STYLES.get(artefact.target, _STYLES["onnxruntime"])


def _error(cosine: float | None) -> float:
    """Return 1 − cosine for a logarithmic axis, from what fp32's rounding leaves to 1."""
    return min(1.0, max(10.0**-_MOST_NINES, 1 - (0.0 if cosine is None else cosine)))


def _nines_axis(ax: Any, lowest: float) -> None:
    """Label nines as the cosines that they are, from the whole number below the lowest."""
    low = math.floor(min(lowest, _MOST_NINES - 1))
    names = {0: "≤ 0", _MOST_NINES: f"≥ 0.{'9' * _MOST_NINES}"}
    ticks = range(low, _MOST_NINES + 1)
    ax.set_yticks(ticks, [names.get(n, f"0.{'9' * n}") for n in ticks])
    ax.set_ylim(low - 0.15, _MOST_NINES + 0.25)
