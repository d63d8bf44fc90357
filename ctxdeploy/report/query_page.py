"""One self-contained HTML page of queries and what they found: thumbnails inside, no script, no other file."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.files import write_text
from ctxdeploy.core.text import as_html
from ctxdeploy.core.types import Preprocessing

if TYPE_CHECKING:
    from ctxdeploy.query import Answer
    from ctxdeploy.runtime import Box, Pixels

# Longest sides in pixels, and the JPEG quality: a page of ten results has about 250 KB.
QUERY_PIXELS, RESULT_PIXELS, QUALITY = 640, 320, 80

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5d646d;--line:#d9dde2;--ground:#f6f7f9;--card:#fff;--mark:#e2542c;
--bar:#2f6fde;--good:#1a7f4b;--bad:#c0281c}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa3ad;--line:#343a41;--ground:#15181b;--card:#1f2428;
--bar:#6ea3ff;--good:#4cc38a;--bad:#ff7a6b}}
*{box-sizing:border-box}
body{margin:0;padding:2rem clamp(1rem,4vw,3rem) 3rem;background:var(--ground);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.35rem;margin:0 0 .2rem}
p{margin:0;color:var(--soft)}
section{display:grid;grid-template-columns:minmax(14rem,22rem) 1fr;gap:1.5rem;margin-top:1.8rem;padding-top:1.8rem;
border-top:1px solid var(--line)}
@media(max-width:48rem){section{grid-template-columns:1fr}}
h2{font-size:1rem;margin:.7rem 0 .15rem;overflow-wrap:anywhere}
img{display:block;width:100%;height:auto;border-radius:6px}
.query{position:relative}
.box{position:absolute;border:3px solid var(--mark);border-radius:3px;box-shadow:0 0 0 1px #0008}
ol{list-style:none;margin:0;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:1rem}
li{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.5rem}
.thumb{height:9rem;display:grid;place-items:center;overflow:hidden}
.thumb img{width:auto;height:auto;max-width:100%;max-height:9rem}
.none{color:var(--soft);font-size:.85rem;text-align:center}
.score{height:4px;border-radius:2px;background:var(--line);margin:.5rem 0 .35rem}
.score i{display:block;height:100%;border-radius:2px;background:var(--bar)}
.name{font-size:.85rem;overflow-wrap:anywhere}
.rank{font-weight:600;margin-right:.35em}
.alarm{color:var(--bad);font-weight:600;margin-top:.5rem}
li.right{border-color:var(--good);box-shadow:inset 0 0 0 1px var(--good)}
li.wrong{border-color:var(--bad);box-shadow:inset 0 0 0 1px var(--bad)}
li.junk{border-style:dashed;opacity:.7}
.right .verdict{color:var(--good)}
.wrong .verdict{color:var(--bad)}
.value{color:var(--soft);font-size:.8rem;font-variant-numeric:tabular-nums}
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A photo that was found.

    Attributes:
        name: of the photo.
        score: of it.
        picture: its file; None if that is not known.
        verdict: ``right``, ``wrong`` or ``junk``, or none.
        rank: from 1; its place among the results if None.
    """

    name: str
    score: float
    picture: Path | None
    verdict: str = ""
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A query and what it found.

    Attributes:
        photo: the query's file.
        box: the part that was searched for.
        title: over the facts.
        facts: lines.
        results: best first.
    """

    photo: Path | bytes | None
    box: "Box | None"
    title: str
    facts: Sequence[str]
    results: Sequence[Result]


def write_page(path: Path, answers: Sequence["Answer"], photos: Path | None, *, title: str, lead: str = "") -> None:
    """Write a page of answers.

    Args:
        path: the file.
        answers: shown in this order.
        photos: folder that the hits' names are relative to; without it there are names, but no thumbnails.
        title: what was searched.
        lead: a sentence under the title.

    Raises:
        StorageError: the file cannot be written.
    """
    count = len(answers)
    lead = lead or f"{count} {'query' if count == 1 else 'queries'}"
    write_sections(path, (_answered(answer, photos) for answer in answers), title=title, leads=(lead,))


def write_sections(
    path: Path, sections: Iterable[Section], *, title: str, leads: Sequence[str], alarm: str = ""
) -> None:
    """Write a page of queries.

    Args:
        path: the file.
        sections: shown in this order.
        title: of the page.
        leads: lines under the title.
        alarm: what nobody may overlook, under them.

    Raises:
        StorageError: the file cannot be written.
    """
    under = "".join(f"<p>{as_html(lead)}</p>\n" for lead in leads)
    under += f'<p class="alarm">{as_html(alarm)}</p>\n' if alarm else ""
    text = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{as_html(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{as_html(title)}</h1>\n{under}{''.join(map(_section, sections))}</html>\n"
    )
    write_text(path, text, advice="choose another --html")


def _answered(answer: "Answer", photos: Path | None) -> Section:
    timing = f"extract {answer.extract_seconds:.2f} s, search {answer.search_seconds * 1000:.1f} ms"
    return Section(
        photo=answer.photo.data if answer.photo.path is None else answer.photo.path,
        box=answer.box,
        title=answer.photo.name,
        facts=(f"{len(answer.descriptors)} descriptors; {timing}",),
        results=[
            Result(name=hit.name, score=hit.score, picture=None if photos is None else photos / hit.name)
            for hit in answer.hits
        ],
    )


def _section(section: Section) -> str:
    best = section.results[0].score if section.results else 1.0
    items = "".join(_item(result.rank or rank, result, best) for rank, result in enumerate(section.results, 1))
    results = f"<ol>{items}</ol>" if items else '<p class="none">Nothing found.</p>'
    facts = "".join(f"<p>{as_html(fact)}</p>" for fact in section.facts)
    return f"<section><div>{_query_picture(section)}<h2>{as_html(section.title)}</h2>{facts}</div>{results}</section>\n"


def _query_picture(section: Section) -> str:
    photo = None if section.photo is None else _decoded(section.photo, QUERY_PIXELS)
    if photo is None:
        return '<p class="none">photo not readable</p>'
    frame = ""
    if section.box is not None:
        left, upper, right, lower = section.box.pixels(photo.original_size)
        width, height = photo.original_size
        frame = (
            f'<div class="box" style="left:{100 * left / width:.3f}%;top:{100 * upper / height:.3f}%;'
            f'width:{100 * (right - left) / width:.3f}%;height:{100 * (lower - upper) / height:.3f}%"></div>'
        )
    return f'<div class="query"><img alt="query" src="{_data_url(photo)}">{frame}</div>'


def _item(rank: int, result: Result, best: float) -> str:
    photo = None if result.picture is None else _decoded(result.picture, RESULT_PIXELS)
    picture = '<span class="none">photo not found</span>'
    if photo is not None:
        picture = f'<img alt="{as_html(result.name)}" src="{_data_url(photo)}">'
    width = 100 * max(result.score, 0.0) / best if best > 0 else 0.0
    marked = f' class="{result.verdict}"' if result.verdict else ""
    verdict = f'<b class="verdict">{as_html(result.verdict)}</b> ' if result.verdict else ""
    return (
        f'<li{marked}><div class="thumb">{picture}</div>'
        f'<div class="score"><i style="width:{width:.1f}%"></i></div>'
        f'<div class="name"><span class="rank">{rank}</span>{as_html(result.name)}</div>'
        f'<div class="value">{verdict}score {result.score:.4f}</div></li>'
    )


def _decoded(photo: Path | bytes, pixels: int) -> "Pixels | None":
    from ctxdeploy.runtime import decode_photo

    try:
        return decode_photo(photo, Preprocessing(image_size=pixels, draft=True))
    except PhotoError:  # moved or changed since it was indexed: its name is shown
        return None


def _data_url(photo: "Pixels") -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(photo.pixels).save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
