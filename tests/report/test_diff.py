"""The page and the lines of a comparison, made of a comparison that was not run: no graph is needed."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import MissingExtraError, StorageError
from ctxdeploy.export.diff import Diff, LayerError
from ctxdeploy.export.diff.layers import Tensor
from ctxdeploy.export.diff.sides import Distance
from ctxdeploy.report import diff_lines, write_diff

HOSTILE = "<b>$x_1$\x1b[31m\u202e.onnx"
SHOWN = "<b>$x_1$\\x1b[31m\\u202e.onnx"


def layer(name: str, scale: int | None, error: float, shape: tuple[int, ...] = (1, 4, 8, 8)) -> LayerError:
    found = Distance(error=error, max_abs=error, cosine=0.9, nonfinite=(0, 0))
    tensor = Tensor(name=f"{name}_out", layer=name, op="Conv", scale=scale, occurrence=0)
    return LayerError(tensor=tensor, shapes=((1, 4, 8, 8), shape), distance=found, added=error)


@pytest.fixture
def found() -> Diff:
    layers = (
        layer("sizes", None, 0.0),
        layer("conv1", 0, 1e-6),
        layer("conv1", 0, 3e-6),
        layer("conv1", 1, 0.25),
        layer("whiten", 0, math.inf),
        layer("whiten", 1, 0.0, (1, 4, 7, 8)),
    )
    return Diff(
        a="a.onnx",
        b="b.onnx",
        shape=(40, 60),
        tolerance=1e-3,
        layers=layers,
        outputs=None,
        only_a=("refinement",),
        scales=("1.5", "1"),
    )


def test_page(found: Diff, read_page: Callable[[Path], Any], tmp_path: Path) -> None:
    write_diff(tmp_path / "page.html", found)
    page = read_page(tmp_path / "page.html")
    assert page.one("p", "callout").text == found.verdict()
    assert "bad" in page.one("p", "callout").classes
    assert "only in A: refinement" in page.texts("p")
    facts = page.facts()
    assert (facts["A"], facts["B"], facts["compared on"]) == ("a.onnx", "b.onnx", "photo of 60×40, 6 values")
    assert "tolerance 0.001" in facts["figures"]
    assert page.tables() == [
        [
            ["layer", "–", "× 1.5", "× 1"],
            ["sizes", "0", "", ""],
            ["conv1", "", "3.0e-06", "2.5e-01"],
            ["whiten", "", "infinite", "shape"],
        ]
    ]
    assert page.texts("td", "bad") == ["2.5e-01", "infinite"]
    plot = page.one("figure").one("svg")
    assert plot.attributes["aria-label"] == "error along the graph"
    assert {"conv1", "whiten", "1.5"} <= set(plot.texts("text")) and "sizes" not in plot.texts("text")


def test_agreement(found: Diff, read_page: Callable[[Path], Any], tmp_path: Path) -> None:
    write_diff(tmp_path / "page.html", replace(found, layers=found.layers[:3], only_a=()))
    page = read_page(tmp_path / "page.html")
    assert page.one("p", "callout").text == "no layer exceeds the tolerance"
    assert "good" in page.one("p", "callout").classes
    assert not page.all("td", "bad")


def test_lines(found: Diff) -> None:
    lines = diff_lines(replace(found, a=HOSTILE))
    assert lines[0] == f"A: {SHOWN}"
    assert lines[2] == "photo of 60×40, 6 values; relative L2 error of B, tolerance 0.001 (* above it)"
    assert [line.split() for line in lines[5:8]] == [
        ["sizes", "0"],
        ["conv1", "3.0e-06", "2.5e-01*"],
        ["whiten", "infinite*", "shape"],
    ]
    assert "only in A: refinement" in lines


def test_names_are_text(found: Diff, read_page: Callable[[Path], Any], tmp_path: Path) -> None:
    hostile = replace(found, b=HOSTILE, layers=(*found.layers, layer(HOSTILE, 0, 0.5)))
    write_diff(tmp_path / "page.html", hostile)
    page = read_page(tmp_path / "page.html")
    assert not page.all("b")
    assert page.facts()["B"] == SHOWN
    assert page.tables()[0][-1][0] == SHOWN
    assert SHOWN in page.one("figure").texts("text")


def test_same_input_same_bytes(found: Diff, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_diff(tmp_path / name, found)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_file_that_cannot_be_written(found: Diff, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="choose another --html"):
        write_diff(tmp_path / "no" / "page.html", found)


def test_without_matplotlib(found: Diff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"\[export\]"):
        write_diff(tmp_path / "page.html", found)
