"""The page of answers: complete in itself, and safe with any name."""

import base64
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle

Call = ReadPage = Callable[..., Any]


def _pictures(page: Any) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].partition("base64,")[2])))
        for image in page.all("img")
    ]


def test_page_holds_query_box_and_results(
    call: Call, read_page: ReadPage, shared_archive: Path, photos: Path, tmp_path: Path
) -> None:
    query = photos.parent / "queries" / "coffee_3.jpg"
    options = ("--index", shared_archive, "--top", 4, "--html", tmp_path / "page.html", "--json")
    answer = call("query", query, *options, "--box", "14,13,190,121").json[0]
    page = read_page(tmp_path / "page.html")
    pictures = _pictures(page)
    assert len(pictures) == 1 + 4
    assert pictures[0].size == Image.open(query).size
    for image, picture in zip(page.all("img"), pictures, strict=True):
        assert (image.attributes["width"], image.attributes["height"]) == tuple(map(str, picture.size))
    assert page.texts("span", "name") == [hit["name"] for hit in answer["results"]]
    assert page.texts("span", "rank") == ["1", "2", "3", "4"]
    assert page.texts("div", "score") == [f"score {hit['score']:.4f}" for hit in answer["results"]]
    assert page.one("title").text == page.one("h1").text == shared_archive.name
    assert page.one("h2").text == str(query)
    told = page.one("div", "asked").texts("p")
    assert told[:2] == ["searched for the part 14,13,190,121", f"{answer['descriptors']:,} descriptors"]
    frame = page.one("div", "framed").one("span").attributes["style"]
    found = {name.strip(): float(value.strip(" %")) for name, value in (part.split(":") for part in frame.split(";"))}
    width, height = Image.open(query).size
    expected = {"left": 14 / width, "top": 13 / height, "width": 176 / width, "height": 108 / height}
    assert found == pytest.approx({name: 100 * share for name, share in expected.items()}, abs=0.001)
    bars = [float(bar.attributes["style"].strip("width: %")) for bar in page.all("i")]
    assert bars == pytest.approx([100 * hit["probability"] for hit in answer["results"]], abs=0.001)


def test_several_queries_are_linked(
    call: Call, read_page: ReadPage, shared_archive: Path, photos: Path, tmp_path: Path
) -> None:
    queries = [photos.parent / "queries" / f"{name}_3.jpg" for name in ("coffee", "rocket")]
    page = tmp_path / "page.html"
    assert call("query", *queries, "--index", shared_archive, "--top", 2, "--html", page, "-q").code == 0
    found = read_page(page)
    assert found.one("header").text.startswith(f"Answers {shared_archive.name} 2 queries")
    assert found.one("nav").texts("a") == [query.name for query in queries]
    targets = [section.attributes["id"] for section in found.all("section")]
    assert [link.attributes["href"] for link in found.all("a")] == [f"#{target}" for target in targets]


def test_page_without_the_photos_shows_their_names(
    call: Call, read_page: ReadPage, bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "-q").code == 0
    shutil.rmtree(folder)
    assert call("query", photos / "rocket_1.jpg", "--index", archive, "--html", tmp_path / "page.html").code == 0
    page = read_page(tmp_path / "page.html")
    assert set(page.texts("p", "missing")) == {"photo not found"}
    assert page.texts("span", "name")[0] == "rocket_1.jpg"
    assert len(page.all("img")) == 1


def test_names_are_text(call: Call, read_page: ReadPage, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    """Names of files that are markup, that turn or colour text, or that are not UTF-8, in results and queries alike."""
    folder = tmp_path / "photos"
    folder.mkdir()
    shown = {
        b'<b onclick="x">&.jpg': '<b onclick="x">&.jpg',
        b"<script>'1'<\x1b[31m.jpg": "<script>'1'<\\x1b[31m.jpg",
        "\u202egpj.jpg".encode(): "\\u202egpj.jpg",
        b"caf\xe9.jpg": "caf\ufffd.jpg",
    }
    for name in shown:
        shutil.copy(photos / "rocket_1.jpg", folder / os.fsdecode(name))
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "--words", 16, "-q").code == 0
    queries = [folder / os.fsdecode(name) for name in sorted(shown)]
    assert call("query", *queries, "--index", archive, "--html", tmp_path / "page.html").code == 0
    page = read_page(tmp_path / "page.html")
    for result in page.all("ol", "results"):
        assert set(result.texts("span", "name")) == set(shown.values())
    assert page.one("nav").texts("a") == [shown[name] for name in sorted(shown)]
    assert not page.all("b")


def test_page_that_cannot_be_written(call: Call, shared_archive: Path, photos: Path, tmp_path: Path) -> None:
    result = call("query", photos / "coins_0.jpg", "--index", shared_archive, "--html", tmp_path / "no" / "p.html")
    assert result.code == 18
    assert "choose another --html" in result.err
