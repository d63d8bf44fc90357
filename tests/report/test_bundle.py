"""The report as a reader's program sees it: every figure, every verdict, nothing from names that could be markup."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.errors import MissingExtraError, StorageError
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.export.parity import TOLERANCES, Agreement, Parity
from ctxdeploy.export.parity.parity import compare_photo
from ctxdeploy.report import write_bundle_report

SCALES = (1.414, 1.0, 0.5)
HOSTILE = "<script>alert('x')</script>&\"$x_1$\x1b[31m\u202egpj"
SHOWN = "<script>alert('x')</script>&\"$x_1$\\x1b[31m\\u202egpj"


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


@pytest.fixture
def written(read_page: Callable[[Path], Any], tmp_path: Path) -> Callable[..., Any]:
    """Write a report, and return its tree."""

    def written(bundle: Bundle, *rejected: Artefact) -> Any:
        write_bundle_report(tmp_path / "report.html", bundle, rejected)
        return read_page(tmp_path / "report.html")

    return written


def test_figures_are_those_of_the_metadata(written: Callable[..., Any], bundle: Bundle) -> None:
    header, fp32, bf16, fp16 = written(bundle).tables()[0]
    assert {len(row) for row in (header, fp32, bf16, fp16)} == {11}
    for row, made in ((fp32, bundle.artefacts[0]), (bf16, bundle.artefacts[1])):
        cells = dict(zip(header[:2], row[:2], strict=True))
        assert cells["artefact"] == f"{made.target} {made.precision} {made.file}"
        assert cells["size in MB"] == "45.7"
        tolerance = made.parity["tolerance"]
        assert row[2] == f"{made.parity['cosine_min']:.5f} ≥ {tolerance['cosine']:g}"
        assert row[3] == f"{made.parity['cosine_p1']:.5f}"
        assert row[4] == f"{made.parity['cosine_mean']:.5f} ≥ {tolerance['cosine_mean']:g}"
        assert row[5] == f"{made.parity['overlap_min']:.5f} ≥ {tolerance['overlap']:g}"
        assert row[9] == f"0.96250 ≥ {tolerance['top_ten']:g}"
    assert fp32[10].startswith("failed: "), "answers in common are below fp32's tolerance"
    assert bf16[10] == "passed"
    assert fp16[2:10] == ["–"] * 8
    assert fp16[10] == "not measured: tensorrt did not run where this was exported"


def test_verdict_of_all(written: Callable[..., Any], bundle: Bundle) -> None:
    (found,) = written(bundle).all("p", "callout")
    assert found.text == "1 of 3 artefacts passed the comparison with PyTorch, 1 failed, 1 not measured."
    assert "bad" in found.classes
    (found,) = written(replace(bundle, artefacts=bundle.artefacts[1:2])).all("p", "callout")
    assert found.text == "1 of 1 artefact passed the comparison with PyTorch."
    assert "good" in found.classes


def test_worst_photos(written: Callable[..., Any], bundle: Bundle) -> None:
    rows = written(bundle).tables()[1][1:]
    assert [row[:4] for row in rows] == [
        [name, photo, "160×48", "90"]
        for name in ("onnxruntime fp32", "openvino bf16")
        for photo in ("bridge.jpg", "dome.jpg")
    ]
    worst = bundle.artefacts[1].parity["photos"][1]
    assert rows[2][5] == f"{worst['cosine_min']:.5f}"


def test_whole_page(written: Callable[..., Any], bundle: Bundle) -> None:
    page = written(bundle)
    assert len(page.all("figure")) == 2
    assert not page.all("img")
    assert page.one("title").text == "Export report: how.ctxbundle"
    assert page.one("h1").text == "how.ctxbundle"
    lead = "family how, architecture resnet18; 90 descriptors of 16 dimensions from 3 scales (1.414, 1, 0.5)"
    assert page.one("header").text.startswith(f"Export report how.ctxbundle {lead}")
    facts = page.facts()
    assert facts["measured with"] == "onnxruntime 1.31.1, CPU: a processor"
    assert facts["gpu"] == "NVIDIA L4"
    assert facts["model id"] == bundle.model_id
    assert facts["checkpoint"] == "how.pth (HOW)"
    assert facts["torch"] == "2.13.0"
    assert facts["smoothing"] == "kind average"
    assert facts["input"].startswith("batch 1 to 8, height ")
    assert bundle.preprocessing.hash in facts["preprocessing"]
    assert {"Cosine against rank", "Error per scale"} <= set(page.texts("h2"))


def test_plots_show_the_measured_artefacts(written: Callable[..., Any], bundle: Bundle, tmp_path: Path) -> None:
    """A line for each in both panels, a marker for each scale, in the table's colours; text takes the page's."""
    page = written(bundle)
    for figure in page.all("figure"):
        plot = figure.all("svg")[0]
        styles = " ".join(element.attributes.get("style", "") for element in plot.all())
        assert "var(--soft)" in styles
        assert all(colour in styles for colour in ("#3b7dd8", "#d9822b"))
        assert figure.one(name="legend").text == "onnxruntime fp32 openvino bf16"
        assert len(figure.one(name="legend").all("svg")) == 2
    assert {"1.414", "1", "0.5"} <= set(page.all("figure")[1].texts("text"))
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(colour in content for colour in ("#010101", "#020202", "#030303"))


def test_rejected(written: Callable[..., Any], bundle: Bundle) -> None:
    bad = artefact(
        Precision.INT8, "openvino", 3.0, details={"kept_fp32": ["backbone.conv1", "backbone.layer1.0.conv2"]}
    )
    page = written(bundle, bad)
    row = page.tables()[0][-1]
    assert row[0] == "openvino int8 model.int8.onnx"
    assert row[10] == f"{bad.parity['verdict']}; rejected"
    assert row[10].startswith("failed: ")
    assert page.facts()["kept fp32"] == "backbone.conv1, backbone.layer1.0.conv2"
    assert page.all("td", "bad")[-1].text == row[10]


def test_long_details_are_folded(written: Callable[..., Any], bundle: Bundle) -> None:
    kept = [f"layer{number}" for number in range(13)]
    ranges = [{"name": "a", "low": 0.1234567, "high": None}, {"name": "b", "fitted": True}]
    made = replace(bundle.artefacts[2], details={"kept": kept, "ranges": ranges, "empty": [], "none": {}})
    page = written(replace(bundle, artefacts=(made,)))
    assert page.one("details").one("summary").text == "13 entries"
    facts = page.facts()
    assert facts["kept"] == f"13 entries{', '.join(kept)}"
    assert facts["ranges"] == "name a, low 0.123457, high none; name b, fitted yes"
    assert facts["empty"] == facts["none"] == "none"


def test_ranking_with_ground_truth(written: Callable[..., Any], bundle: Bundle) -> None:
    ranking = Agreement(photos=40, queries=12, overlap=0.9, reference_map=0.8125, map=0.775).metadata()
    measured = replace(bundle.artefacts[1], parity={**bundle.artefacts[1].parity, "ranking": ranking})
    page = written(replace(bundle, artefacts=(measured,)))
    (cell,) = [cell for cell in page.all("td") if cell.text == "mAP 0.7750 reference 0.8125"]
    assert "bad" in cell.classes, "a drop of 0.0375 is beyond every tolerance"


def test_nothing_was_measured(written: Callable[..., Any], bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    made = replace(bundle.artefacts[2], details={"not_measured": "no GPU"})
    page = written(replace(bundle, artefacts=(made,)))
    assert page.tables()[0][1][10] == "not measured: no GPU"
    assert not page.all("figure")
    assert page.facts()["measured with"] == "nothing was measured"


def test_not_a_number(written: Callable[..., Any], bundle: Bundle) -> None:
    """Figures that are not numbers are null in ``bundle.json``, and failures here."""
    broken = dict(bundle.artefacts[0].parity)
    broken |= {"cosine_min": None, "cosine_p1": None, "cosine_mean": None, "verdict": "failed: no number"}
    broken["by_scale"] = [{**part, "cosine_mean": None, "cosine_min": None} for part in broken["by_scale"]]
    broken["by_rank"] = [{**part, "cosine_mean": None, "cosine_p1": None} for part in broken["by_rank"]]
    broken["photos"] = [{**photo, "cosine_min": None} for photo in broken["photos"]]
    page = written(bundle, replace(bundle.artefacts[0], parity=broken))
    assert page.tables()[0][-1][4].startswith("not a number")


def test_names_are_text(written: Callable[..., Any], bundle: Bundle) -> None:
    measured = parity(Precision.BF16, 0.01, (HOSTILE, "b\udcff.jpg"))
    hostile = artefact(
        Precision.BF16, "openvino", None, parity={**measured, "measured_with": HOSTILE}, details={HOSTILE: [HOSTILE]}
    )
    network = {**bundle.network, HOSTILE: HOSTILE}
    path = bundle.path.with_name(HOSTILE.replace("/", "") + ".ctxbundle")
    made = replace(bundle, path=path, artefacts=(hostile,), network=network, tools={HOSTILE: HOSTILE})
    page = written(made)
    facts, shown = page.facts(), SHOWN.replace("_", " ")
    assert facts["measured with"] == SHOWN
    assert facts[shown] == SHOWN
    assert [row[1] for row in page.tables()[1][1:]].count(SHOWN) == 1
    assert [row[1] for row in page.tables()[1][1:]].count("b\ufffd.jpg") == 1
    assert page.one("h1").text == SHOWN.replace("/", "") + ".ctxbundle"


def test_same_input_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    write_bundle_report(tmp_path / "a.html", bundle)
    write_bundle_report(tmp_path / "b.html", bundle)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("count", [1, 12])
def test_any_number_of_artefacts(written: Callable[..., Any], bundle: Bundle, count: int) -> None:
    kinds = [(p, t) for t in ("onnxruntime", "openvino", "tensorrt") for p in Precision][:count]
    rows = written(replace(bundle, artefacts=tuple(artefact(p, t, 0.01) for p, t in kinds))).tables()[0]
    assert len(rows) == count + 1
    assert [row[1] for row in rows[1:]] == ["45.7"] * count


def test_file_that_cannot_be_written(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="--report"):
        write_bundle_report(tmp_path / "no" / "report.html", bundle)
    (tmp_path / "report.html").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="--report"):
        write_bundle_report(tmp_path / "folder", bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "report.html"]


def test_without_matplotlib(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"\[export\]"):
        write_bundle_report(tmp_path / "report.html", bundle)
    assert not list(tmp_path.iterdir())
