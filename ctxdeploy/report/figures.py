"""Plots as inline SVG: text and lines take the page's colours, so that they are legible in the dark as well."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from ctxdeploy.core.bundle import Artefact
from ctxdeploy.core.extras import require
from ctxdeploy.core.text import printable

if TYPE_CHECKING:
    from ctxdeploy.export.diff import Diff, LayerError

# Colours that stand for the page's custom properties until the SVG is written.
INK, SOFT, LINE = "#010101", "#020202", "#030303"
_PROPERTIES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}
# Legible on white and on near-black.
SERIES = ("#3b7dd8", "#d9822b", "#2e9e6b", "#b05fd0", "#d64545", "#1a9aa8", "#8a8f2a", "#7a6a5a")
# Nines of a cosine that the axes end at: fp32 lies beyond, at the rounding of its own figures.
_MAX_NINES = 6
# Least error on the axis of a diff: below the rounding of fp32.
_FLOOR = 1e-8
_MAX_TICKS = 40


@dataclass(frozen=True, kw_only=True)
class Style:
    """How the plots draw an artefact.

    Attributes:
        colour: by precision.
        line, marker: matplotlib's, by runtime.
        dashes: the line in SVG; empty for a whole one.
        marker_path: the marker in SVG, around (17, 6).
    """

    colour: str
    line: str
    marker: str
    dashes: str
    marker_path: str


_COLOURS = {"fp32": SERIES[0], "fp16": SERIES[2], "bf16": SERIES[1], "int8": SERIES[3], "fp8": SERIES[4]}
_CIRCLE = "M13.5 6a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z"
_LINES = {
    "onnxruntime": ("-", "o", "", _CIRCLE),
    "openvino": ("--", "s", "6 3", "M14 3h6v6h-6z"),
    "tensorrt": (":", "^", "2 2", "M17 2 21 9H13z"),
    "tensorrt-rtx": ("-.", "D", "6 2 2 2", "M17 1.5 21.5 6 17 10.5 12.5 6z"),
}


def style_of(artefact: Artefact) -> Style:
    """Return how the plots draw an artefact."""
    line, marker, dashes, path = _LINES.get(artefact.target, _LINES["onnxruntime"])
    colour = _COLOURS.get(artefact.precision, SERIES[4])
    return Style(colour=colour, line=line, marker=marker, dashes=dashes, marker_path=path)


def rank_plot(artefacts: Sequence[Artefact]) -> Markup | None:
    """Return mean and 1st percentile of the cosine over the rank by attention; None where none was measured."""
    shown = [artefact for artefact in artefacts if artefact.parity.get("by_rank")]
    if not shown:
        return None
    drawn, axes = _figure(11, 4, columns=2)
    lowest = float(_MAX_NINES)
    for ax, (key, title) in zip(axes[0], (("cosine_mean", "mean"), ("cosine_p1", "1st percentile")), strict=True):
        for artefact in shown:
            parts = [part for part in artefact.parity["by_rank"] if part[key] is not None]
            ranks = [1 + (part["first"] + part["last"]) / 2 for part in parts]
            nines = [-math.log10(_error(part[key])) for part in parts]
            lowest = min([lowest, *nines])
            style = style_of(artefact)
            look = {"linestyle": style.line, "marker": style.marker, "color": style.colour}
            ax.plot(ranks, nines, markersize=3.5, linewidth=1.3, **look)
        ax.set_title(f"{title} of the cosine")
        ax.set_xlabel("rank by attention, 1 is the strongest")
    _label_nines(axes[0, 0], lowest)
    return _svg(drawn, "cosine against rank by attention")


def scale_plot(artefacts: Sequence[Artefact]) -> Markup | None:
    """Return 1 − cosine of each scale: a marker at the mean, a line to the worst; None where none was measured."""
    shown = [artefact for artefact in artefacts if artefact.parity.get("by_scale")]
    if not shown:
        return None
    scales = sorted({part["scale"] for artefact in shown for part in artefact.parity["by_scale"]}, reverse=True)
    drawn, axes = _figure(11, 4.2)
    ax = axes[0, 0]
    for number, artefact in enumerate(shown):
        parts = {part["scale"]: part for part in artefact.parity["by_scale"] if part["cosine_mean"] is not None}
        # Side by side in the order of the table, in four fifths of a scale's width.
        shift = 0.8 * ((number + 0.5) / len(shown) - 0.5)
        places = [scales.index(scale) + shift for scale in parts]
        style = style_of(artefact)
        means = [_error(part["cosine_mean"]) for part in parts.values()]
        worst = [_error(part["cosine_min"]) for part in parts.values()]
        ax.vlines(places, means, worst, color=style.colour, linewidth=1.1)
        ax.plot(places, means, linestyle="none", marker=style.marker, markersize=5, color=style.colour)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.6 * 10.0**-_MAX_NINES)
    ax.set_xticks(range(len(scales)), [f"{scale:g}" for scale in scales])
    for edge in range(1, len(scales)):
        ax.axvline(edge - 0.5, color=INK, linewidth=0.4, alpha=0.35)
    ax.grid(False, axis="x")
    ax.set_xlabel("scale of the image")
    ax.set_ylabel(f"1 − cosine (from $10^{{-{_MAX_NINES}}}$): mean (marker) to worst")
    return _svg(drawn, "error per scale")


def error_plot(diff: "Diff", rows: "Sequence[tuple[str, dict[int | None, LayerError]]]") -> Markup:
    """Return a line for each scale over the layers; errors that are infinite lie on the upper edge.

    Args:
        diff: with tolerance and scales.
        rows: layers in the order of the graph, with the worst value of each scale (None: of no single scale).
    """
    finite = [layer.error for _, row in rows for layer in row.values() if math.isfinite(layer.error)]
    top = 10 ** math.ceil(math.log10(max([*finite, diff.tolerance, _FLOOR]) * 2))
    drawn, axes = _figure(11, 5.2)
    ax = axes[0, 0]
    for scale, name in ((None, "–"), *enumerate(diff.scales)):
        places = [place for place, (_, row) in enumerate(rows) if scale in row]
        if not places:
            continue
        errors = [min(max(rows[place][1][scale].error, _FLOOR), top) for place in places]
        colour = INK if scale is None else SERIES[scale % len(SERIES)]
        line = "none" if scale is None else "-"
        ax.plot(places, errors, color=colour, label=name, linewidth=1.2, linestyle=line, marker="o", markersize=3.5)
    ax.axhline(diff.tolerance, color=INK, linewidth=1, linestyle="--")
    ax.set_yscale("log")
    ax.set_ylim(_FLOOR / 2, top * 1.5)
    ax.set_ylabel("relative L2 error (dashed: tolerance)")
    step = max(1, math.ceil(len(rows) / _MAX_TICKS))
    names = [printable(name).replace("$", r"\$") for name, _ in rows]
    ax.set_xticks(range(0, len(rows), step), names[::step], rotation=60, ha="right", fontsize=8)
    legend = ax.legend(title="scale", fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for label in (*legend.get_texts(), legend.get_title()):
        label.set_color(INK)
    return _svg(drawn, "error along the graph")


def _error(cosine: float | None) -> float:
    """Return 1 − cosine for a logarithmic axis, from what fp32's rounding leaves to 1."""
    return min(1.0, max(10.0**-_MAX_NINES, 1 - (0.0 if cosine is None else cosine)))


