"""What holds for every page: one base, everything escaped, nothing undefined drawn, files whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.index import Hit
from ctxdeploy.query import Answer
from ctxdeploy.report.answers import AnswersPage, Result, Section, write_answers
from ctxdeploy.report.pages import Cell, displayed, environment, render, write_page
from ctxdeploy.runtime.photo import PhotoSource

# A name, and what a page shows of it.
NAMES = [
    ("<script>alert(1)</script>.jpg", "<script>alert(1)</script>.jpg"),
    ("\" onload='x' &amp; <b>.jpg", "\" onload='x' &amp; <b>.jpg"),
    ("a\x1b[31mred\x07.jpg", "a\\x1b[31mred\\x07.jpg"),
    ("two\nlines\t.jpg", "two\\nlines\\t.jpg"),
    ("\u202egpj.exe", "\\u202egpj.exe"),
    ("\u2067right\u2069.jpg", "\\u2067right\\u2069.jpg"),
    ("bytes \udcff\udc80.jpg", "bytes \ufffd\ufffd.jpg"),
    ("half \ud800.jpg", "half \ufffd.jpg"),
    ("{{ 7 * 7 }}{% raw %}.jpg", "{{ 7 * 7 }}{% raw %}.jpg"),
    ("кот 猫 قط 👩‍🚀.jpg", "кот 猫 قط 👩‍🚀.jpg"),
]


def page_of(name: str) -> AnswersPage:
    result = Result(name=f"{name}/{name}", score=0.5, rank=1, picture=None, verdict="right")
    section = Section(photo=None, box=None, title=name, facts=[name], results=[result])
    return AnswersPage(kind="Answers", title=name, leads=[name], sections=[section, section], warnings=[name])


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_names_are_text(name: str, shown: str, read_page: Callable[[Path], Any], tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "answers.html", page_of(name), option="--html")
    page = read_page(tmp_path / "page.html")
    assert page.one("title").raw == page.one("h1").raw == shown
    assert [element.raw for element in page.all("h2")] == [shown, shown]
    assert page.all("span", "name")[0].raw == f"{shown}/{shown}"
    assert page.one("p", "callout").raw == shown
    assert [link.attributes["href"] for link in page.all("a")] == ["#query-1", "#query-2"]
    assert not page.all("script") and not page.all("b")


def test_no_picture_is_shown_that_lies_outside_of_the_place(read_page: Callable[[Path], Any], tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret.jpg", place / "a.jpg", place / "sub" / "b..jpg"):
        Image.new("RGB", (8, 8)).save(path)
    inside = ["a.jpg", "sub/b..jpg", "./a.jpg", "sub//b..jpg"]
    outside = [str(tmp_path / "secret.jpg"), str(place / "a.jpg"), "../secret.jpg", "sub/../../secret.jpg"]
    odd = ["zero\0byte.jpg", "https://host/a.jpg", f"file://{tmp_path}/secret.jpg", "x" * 5000]
    hits = [Hit(name=name, score=1.0) for name in (*inside, *outside, *odd)]
    none = LocalDescriptors(vectors=np.empty((0, 4), np.float32))
    answer = Answer(photo=PhotoSource(name="query", data=b"x"), box=None, descriptors=none, hits=hits)
    write_answers(tmp_path / "page.html", [answer], place, title="an archive")
    assert len(read_page(tmp_path / "page.html").all("img")) == len(inside)


@given(st.text())
def test_any_text_is_printed_as_one_that_has_an_encoding(text: str) -> None:
    shown = str(displayed(text))
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert displayed(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_halves_of_surrogate_pairs_too(text: str) -> None:
    str(displayed(text)).encode("utf-8")


def test_markup_is_left_alone() -> None:
    assert displayed(Markup("<svg>\n</svg>")) == "<svg>\n</svg>"


def test_what_is_undefined_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("answers.html", Cell(text="not a page"))


def test_every_template_is_drawn_with_escapes() -> None:
    made = environment()
    assert made.autoescape is True
    assert {"answers.html", "base.html", "bundle.html", "diff.html", "inspection.html", "macros.html"} <= set(
        made.list_templates()
    )
    for name in made.list_templates(["html"]):
        source, _, _ = made.loader.get_source(made, name)  # type: ignore[union-attr]
        assert "|safe" not in source.replace(" ", "") and "autoescape" not in source, name
        assert name in ("base.html", "macros.html") or '{% extends "base.html" %}' in source
        assert "<style" not in source or name == "base.html", "there is one stylesheet"


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(StorageError, match="choose another --html"):
        write_page(tmp_path / "no" / "page.html", "answers.html", page_of("a"), option="--html")
    page.write_text("earlier")
    with pytest.raises(UndefinedError):
        write_page(page, "answers.html", object(), option="--html")
    assert page.read_text() == "earlier"
    write_page(page, "answers.html", page_of("a"), option="--html")
    assert page.read_text(encoding="utf-8").endswith("</html>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
