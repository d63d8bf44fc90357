"""Pages and their plots: inline SVG whose text and lines take the page's colours, legible in the dark as well."""

import io
from html import escape
from typing import Any

from ctxdeploy.core.extras import require

# Colours that stand for the page's custom properties until the SVG is written.
INK, SOFT, LINE = "#010101", "#020202", "#030303"
_PROPERTIES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}
# Legible on white and on near-black.
SERIES = ("#3b7dd8", "#d9822b", "#2e9e6b", "#b05fd0", "#d64545", "#1a9aa8", "#8a8f2a", "#7a6a5a")
# Of a page: ``_PROPERTIES`` must exist there.
STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5d646d;--line:#d9dde2;--ground:#f6f7f9;--card:#fff;--bad:#c0392b;
--good:#1e7d4f;--tint:#e2542c22}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa3ad;--line:#343a41;--ground:#15181b;--card:#1f2428;
--bad:#ff7b6b;--good:#5fcf97;--tint:#e2542c44}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:92rem;padding:2rem clamp(1rem,4vw,3rem) 3rem;background:var(--ground);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.35rem;margin:0 0 .2rem}
h2{font-size:1.05rem;margin:2.2rem 0 .6rem}
p{margin:.2rem 0;color:var(--soft)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft);font-size:.85rem;vertical-align:bottom}
tr:last-child td{border-bottom:0}
th:first-child,td:first-child,.text{text-align:left}
.wrap{white-space:normal;overflow-wrap:anywhere;min-width:9rem;text-align:left}
.bad{color:var(--bad);font-weight:600}
.good{color:var(--good)}
.soft{color:var(--soft)}
.tint{background:var(--tint)}
figure{margin:0;padding:.8rem;background:var(--card);border:1px solid var(--line);border-radius:8px;overflow-x:auto}
figure svg{display:block;max-width:100%;height:auto;margin:auto}
small{color:var(--soft);font-weight:400}
figure .swatch,.swatch{display:inline-block;vertical-align:middle}
.key{display:inline-block;margin-right:1.1rem;white-space:nowrap}
.artefacts th{white-space:normal}
.artefacts th,.artefacts td{padding:.35rem .5rem}
figcaption{color:var(--soft);font-size:.85rem;margin-top:.4rem}
@media print{@page{margin:12mm}:root{--ink:#000;--soft:#444;--line:#bbb;--ground:#fff;--card:#fff}body{padding:0;
max-width:none;font-size:10px}figure,tr{break-inside:avoid}h2{break-after:avoid}.scroll{overflow:visible}
th,td{padding:.2rem .35rem}}
"""


def page(title: str, body: str) -> str:
    """Return a whole page; ``body`` is HTML, ``title`` is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n<h1>{text(title)}</h1>\n{body}</html>\n"
    )


def text(value: object) -> str:
    """Escape a text; what is no Unicode text (bytes of a file name) becomes replacement characters."""
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
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


def svg(drawn: Any, label: str) -> str:
    """Return a figure as an SVG element: the same bytes for the same figure, text as text."""
    matplotlib = require("matplotlib", "export")
    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    found = buffer.getvalue()
    found = found[found.index("<svg") :]
    for colour, custom in _PROPERTIES.items():
        found = found.replace(colour, custom)
    return found.replace("<svg", f'<svg role="img" aria-label="{text(label)}"', 1)
