"""The drawing of a query beside a photo that it found, and the page that shows it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.types import Box, LocalDescriptors
from ctxdeploy.index import Hit, Verification
from ctxdeploy.query import Answer
from ctxdeploy.report import write_answers
from ctxdeploy.report.matches import MOST, draw
from ctxdeploy.runtime import PhotoSource

NOTHING = LocalDescriptors(vectors=np.empty((0, 4), np.float32))


def verification(count: int = 3, box: Box | None = None) -> Verification:
    """A query of half the size of a photo, in which it lies 40 pixels to the right and 10 down."""
    points = np.arange(2 * count, dtype=np.float32).reshape(-1, 2)
    affine = np.array([[0.5, 0.0, 40.0], [0.0, 0.5, 10.0]])
    there = (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)
    return Verification(
        inliers=count,
        affine=affine,
        query_points=points,
        photo_points=there,
        box=box or Box(x0=40, y0=10, x1=140, y1=60),
    )


def test_a_drawing_has_both_photos_at_one_height() -> None:
    drawing = draw(verification(), (200, 100), (300, 600), None)
    assert drawing is not None
    assert drawing.query == (0, 0, 600, 300) and drawing.photo == (608, 0, 150, 300) and drawing.width == 758
    assert drawing.lines[1] == (6.0, 9.0, 608 + 41 / 2, round(11.5 / 2, 1))
    assert drawing.frame == "628.0,5.0 678.0,5.0 678.0,30.0 628.0,30.0" and drawing.part == ""
    part = draw(verification(), (200, 100), (300, 600), Box(x0=100, y0=50, x1=200, y1=100))
    assert part is not None and part.part == "300.0,150.0 600.0,150.0 600.0,300.0 300.0,300.0"
    assert part.frame == "653.0,17.5 678.0,17.5 678.0,30.0 653.0,30.0"
    many = draw(verification(5 * MOST), (200, 100), (300, 600), None)
    assert many is not None and len(many.lines) == MOST and many.matches == 5 * MOST


def test_without_a_map_nothing_is_drawn() -> None:
    none = np.empty((0, 2), np.float32)
    found = Verification(inliers=0, affine=None, query_points=none, photo_points=none, box=None)
    assert draw(found, (200, 100), (300, 600), None) is None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A query, a copy of it among the photos, and two others."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("own.png", "same.png", "other.png"):
        Image.fromarray(random.integers(0, 256, (60, 150, 3), np.uint8)).save(folder / name)
    (tmp_path / "query.png").write_bytes((folder / "own.png").read_bytes())
    return folder


def written(place: Path, hits: list[Hit], read_page: Callable[[Path], Any], **settings: object) -> Any:
    photo = PhotoSource(name="query.png", path=place.with_name("query.png"))
    answer = Answer(photo=photo, box=None, descriptors=NOTHING, hits=hits, **settings)  # type: ignore[arg-type]
    write_answers(place.with_name("page.html"), [answer], place, title="an archive")
    return read_page(place.with_name("page.html"))


def bars(page: Any) -> list[float]:
    return [float(bar.attributes["style"].strip("width: %")) for bar in page.all("i")]


def test_boxes_and_matches_are_drawn(place: Path, read_page: Callable[[Path], Any]) -> None:
    hits = [
        Hit("same.png", 0.02, verification=verification(40), probability=0.999),
        Hit("other.png", 0.001, probability=0.2),
    ]
    page = written(place, hits, read_page, turn=90)
    assert page.texts("h3") == ["Found", "Beyond that nothing is certain; the nearest"]
    assert page.texts("div", "sure") == ["99 % sure, 40 inliers", "20 % sure"]
    assert bars(page) == pytest.approx([99.9, 20.0])
    assert "turned by 90°" in page.one("div", "asked").texts("p")
    (box,) = page.all("rect")
    numbers = [float(box.attributes[key]) for key in ("x", "y", "width", "height")]
    assert numbers == [40, 10, 100, 50]
    assert page.texts("summary") == ["40 matches"] and len(page.all("path")) == 40
    (shared,) = (image for image in page.all("image") if image.attributes.get("id") == "photo-1")
    (use,) = page.all("use")
    assert use.attributes["href"] == "#photo-1" and shared.attributes["href"].startswith("data:image/jpeg")
    assert not page.all("script")


def test_nothing_certain_is_said(place: Path, read_page: Callable[[Path], Any]) -> None:
    page = written(place, [Hit("other.png", 0.001, probability=0.2)], read_page)
    assert page.texts("h3") == ["Nothing certain; the nearest"]
    assert written(place, [Hit("other.png", 0.001)], read_page).texts("h3") == []


def test_the_query_itself_leaves_the_other_bars_visible(place: Path, read_page: Callable[[Path], Any]) -> None:
    hits = [Hit("own.png", 0.26), Hit("same.png", 0.002), Hit("other.png", 0.001)]
    assert bars(written(place, hits, read_page)) == pytest.approx([100, 100, 50])
    assert bars(written(place, hits[:1], read_page)) == pytest.approx([100])


def test_a_page_says_what_is_not_certain(place: Path, read_page: Any) -> None:
    unsure = written(place, [Hit("other.png", 0.001, probability=0.2)], read_page, turn=90, best_probability=0.2)
    assert "most like these when turned by 90°" in unsure.one("div", "asked").texts("p")
    none = written(place, [], read_page, best_probability=0.429)
    assert "the best of what --min-probability leaves out is 42 % sure" in none.one("div", "asked").texts("p")
