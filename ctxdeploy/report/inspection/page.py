"""The page of an inspection: pictures with their legends, the scales, the position looked at, and what was prepared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctxdeploy.core.text import as_html
from ctxdeploy.report.inspection.colours import colour_map, css, mark_colours
from ctxdeploy.report.inspection.edges import FAINTEST
from ctxdeploy.report.inspection.picture import Drawn

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5d646d;--line:#d9dde2;--ground:#f6f7f9;--card:#fff;--mark:#b3501d}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa3ad;--line:#343a41;--ground:#15181b;--card:#1f2428;
--mark:#ff9d6b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:92rem;padding:2rem clamp(1rem,4vw,3rem) 3rem;background:var(--ground);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.35rem;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.4rem 0 .2rem}
p{margin:.2rem 0;color:var(--soft);max-width:60rem}
.missing{color:var(--mark)}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem;align-items:start;margin-top:1rem}
.two{display:grid;grid-template-columns:1fr 1fr;gap:1rem;margin-top:.8rem}
.grid{display:grid;grid-template-columns:repeat(4,1fr);gap:.8rem;margin-top:.8rem}
.grid .large{grid-column:span 2;grid-row:span 2}
@media(max-width:56rem){.pair,.two{grid-template-columns:1fr}.grid{grid-template-columns:1fr 1fr}}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.5rem}
figure img{display:block;width:100%;height:auto;border-radius:4px}
figcaption{margin-top:.4rem;font-size:.85rem}
figcaption span,.value{color:var(--soft);font-variant-numeric:tabular-nums}
figcaption span{display:block;font-size:.8rem}
.legend{display:flex;align-items:center;gap:.6rem;margin:.5rem 0 0;font-size:.85rem;color:var(--soft);
font-variant-numeric:tabular-nums}
.keys{flex-wrap:wrap}
.legend i{height:.8rem;flex:0 1 16rem;min-width:3rem;border-radius:3px}
.legend b{display:inline-block;width:.8rem;height:.8rem;border-radius:50%;border:3px solid;margin-right:-.2rem}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px;margin-top:.8rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft);font-size:.85rem;vertical-align:bottom}
tr:last-child td,tr:last-child th{border-bottom:0}
th:first-child{text-align:left}
.facts th,.facts td{padding:.2rem .7rem}
.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.facts th{vertical-align:top;white-space:normal;width:30%}
.pair .scroll:first-child{margin-top:0}.pair h2{margin:1.2rem 0 0}
.kernel{width:auto;margin:.2rem 0}
.facts .kernel td,.facts .kernel tr:last-child td{border:1px solid var(--line);text-align:center;padding:.25rem .5rem}
"""
# Sections after the input: what stands under the title.
_SECTIONS = {
    "attention": (
        "Attention",
        "How much a position counts before the selection: the length of its feature vector, divided by the largest of "
        "all scales of this photo. The network keeps the positions with the largest.",
    ),
    "selected": (
        "Selected positions",
        "The descriptors that the network returns. A ring has the size of a cell of its scale and the colour of the "
        "scale, and is the brighter the stronger its attention; the small pictures show the photo where a cell is "
        "selected.",
    ),
    "bandwidth": (
        "Bandwidth of the smoothing",
        "Bright: a narrow filter, which leaves the position alone; dark: a wide one, which takes in its neighbours.",
    ),
    "confidence": (
        "Self-confidence of the smoothing",
        "The weight of the position itself. Dark: it rejects itself and is replaced by its neighbours.",
    ),
    "edges": (
        "The graph's edges",
        "From the position in the blue frame to those that it takes features from. The heavier an edge, the wider "
        "and brighter; what it takes from all positions sums to 100 %.",
    ),
    "superfeatures": (
        "Super-features",
        "What single super-features gather, in multiples of what they would take from each position alike.",
    ),
}
_SUPER_ATTENTION = (
    "Where the super-features gather from, weighted by their attention, in multiples of the mean of the positions of a "
    "scale."
)
_SUPER_SELECTED = "The super-features that the network returns, each at the centre of what it gathers from."


