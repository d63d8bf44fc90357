"""A comparison of two artefacts for people: a table along the graph, and a page with a plot of it."""

import math
from pathlib import Path

from ctxdeploy.core.files import write_text
from ctxdeploy.core.text import printable
from ctxdeploy.export.diff import SIZES, Diff, LayerError
from ctxdeploy.report.figures import INK, SERIES, figure, page, svg, text

# Least error on the plot's axis: below the rounding of fp32.
_FLOOR = 1e-8
_MOST_TICKS = 40


def rows(diff: Diff) -> dict[str, dict[int | None, LayerError]]:
    """Return the worst value of every layer and scale (None: of no single scale), in the order of the graph.

    Sizes and positions, which are made all along, come first.
    """
    found: dict[str, dict[int | None, LayerError]] = {SIZES: {}}
    for layer in diff.layers:
        row = found.setdefault(layer.tensor.layer, {})
        worst = row.get(layer.tensor.scale)
        if worst is None or layer.error > worst.error:
            row[layer.tensor.scale] = layer
    return {layer: row for layer, row in found.items() if row}


def table(diff: Diff) -> list[str]:
    """Return lines: what was compared, a row for each layer with a column for each scale, and what was found."""
    found = rows(diff)
    width = max(len(printable(layer)) for layer in (*found, "layer"))
    columns: list[int | None] = [None, *range(len(diff.scales))]
    header = "".join(f"{name:>10}" for name in ("–", *diff.scales))
    lines = [*facts(diff), "", f"{'layer, by scale':{width}}{header}"]
    for name, row in found.items():
        lines.append(
            f"{printable(name):{width}}" + "".join(_cell(diff, row.get(column)) for column in columns).rstrip()
        )
    return [*lines, "", *findings(diff)]


def facts(diff: Diff) -> list[str]:
    """Return what was compared, in lines."""
    height, width = diff.shape
    return [
        printable(f"A: {diff.a}"),
        printable(f"B: {diff.b}"),
        f"photo of {width}×{height}, {len(diff.layers)} values; relative L2 error of B, "
        f"tolerance {diff.tolerance:g} (* above it)",
    ]


def findings(diff: Diff) -> list[str]:
    """Return what was found, in lines."""
    lines = []
    if diff.outputs is not None:
        same, least, mean = diff.outputs.overlap, diff.outputs.cosine_min, diff.outputs.cosine_mean
        cosine = "" if math.isnan(mean) else f", descriptor cosine there min {least:.6f}, mean {mean:.6f}"
        lines.append(f"outputs: {same:.2%} of the positions are the same{cosine}")
    if diff.only_a:
        lines.append(printable(f"only in A: {', '.join(diff.only_a)}"))
    if diff.jump is not None:
        lines.append(
            printable(f"largest growth: {diff.where(diff.jump)}, by {diff.jump.added:.2g} to {diff.jump.error:.2g}")
        )
    return [*lines, printable(diff.verdict()) or "no layer exceeds the tolerance"]


def write_diff_page(path: Path, diff: Diff) -> None:
    """Write one self-contained page with the plot and the table.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    lines = "".join(f"<p>{text(line)}</p>" for line in facts(diff))
    found = "".join(f'<p class="{"bad" if diff.diverged else "good"}">{text(line)}</p>' for line in findings(diff)[-1:])
    found += "".join(f"<p>{text(line)}</p>" for line in findings(diff)[:-1])
    body = f"{lines}\n{found}\n<h2>Error along the graph</h2>\n<figure>{_plot(diff)}</figure>\n{_html_table(diff)}"
    write_text(path, page("Where two artefacts diverge", body), advice="choose another --html")


def _cell(diff: Diff, layer: LayerError | None) -> str:
    if layer is None:
        return f"{'':>10}"
    return f"{_number(layer):>9}{'*' if diff.exceeds(layer) else ' '}"


def _number(layer: LayerError) -> str:
    if layer.shapes[0] != layer.shapes[1]:
        return "shape"
    if math.isinf(layer.error):
        return "infinite"
    return "0" if layer.error == 0 else f"{layer.error:.1e}"


def _html_table(diff: Diff) -> str:
    columns: list[int | None] = [None, *range(len(diff.scales))]
    header = "".join(f"<th>{text(name)}</th>" for name in ("–", *(f"× {name}" for name in diff.scales)))
    body = ""
    for name, row in rows(diff).items():
        cells = ""
        for column in columns:
            layer = row.get(column)
            mark = ' class="bad tint"' if layer is not None and diff.exceeds(layer) else ""
            cells += f"<td{mark}>{'' if layer is None else _number(layer)}</td>"
        body += f"<tr><td>{text(name)}</td>{cells}</tr>\n"
    return (
        "<h2>Worst relative error of each layer, by scale</h2>\n"
        f'<div class="scroll"><table><tr><th>layer</th>{header}</tr>\n{body}</table></div>\n'
    )


def _plot(diff: Diff) -> str:
    """Return a line for each scale over the layers, sizes left out; what is infinite lies on the upper edge."""
    found = {layer: row for layer, row in rows(diff).items() if layer != SIZES}
    finite = [layer.error for row in found.values() for layer in row.values() if math.isfinite(layer.error)]
    top = 10 ** math.ceil(math.log10(max([*finite, diff.tolerance, _FLOOR]) * 2))
    drawn, axes = figure(11, 5.2)
    ax = axes[0, 0]
    for column, name in ((None, "–"), *enumerate(diff.scales)):
        places = [i for i, row in enumerate(found.values()) if column in row]
        errors = [min(max(row[column].error, _FLOOR), top) for row in found.values() if column in row]
        if places:
            colour = INK if column is None else SERIES[column % len(SERIES)]
            style = {"linestyle": "none" if column is None else "-", "marker": "o", "markersize": 3.5}
            ax.plot(places, errors, color=colour, label=name, linewidth=1.2, **style)
    ax.axhline(diff.tolerance, color=INK, linewidth=1, linestyle="--")
    ax.set_yscale("log")
    ax.set_ylim(_FLOOR / 2, top * 1.5)
    ax.set_ylabel("relative L2 error (dashed: tolerance)")
    step = max(1, math.ceil(len(found) / _MOST_TICKS))
    names = [printable(name).replace("$", r"\$") for name in found]
    ax.set_xticks(range(0, len(found), step), names[::step], rotation=60, ha="right", fontsize=8)
    legend = ax.legend(title="scale", fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for label in (*legend.get_texts(), legend.get_title()):
        label.set_color(INK)
    return svg(drawn, "error along the graph")
