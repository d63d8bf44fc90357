"""``ctxdeploy diff`` on a bundle, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ctxdeploy.core.bundle import Bundle


@pytest.fixture
def changed(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle's graph with other weights in one convolution."""
    model = onnx.load(bundle.path / "model.onnx")
    for value in model.graph.initializer:
        if value.name == "backbone.layer2.1.conv1.weight":
            array = numpy_helper.to_array(value)
            noise = np.random.default_rng(0).normal(size=array.shape).astype(np.float32) * array.std() * 0.1
            value.CopyFrom(numpy_helper.from_array(array + noise, value.name))
    onnx.save(model, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


def test_same(call: Callable[..., Any], bundle: Bundle) -> None:
    """A bundle and its own graph agree, in 96 pixels of a sample photo."""
    result = call("diff", bundle.path, bundle.path / "model.onnx", "--image-size", 96, "--threads", 2, "-q")
    assert (result.code, result.err) == (0, "")
    assert "no layer exceeds the tolerance" in result.out
    assert "photo of 96×64" in result.out
    header = next(line for line in result.out.splitlines() if line.startswith("layer, by scale"))
    assert header.split()[3:] == ["–", "1", "0.707"]
    assert any(line.startswith("backbone.layer3.1.conv2 ") for line in result.out.splitlines())


def test_changed_weight(call: Callable[..., Any], bundle: Bundle, changed: Path, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    photo = photos / "coffee_0.jpg"
    options = ("--image-size", 96, "--threads", 2, "--photo", photo, "--html", page, "--json", "-q")
    result = call("diff", bundle.path, changed, *options)
    assert result.code == 11
    assert "diverge first at backbone.layer2.1.conv1 (Conv " in result.err
    assert result.err.count("\n") == 1
    (found,) = result.json
    assert found["diverged"]
    assert (found["first"]["layer"], found["first"]["op"], found["first"]["scale"]) == (
        "backbone.layer2.1.conv1",
        "Conv",
        0,
    )
    assert found["jump"]["layer"] == "backbone.layer2.1.conv1"
    assert found["scales"] == ["1", "0.707"]
    assert found["outputs"]["cosine_mean"] < 0.9999
    assert "<svg" in page.read_text(encoding="utf-8")
    assert json.dumps(found)


def test_tolerance(call: Callable[..., Any], bundle: Bundle, changed: Path) -> None:
    result = call("diff", bundle.path, changed, "--image-size", 64, "--threads", 2, "--tolerance", 0.9, "-q")
    assert result.code == 0
    assert "tolerance 0.9" in result.out
    assert "largest growth: backbone.layer2.1.conv1" in result.out


def test_two_runtimes(call: Callable[..., Any], bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    result = call("diff", bundle.path, bundle.path, "--backend-b", "openvino", "--image-size", 64, "--threads", 2, "-q")
    assert result.code == 0
    assert f"B: {bundle.path} (openvino)" in result.out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--backend-b", "onnxruntime", "--precision-b", "bf16"), 2, "BUNDLE:bf16"),
        (("--tolerance", "-1"), 2, "--tolerance"),
        (("--threads", "0"), 2, "--threads"),
        (("--photo", "nothing.jpg"), 14, "nothing.jpg"),
        (("--backend-a", "tensorrt"), 2, "tensorrt"),
    ],
)
def test_mistakes(call: Callable[..., Any], bundle: Bundle, options: tuple[str, ...], code: int, words: str) -> None:
    result = call("diff", bundle.path, bundle.path, *options)
    assert (result.code, result.out) == (code, "")
    assert words in result.err


def test_precision_that_is_not_there(call: Callable[..., Any], bundle: Bundle) -> None:
    result = call("diff", bundle.path, f"{bundle.path}:int8")
    assert result.code == 12
    assert "no ONNX graph of precision int8, only fp32" in result.err


def test_nothing_there(call: Callable[..., Any], bundle: Bundle, tmp_path: Path) -> None:
    result = call("diff", bundle.path, tmp_path / "nothing.onnx")
    assert result.code == 2
    assert "does not exist" in result.err
