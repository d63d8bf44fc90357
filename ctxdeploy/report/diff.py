"""A comparison of two artefacts for people: a table along the graph for the terminal, and a page with a plot of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ctxdeploy.core.text import printable
from ctxdeploy.export.diff import SIZES, Diff, LayerError
from ctxdeploy.report.figures import error_plot
from ctxdeploy.report.pages import Cell, Row, write_page

# The worst value of a layer in each scale; None: of no single scale.
Layers = dict[str, dict[int | None, LayerError]]


@dataclass(frozen=True, kw_only=True)
class DiffPage:
    """Where two artefacts diverge.

    Attributes:
        title: of the page.
        facts: names and values: what was compared.
        verdict, good: where they diverge, and whether they agree.
        findings: lines more.
        plot: the error along the graph, as SVG.
        columns, rows: the worst relative error of each layer, by scale.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    verdict: str
    good: bool
    findings: Sequence[str]
    plot: Markup
    columns: Sequence[Cell | str]
    rows: Sequence[Row]


def diff_lines(diff: Diff) -> list[str]:
    """Return lines: what was compared, a row for each layer with a column for each scale, and what was found."""
    layers = _layers(diff)
    width = max(len(printable(name)) for name in (*layers, "layer"))
    lines = [f"{'layer, by scale':{width}}" + "".join(f"{name:>10}" for name in ("–", *diff.scales))]
    for name, row in layers.items():
        cells = [_column(diff, row.get(scale)) for scale in _scales(diff)]
        lines.append(f"{printable(name):{width}}" + "".join(cells).rstrip())
    facts = [f"{name}: {value}" for name, value in _sides(diff)]
    facts.append(f"{_photo(diff)}; relative L2 error of B, tolerance {diff.tolerance:g} (* above it)")
    return [*map(printable, facts), "", *lines, "", *map(printable, [*_findings(diff), _verdict(diff)])]


def write_diff(path: Path, diff: Diff) -> None:
    """Write the page of a comparison.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    layers = _layers(diff)
    measured = "relative L2 error of B’s values from A’s"
    page = DiffPage(
        title="Where two artefacts diverge",
        facts=[*_sides(diff), ("compared on", _photo(diff)), ("figures", f"{measured}, tolerance {diff.tolerance:g}")],
        verdict=_verdict(diff),
        good=not diff.diverged,
        findings=_findings(diff),
        plot=error_plot(diff, [(name, row) for name, row in layers.items() if name != SIZES]),
        columns=("layer", "–", *(f"× {name}" for name in diff.scales)),
        rows=[Row(head=name, cells=[_cell(diff, row.get(s)) for s in _scales(diff)]) for name, row in layers.items()],
    )
    write_page(path, "diff.html", page, option="--html")


def _layers(diff: Diff) -> Layers:
    """Return the worst values in the order of the graph; sizes and positions, which are made all along, come first."""
    found: Layers = {SIZES: {}}
    for layer in diff.layers:
        row = found.setdefault(layer.tensor.layer, {})
        worst = row.get(layer.tensor.scale)
        if worst is None or layer.error > worst.error:
            row[layer.tensor.scale] = layer
    return {name: row for name, row in found.items() if row}


def _scales(diff: Diff) -> list[int | None]:
    return [None, *range(len(diff.scales))]


def _sides(diff: Diff) -> list[tuple[str, str]]:
    return [("A", diff.a), ("B", diff.b)]


def _photo(diff: Diff) -> str:
    height, width = diff.shape
    return f"photo of {width}×{height}, {len(diff.layers)} values"


def _findings(diff: Diff) -> list[str]:
    """Return what was found besides the verdict, in lines."""
    lines = []
    if diff.outputs is not None:
        same, smallest, mean = diff.outputs.overlap, diff.outputs.cosine_min, diff.outputs.cosine_mean
        cosine = "" if math.isnan(mean) else f", descriptor cosine there min {smallest:.6f}, mean {mean:.6f}"
        lines.append(f"outputs: {same:.2%} of the positions are the same{cosine}")
    if diff.only_a:
        lines.append(f"only in A: {', '.join(diff.only_a)}")
    if diff.jump is not None:
        lines.append(f"largest growth: {diff.where(diff.jump)}, by {diff.jump.added:.2g} to {diff.jump.error:.2g}")
    return lines


def _verdict(diff: Diff) -> str:
    return diff.verdict() or "no layer exceeds the tolerance"


def _column(diff: Diff, layer: LayerError | None) -> str:
    """Return a cell of the terminal's table: ten characters, with a mark where the tolerance is exceeded."""
    if layer is None:
        return " " * 10
    return f"{_number(layer):>9}{'*' if diff.exceeds(layer) else ' '}"


def _cell(diff: Diff, layer: LayerError | None) -> Cell | str:
    if layer is None:
        return ""
    return Cell(text=_number(layer), kind="bad tint" if diff.exceeds(layer) else "")


def _number(layer: LayerError) -> str:
    if layer.shapes[0] != layer.shapes[1]:
        return "shape"
    if math.isinf(layer.error):
        return "infinite"
    return "0" if layer.error == 0 else f"{layer.error:.1e}"