def page_of(facts: Mapping[str, Any], pictures: Sequence[Drawn]) -> str:
    """Return the page; it refers to the pictures' files beside it."""
    name = as_html(Path(facts["photo"]).name)
    network = facts["model"]["network"]
    lead = f"{facts['descriptors']:,} local descriptors of {as_html(_network_name(network))}"
    model = f"model {as_html(facts['model']['path'])}, {facts['model']['model_id'][:12]}"
    missing = "".join(f'<p class="missing">Not shown – {as_html(line)}.</p>' for line in facts["missing"])
    sections = "".join(_section(section, facts, pictures) for section in _SECTIONS)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{name}</h1>\n<p>{lead}; {model}</p>\n{missing}"
        f"{_input(facts, pictures)}{_scales(facts)}{sections}</html>\n"
    )


def _input(facts: Mapping[str, Any], pictures: Sequence[Drawn]) -> str:
    shown = "".join(_figure(picture) for picture in pictures if picture.section == "input")
    return (
        f'<div class="pair"><div>{shown}</div><div><div class="scroll">{_preparation(facts["preprocessing"])}</div>'
        f"{_chosen(facts)}</div></div>\n"
    )


def _preparation(done: Mapping[str, Any]) -> str:
    box = done["box"]
    rows = [
        ("file", f"{done['format']}, {done['bytes']:,} bytes"),
        ("stored", f"{_size(done['stored_size'])}, {done['colour']}"),
        ("colour conversion", done["conversion"]),
        ("EXIF orientation", f"{done['orientation']}: {done['turn']}"),
        ("original photo", _size(done["original_size"])),
        ("box", "none, the whole photo" if box is None else ",".join(str(edge) for edge in box)),
        ("input of the network", f"{_size(done['input_size'])} (factor {done['factor']:.4g})"),
        ("scaling", done["scaling"]),
        ("not used", "; ".join(done["left_out"]) or "nothing"),
    ]
    return _table(rows)


def _chosen(facts: Mapping[str, Any]) -> str:
    """Return what is known of the position that is looked at closely."""
    chosen = facts["chosen"]
    if chosen is None:
        return ""
    x, y = chosen["position"]
    how = "the strongest of its scale" if chosen["asked"] is None else "asked for: {:g}, {:g}".format(*chosen["asked"])
    rank = "not selected" if chosen["rank"] is None else f"number {chosen['rank']:,} of {facts['descriptors']:,}"
    rows = [
        ("centre of its cell", f"{x:.1f}, {y:.1f} in the original photo ({how})"),
        ("cell", f"scale {chosen['scale']:g}, row {chosen['row']}, column {chosen['column']}"),
    ]
    if facts["model"]["network"].get("lit") is None:
        rows.append(("attention", f"{chosen['relative_attention']:.4g} ({chosen['attention']:.4g}); {rank}"))
    if chosen["bandwidth"] is not None:
        rows.append(("bandwidth, self-confidence", f"{chosen['bandwidth']:.4g}, {chosen['confidence']:.4g}"))
    table = _table(rows)
    if chosen["kernel"] is not None:
        cells = "".join(
            "<tr>" + "".join(f"<td>{100 * share:.1f} %</td>" for share in row) + "</tr>" for row in chosen["kernel"]
        )
        kernel = f'<table class="kernel">{cells}</table>'
        table = table.replace("</table>", f"<tr><th>its smoothing</th><td>{kernel}</td></tr></table>")
    return f'<h2>The position in the blue frame</h2><div class="scroll">{table}</div>'


