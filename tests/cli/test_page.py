"""The page of results: complete in itself, and safe with any name."""

import base64
import io
import re
import shutil
from pathlib import Path

from PIL import Image

from ctxdeploy.core.bundle import Bundle


def _pictures(page: str) -> list[Image.Image]:
    urls = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]


def test_page_holds_query_box_and_results(call, shared_archive: Path, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    query = photos.parent / "queries" / "coffee_3.jpg"
    options = ("--index", shared_archive, "--top", 4, "--html", page, "--json")
    answer = call("query", query, *options, "--box", "14,13,190,121").json[0]
    text = page.read_text(encoding="utf-8")
    pictures = _pictures(text)
    assert len(pictures) == 1 + 4
    assert pictures[0].size == Image.open(query).size
    for hit in answer["results"]:
        assert hit["name"] in text
        assert f"{hit['score']:.4f}" in text
    width, height = Image.open(query).size
    left, top = re.search(r"left:([\d.]+)%;top:([\d.]+)%", text).groups()
    assert abs(float(left) - 100 * 14 / width) < 0.01
    assert abs(float(top) - 100 * 13 / height) < 0.01
    assert not re.search(r"https?://|<script|<link|url\(", text)


def test_page_without_the_photos_shows_their_names(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "-q").code == 0
    shutil.rmtree(folder)
    page = tmp_path / "page.html"
    assert call("query", photos / "rocket_1.jpg", "--index", archive, "--html", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "photo not found" in text
    assert "rocket_1.jpg" in text


def test_names_are_escaped(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photos / "rocket_1.jpg", folder / '<b onclick="x">&.jpg')
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "--words", 16, "-q").code == 0
    page = tmp_path / "page.html"
    assert call("query", photos / "rocket_1.jpg", "--index", archive, "--html", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "<b onclick" not in text
    assert "&lt;b onclick=&quot;x&quot;&gt;&amp;.jpg" in text


def test_page_that_cannot_be_written(call, shared_archive: Path, photos: Path, tmp_path: Path) -> None:
    result = call("query", photos / "coins_0.jpg", "--index", shared_archive, "--html", tmp_path / "no" / "p.html")
    assert result.code == 18
    assert "--html" in result.err
