"""The report as a reader's program sees it: every figure, every verdict, nothing from names that could be markup."""

import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.errors import MissingExtraError, StorageError
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.export.parity import TOLERANCES, Agreement, Parity
from ctxdeploy.export.parity.parity import compare_photo
from ctxdeploy.report.bundle_page import write_report

SCALES = (1.414, 1.0, 0.5)
HOSTILE = "<script>alert('x')</script>&\"$x_1$.jpg"
VOID = {"meta", "br", "path", "circle", "rect"}


def outputs(noise: float, seed: int) -> Any:
    """Return 90 descriptors on a grid over three scales, strongest first, with relative noise."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(90, 16)).astype(np.float32)
    places = np.stack(np.meshgrid(np.arange(10), np.arange(3)), axis=-1).reshape(-1, 2) * 16.0 + 8
    positions = np.tile(places, (3, 1)).astype(np.float32)
    scales = np.repeat(np.array(SCALES, np.float32), 30)
    attention = np.linspace(1, 0.1, 90, dtype=np.float32)
    vectors = vectors + noise * np.random.default_rng(9).normal(size=vectors.shape).astype(np.float32)
    return vectors[None], attention[None], positions[None], scales[None]


def parity(precision: Precision, noise: float, names: tuple[str, ...] = ("dome.jpg", "bridge.jpg")) -> dict[str, Any]:
    image = np.zeros((48, 160, 3), np.uint8)
    photos = [compare_photo(n, image, outputs(0, i), outputs(noise * (i + 1), i)) for i, n in enumerate(names)]
    return Parity(
        photos=tuple(photos),
        tolerance=TOLERANCES[precision],
        ranking=Agreement(photos=40, queries=40, overlap=0.9625),
        measured_with="onnxruntime 1.31.1, CPU: a processor",
        seconds=0.125,
        reference_seconds=0.5,
    ).metadata()


def artefact(precision: Precision, target: str, noise: float | None, **settings: Any) -> Artefact:
    fixed: dict[str, Any] = {"file": precision.file, "sha256": "0" * 64, "bytes": 45_678_901, "format": "onnx"}
    measured = {} if noise is None else parity(precision, noise)
    return Artefact(**{**fixed, "parity": measured, **settings}, precision=precision.label, target=target)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(
        path=tmp_path / "how.ctxbundle",
        network={"family": "how", "architecture": "resnet18", "skip_layer": 1, "smoothing": {"kind": "average"}},
        source={"file": "how.pth", "sha256": "1" * 64, "format": "HOW", "weights_sha256": "2" * 64},
        preprocessing=Preprocessing(image_size=640),
        extraction=Extraction(scales=SCALES, top_k=90, dim=16),
        shapes=ShapeRange(batch=(1, 8)),
        artefacts=(
            artefact(Precision.FP32, "onnxruntime", 1e-5),
            artefact(Precision.BF16, "openvino", 0.01, file="model.onnx"),
            artefact(Precision.FP16, "tensorrt", None, details={"gpu": "NVIDIA L4"}),
        ),
        tools={"ctxdeploy": "0.1.0", "torch": "2.13.0"},
    )


class Reader(HTMLParser):
    """Collects tables as lists of cells, and checks that every element is closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.classes: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert self._open == [], "elements that are not closed"

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self._started(tag, attrs)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._started(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def _started(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.classes += [dict(attrs).get("class", "")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self._open) and "style" not in self._open:
            self.tables[-1][-1][-1] += data


def written(tmp_path: Path, bundle: Bundle, *rejected: Artefact) -> Reader:
    write_report(tmp_path / "report.html", bundle, rejected)
    return Reader(
        (tmp_path / "report.html").read_text(encoding="utf-8").replace('<html lang="en">', "").replace("</html>", "")
    )


def test_figures_are_those_of_the_metadata(bundle: Bundle, tmp_path: Path) -> None:
    page = written(tmp_path, bundle)
    header, reference, fp32, bf16, fp16 = page.tables[0]
    assert len({len(row) for row in page.tables[0]}) == 1
    assert reference[:4] == ["PyTorch fp32, CPU", "–", "0.500", "1.0"]
    for row, made in ((fp32, bundle.artefacts[0]), (bf16, bundle.artefacts[1])):
        cells = dict(zip(header[:4], row[:4], strict=True))
        assert cells["artefact"].strip() == f"{made.target} {made.precision}{made.file}"
        assert (cells["size in MB"], cells["seconds a photo"], cells["times the reference"]) == ("45.7", "0.125", "4.0")
        tolerance = made.parity["tolerance"]
        assert row[4] == f"{made.parity['cosine_min']:.5f}≥ {tolerance['cosine']:g}"
        assert row[5] == f"{made.parity['cosine_p1']:.5f}"
        assert row[6] == f"{made.parity['cosine_mean']:.5f}≥ {tolerance['cosine_mean']:g}"
        assert row[7] == f"{made.parity['overlap_min']:.5f}≥ {tolerance['overlap']:g}"
        assert row[11] == f"0.96250≥ {tolerance['top_ten']:g}"
    assert fp32[12].startswith("failed: "), "answers in common are below fp32's tolerance"
    assert bf16[12] == "passed"
    assert fp16[4:12] == ["–"] * 8
    assert fp16[12] == "not measured: tensorrt did not run where this was exported"


def test_worst_photos(bundle: Bundle, tmp_path: Path) -> None:
    page = written(tmp_path, bundle)
    rows = page.tables[1][1:]
    assert [row[:4] for row in rows] == [
        [name, photo, "160×48", "90"]
        for name in ("onnxruntime fp32", "openvino bf16")
        for photo in ("bridge.jpg", "dome.jpg")
    ]
    worst = bundle.artefacts[1].parity["photos"][1]
    assert rows[2][5] == f"{worst['cosine_min']:.5f}"


def test_whole_page(bundle: Bundle, tmp_path: Path) -> None:
    page = written(tmp_path, bundle)
    assert page.tags.count("figure") == 2
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [v for n, v in page.attributes if n in ("src", "href", "xlink:href") and not v.startswith("#")]
    for words in (
        "Export report: how.ctxbundle",
        "family how, architecture resnet18",
        "90 descriptors of 16 dimensions from 3 scales (1.414, 1, 0.5)",
        "onnxruntime 1.31.1, CPU: a processor",
        "NVIDIA L4",
        bundle.model_id,
        bundle.preprocessing.hash,
        "how.pth (HOW)",
        "2.13.0",
        "Cosine against rank",
        "Error per scale",
    ):
        assert words in page.text


def test_plots_show_the_measured_artefacts(bundle: Bundle, tmp_path: Path) -> None:
    """A line for each in both panels, a marker for each scale, in the table's colours; text takes the page's."""
    write_report(tmp_path / "report.html", bundle)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    ranks, scales = (part.partition("</figure>")[0] for part in content.split("<figure>")[1:])
    assert "var(--soft)" in ranks
    assert not {"#010101", "#020202", "#030303"} & set(ranks.replace(";", " ").split())
    for plot in (ranks, scales):
        assert plot.count('class="key"') == 2
        for colour in ("#3b7dd8", "#d9822b"):
            assert colour in plot.partition("<figcaption>")[0]
    for scale in ("1.414", ">1<", "0.5"):
        assert scale in scales


def test_rejected(bundle: Bundle, tmp_path: Path) -> None:
    bad = artefact(
        Precision.INT8, "openvino", 3.0, details={"kept_fp32": ["backbone.conv1", "backbone.layer1.0.conv2"]}
    )
    page = written(tmp_path, bundle, bad)
    row = page.tables[0][-1]
    assert row[0].strip() == "openvino int8model.int8.onnx"
    assert row[12] == f"{bad.parity['verdict']}; rejected"
    assert row[12].startswith("failed: ")
    assert "kept fp32" in page.text
    assert "backbone.conv1, backbone.layer1.0.conv2" in page.text
    assert "bad" in page.classes


def test_ranking_with_ground_truth(bundle: Bundle, tmp_path: Path) -> None:
    ranking = Agreement(photos=40, queries=12, overlap=0.9, reference_map=0.8125, map=0.775).metadata()
    measured = replace(bundle.artefacts[1], parity={**bundle.artefacts[1].parity, "ranking": ranking})
    page = written(tmp_path, replace(bundle, artefacts=(measured,)))
    assert page.tables[0][2][11] == "mAP 0.7750reference 0.8125"
    assert "bad" in page.classes, "a drop of 0.0375 is beyond every tolerance"


def test_nothing_was_measured(bundle: Bundle, tmp_path: Path) -> None:
    made = replace(bundle.artefacts[2], details={"not_measured": "no GPU"})
    page = written(tmp_path, replace(bundle, artefacts=(made,)))
    assert page.tables[0][1][12] == "not measured: no GPU"
    assert "figure" not in page.tags
    assert "nothing was measured" in page.text


def test_not_a_number(bundle: Bundle, tmp_path: Path) -> None:
    """Figures that are no numbers are null in ``bundle.json``, and failures here."""
    broken = dict(bundle.artefacts[0].parity)
    broken |= {"cosine_min": None, "cosine_p1": None, "cosine_mean": None, "verdict": "failed: no number"}
    broken["by_scale"] = [{**part, "cosine_mean": None, "cosine_min": None} for part in broken["by_scale"]]
    broken["by_rank"] = [{**part, "cosine_mean": None, "cosine_p1": None} for part in broken["by_rank"]]
    broken["photos"] = [{**photo, "cosine_min": None} for photo in broken["photos"]]
    page = written(tmp_path, bundle, replace(bundle.artefacts[0], parity=broken))
    assert page.tables[0][-1][4].startswith("not a number")


def test_names_are_text(bundle: Bundle, tmp_path: Path) -> None:
    measured = parity(Precision.BF16, 0.01, (HOSTILE, "b\udcff.jpg"))
    hostile = artefact(
        Precision.BF16, "openvino", None, parity={**measured, "measured_with": HOSTILE}, details={HOSTILE: [HOSTILE]}
    )
    network = {**bundle.network, HOSTILE: HOSTILE}
    page = written(tmp_path, replace(bundle, artefacts=(hostile,), network=network, tools={HOSTILE: HOSTILE}))
    assert "script" not in page.tags
    assert page.text.count("alert('x')") >= 6
    assert any(row[1] == HOSTILE for row in page.tables[1])
    assert any(row[1] == "b?.jpg" for row in page.tables[1])


def test_same_input_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", bundle)
    write_report(tmp_path / "b.html", bundle)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("count", [1, 12])
def test_any_number_of_artefacts(bundle: Bundle, tmp_path: Path, count: int) -> None:
    kinds = [(p, t) for t in ("onnxruntime", "openvino", "tensorrt") for p in Precision][:count]
    made = tuple(artefact(p, t, 0.01) for p, t in kinds)
    page = written(tmp_path, replace(bundle, artefacts=made))
    assert len(page.tables[0]) == count + 2
    assert page.text.count("0.125") == count


def test_file_that_cannot_be_written(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="--report"):
        write_report(tmp_path / "no" / "report.html", bundle)
    (tmp_path / "report.html").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="--report"):
        write_report(tmp_path / "folder", bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "report.html"]


def test_without_matplotlib(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"ctxdeploy\[export\]"):
        write_report(tmp_path / "report.html", bundle)
    assert not list(tmp_path.iterdir())