def _scales(facts: Mapping[str, Any]) -> str:
    smoothing = any(level["bandwidth"] is not None for level in facts["scales"])
    head = ["scale", "pixels", "map", "positions", "selected", "share", "attention"]
    head += ["bandwidth", "self-confidence"] if smoothing else []
    body = ""
    for level in facts["scales"]:
        cells = [
            f"{level['scale']:g}",
            _size(level["size"]),
            "–" if level["map"] is None else f"{level['map'][1]}×{level['map'][0]}",
            f"{level['positions']:,}" if level["positions"] else "–",
            f"{level['selected']:,}",
            f"{100 * level['share']:.1f} %",
            _range(level["attention"]),
        ]
        if smoothing:
            cells += [_range(level["bandwidth"]), _range(level["confidence"])]
        body += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
    row = "".join(f"<th>{as_html(name)}</th>" for name in head)
    shown = "Attention, bandwidth and self-confidence" if smoothing else "Attention"
    note = f"{shown}: least / median / largest of the positions of the scale."
    if facts["model"]["network"].get("lit") is not None:
        note = "Attention: what positions give, in multiples of their mean: least / median / largest of the scale."
    return f'<h2>Scales</h2>\n<p>{note}</p><div class="scroll"><table><tr>{row}</tr>\n{body}</table></div>\n'


def _section(section: str, facts: Mapping[str, Any], pictures: Sequence[Drawn]) -> str:
    shown = [picture for picture in pictures if picture.section == section]
    if not shown:
        return ""
    title, text = _SECTIONS[section]
    if facts["model"]["network"].get("lit") is not None:
        text = {"attention": _SUPER_ATTENTION, "selected": _SUPER_SELECTED}.get(section, text)
    legend = _scale_legend(facts) if section == "selected" else ""
    if section in ("attention", "bandwidth", "confidence"):
        legend = _legend(shown[-1].ends)
    own = section in ("edges", "superfeatures")
    # The first picture of attention has a range of its own.
    layout = "two" if section == "edges" else "grid"
    figures = "".join(_figure(picture, legend=own or picture.file == "attention.png") for picture in shown)
    return f'<h2>{title}</h2>\n<p>{text}</p>{legend}\n<div class="{layout}">{figures}</div>\n'


def _figure(picture: Drawn, *, legend: bool = False) -> str:
    lines = ""
    if picture.values is not None:
        lines += "<span>min {}, median {}, max {}</span>".format(
            *(_number(value, picture.percent) for value in picture.values)
        )
    if picture.note:
        lines += f"<span>{as_html(picture.note)}</span>"
    bar = _legend(picture.ends, picture.percent) if legend else ""
    large = ' class="large"' if picture.large else ""
    return (
        f'<figure{large}><a href="{picture.file}"><img alt="{as_html(picture.title)}" src="{picture.file}"></a>'
        f"<figcaption>{as_html(picture.title)}{lines}{bar}</figcaption></figure>"
    )


def _legend(ends: tuple[float, float] | None, percent: bool = False) -> str:
    """Return a bar of the map's colours with the values at its ends; shares are those of edges."""
    if ends is None:
        return ""
    first = round(255 * FAINTEST) if percent else 0
    stops = ",".join(css((int(r), int(g), int(b))) for r, g, b in colour_map()[first::17])
    low, high = (_number(end, percent) for end in ends)
    return f'<div class="legend">{low}<i style="background:linear-gradient(90deg,{stops})"></i>{high}</div>'


def _scale_legend(facts: Mapping[str, Any]) -> str:
    colours = mark_colours(len(facts["scales"]))
    keys = "".join(
        f'<span><b style="border-color:{css(colour)}"></b> &nbsp;{level["scale"]:g}: {level["selected"]:,}</span>'
        for colour, level in zip(colours, facts["scales"], strict=True)
    )
    return f'<div class="legend keys">{keys}</div>'


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{as_html(name)}</th><td>{as_html(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{body}</table>'


def _range(values: Mapping[str, float] | None) -> str:
    return "–" if values is None else " / ".join(_number(values[key]) for key in ("min", "median", "max"))


def _number(value: float, percent: bool = False) -> str:
    return f"{100 * value:.3g} %" if percent else f"{value:.3g}"


def _size(size: Sequence[int]) -> str:
    return f"{size[0]:,}×{size[1]:,}"


def _network_name(network: Mapping[str, Any]) -> str:
    parts = [str(network.get("family", "an unknown network")), str(network.get("architecture", ""))]
    if (network.get("smoothing") or {}).get("kind") == "gaussian":
        parts.append("learned smoothing")
    if network.get("refinement"):
        parts.append("graph refinement")
    return ", ".join(part for part in parts if part)
