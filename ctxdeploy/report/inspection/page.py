"""The page of an inspection: pictures with their legends, the scales, the position looked at, and what was prepared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.report.inspection.drawing import colour_map, css, mark_colours
from ctxdeploy.report.inspection.pictures import FAINTEST, Picture
from ctxdeploy.report.pages import Row, number, render, size

# In the order of the page; the template has their titles and texts.
_SECTIONS = ("attention", "selected", "bandwidth", "confidence", "edges", "superfeatures")

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class InspectionPage:
    """What a network sees in a photo.

    Attributes:
        title: name of the photo's file.
        lead: what the network is.
        missing: what is not shown, and why.
        super_features: whether the network makes super-features instead of descriptors at positions.
        preparation: from the file to the network's input.
        chosen: the position that is looked at closely; empty where there is none.
        kernel: its smoothing, rows of shares in percent; empty where there is none.
        smoothing: whether the network has learned smoothing.
        columns, scales: the table of scales.
        colours: (scale, descriptors, CSS colour) of the rings.
        inputs: pictures of the input.
        sections: (name, pictures) of the others.
    """

    title: str
    lead: str
    missing: Sequence[str]
    super_features: bool
    preparation: Facts
    chosen: Facts
    kernel: Sequence[Sequence[str]]
    smoothing: bool
    columns: Sequence[str]
    scales: Sequence[Row]
    colours: Sequence[tuple[str, str, str]]
    inputs: Sequence[Picture]
    sections: Sequence[tuple[str, Sequence[Picture]]]

    def gradient(self, percent: bool) -> str:
        """Return the map's colours in CSS, dark to light; shares are those of edges, whose colours begin later."""
        first = round(255 * FAINTEST) if percent else 0
        return f"linear-gradient(90deg, {', '.join(css(colour) for colour in colour_map()[first::17])})"


def page_of(facts: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """Return the page of an inspection's facts; it refers to the pictures' files beside it."""
    model, levels, chosen = facts["model"], facts["scales"], facts["chosen"]
    smoothing = any(level["bandwidth"] is not None for level in levels)
    columns = ("scale", "pixels", "map", "positions", "selected", "share", "attention")
    sections = [(name, [picture for picture in pictures if picture.section == name]) for name in _SECTIONS]
    kernel = [] if chosen is None or chosen["kernel"] is None else chosen["kernel"]
    page = InspectionPage(
        title=Path(facts["photo"]).name,
        lead=(
            f"{facts['descriptors']:,} local descriptors of {_network_name(model['network'])}; "
            f"model {model['path']}, {model['model_id'][:12]}"
        ),
        missing=facts["missing"],
        super_features=model["network"].get("lit") is not None,
        preparation=_preparation(facts["preprocessing"]),
        chosen=[] if chosen is None else list(_chosen(facts)),
        kernel=[[f"{100 * share:.1f} %" for share in row] for row in kernel],
        smoothing=smoothing,
        columns=(*columns, "bandwidth", "self-confidence") if smoothing else columns,
        scales=[_scale(level, smoothing) for level in levels],
        colours=[
            (f"{level['scale']:g}", f"{level['selected']:,}", css(colour))
            for level, colour in zip(levels, mark_colours(len(levels)), strict=True)
        ],
        inputs=[picture for picture in pictures if picture.section == "input"],
        sections=[(name, shown) for name, shown in sections if shown],
    )
    return render("inspection.html", page)


def _network_name(network: Mapping[str, Any]) -> str:
    parts = [str(network.get("family", "an unknown network")), str(network.get("architecture", ""))]
    if (network.get("smoothing") or {}).get("kind") == "gaussian":
        parts.append("learned smoothing")
    if network.get("refinement"):
        parts.append("graph refinement")
    return ", ".join(part for part in parts if part)


def _preparation(done: Mapping[str, Any]) -> Facts:
    box = done["box"]
    return [
        ("file", f"{done['format']}, {done['bytes']:,} bytes"),
        ("stored", f"{size(done['stored_size'])}, {done['colour']}"),
        ("colour conversion", done["conversion"]),
        ("EXIF orientation", f"{done['orientation']}: {done['turn']}"),
        ("original photo", size(done["original_size"])),
        ("box", "none, the whole photo" if box is None else ",".join(str(edge) for edge in box)),
        ("input of the network", f"{size(done['input_size'])} (factor {done['factor']:.4g})"),
        ("scaling", done["scaling"]),
        ("not used", "; ".join(done["left_out"]) or "nothing"),
    ]


def _chosen(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is known of the position that is looked at closely."""
    chosen = facts["chosen"]
    x, y = chosen["position"]
    asked = chosen["asked"]
    how = "the strongest of its scale" if asked is None else "asked for: {:g}, {:g}".format(*asked)
    yield "centre of its cell", f"{x:.1f}, {y:.1f} in the original photo ({how})"
    yield "cell", f"scale {chosen['scale']:g}, row {chosen['row']}, column {chosen['column']}"
    if facts["model"]["network"].get("lit") is None:
        rank = "not selected" if chosen["rank"] is None else f"number {chosen['rank']:,} of {facts['descriptors']:,}"
        yield "attention", f"{chosen['relative_attention']:.4g} ({chosen['attention']:.4g}); {rank}"
    if chosen["bandwidth"] is not None:
        yield "bandwidth, self-confidence", f"{chosen['bandwidth']:.4g}, {chosen['confidence']:.4g}"


def _scale(level: Mapping[str, Any], smoothing: bool) -> Row:
    cells = [
        size(level["size"]),
        "–" if level["map"] is None else size(level["map"][::-1]),
        f"{level['positions']:,}" if level["positions"] else "–",
        f"{level['selected']:,}",
        f"{100 * level['share']:.1f} %",
        *(_range(level[key]) for key in ("attention", *(("bandwidth", "confidence") if smoothing else ()))),
    ]
    return Row(head=f"{level['scale']:g}", cells=cells)


def _range(values: Mapping[str, float] | None) -> str:
    return "–" if values is None else " / ".join(number(values[key]) for key in ("min", "median", "max"))