def _label_nines(ax: Any, lowest: float) -> None:
    """Label nines as the cosines that they are, from the whole number below the lowest."""
    low = math.floor(min(lowest, _MAX_NINES - 1))
    names = {0: "≤ 0", _MAX_NINES: f"≥ 0.{'9' * _MAX_NINES}"}
    ticks = range(low, _MAX_NINES + 1)
    ax.set_yticks(ticks, [names.get(n, f"0.{'9' * n}") for n in ticks])
    ax.set_ylim(low - 0.15, _MAX_NINES + 0.25)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure of so many inches, in the page's colours, and its axes 1×columns with common scales."""
    figures = require("matplotlib.figure", "export")
    drawn = figures.Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(ncols=columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat:
        ax.patch.set_alpha(0)
        ax.tick_params(colors=SOFT, labelsize=9, which="both", length=3)
        ax.grid(True, color=LINE, linewidth=0.7)
        ax.set_axisbelow(True)
        for side, spine in ax.spines.items():
            spine.set_color(LINE)
            spine.set_visible(side in ("left", "bottom"))
        for label in (ax.xaxis.label, ax.yaxis.label, ax.title):
            label.set_color(SOFT)
            label.set_fontsize(10)
    drawn.patch.set_alpha(0)
    return drawn, axes


def _svg(drawn: Any, label: str) -> Markup:
    """Return a figure as an SVG element: the same bytes for the same figure, text as text, no id that is not used."""
    matplotlib = require("matplotlib", "export")
    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    found = buffer.getvalue()
    found = found[found.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', found))
    found = re.sub(r' id="([^"]+)"', lambda name: name[0] if name[1] in used else "", found)
    for colour, custom in _PROPERTIES.items():
        found = found.replace(colour, custom)
    # matplotlib has escaped the texts.
    return Markup(found.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
