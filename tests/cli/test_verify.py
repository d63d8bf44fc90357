"""``verify --photos``: a bundle's artefacts on the user's machine, against its fp32 graph or its checkpoint."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.files import file_sha256


@pytest.fixture
def several(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of ``bundle`` with two artefacts more: the graph in OpenVINO, and one that computes something else."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "several.ctxbundle"
    shutil.copytree(bundle.path, folder)
    graph = onnx.load(str(folder / "model.onnx"))
    largest = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(largest.raw_data, np.float32).copy()
    values[::5] *= -1
    largest.raw_data = values.tobytes()
    onnx.save_model(graph, str(folder / "model.fp16.onnx"))
    (first,) = bundle.artefacts
    wrong = replace(
        first,
        file="model.fp16.onnx",
        precision="fp16",
        sha256=file_sha256(folder / "model.fp16.onnx"),
        bytes=(folder / "model.fp16.onnx").stat().st_size,
        parity={},
    )
    made = replace(bundle, path=folder, artefacts=(first, replace(first, target="openvino", parity={}), wrong))
    made.write_manifest()
    return made


def test_every_artefact_is_compared_and_a_wrong_one_found(call, several: Bundle, photos: Path) -> None:
    result = call("verify", several.path, "--photos", photos, "--json", "-q")
    assert result.code == 11
    assert "onnxruntime fp16 failed: cosine min" in result.err
    found = {(a["target"], a["precision"]): a["parity"] for a in result.json[0]["artefacts"]}
    assert found.keys() == {("openvino", "fp32"), ("onnxruntime", "fp16")}
    assert found["openvino", "fp32"]["verdict"] == "passed"
    assert found["openvino", "fp32"]["reference"].startswith("onnxruntime")
    assert found["openvino", "fp32"]["ranking"]["photos"] == 18
    assert found["onnxruntime", "fp16"]["verdict"].startswith("failed")


@pytest.mark.slow
def test_figures_are_recorded_on_request(call, several: Bundle, photos: Path) -> None:
    only = ("--target", "openvino", "-q")
    result = call("verify", several.path, "--photos", photos, *only)
    assert result.code == 0, result.err
    assert "openvino fp32: passed; cosine ≥ " in result.out
    assert ctxdeploy.core.bundle.open(several.path).artefacts[1].parity == {}
    assert call("verify", several.path, "--photos", photos, *only, "--record").code == 0
    recorded = ctxdeploy.core.bundle.open(several.path)
    assert recorded.artefacts[1].parity["verdict"] == "passed"
    assert recorded.artefacts[0] == several.artefacts[0] and recorded.artefacts[2] == several.artefacts[2]


def test_figures_against_itself_are_named_so_and_not_recorded(call, bundle: Bundle, photos: Path, tmp_path) -> None:
    folder = tmp_path / "alone.ctxbundle"
    shutil.copytree(bundle.path, folder)
    manifest = (folder / "bundle.json").read_bytes()
    result = call("verify", folder, "--photos", photos, "--record", "-q")
    assert result.code == 0, result.err
    assert "compared with itself: give --checkpoint FILE to compare it with PyTorch" in result.out
    assert ctxdeploy.core.bundle.open(folder).artefacts == bundle.artefacts
    assert json.loads((folder / "bundle.json").read_text()) == json.loads(manifest)


def test_ground_truth_of_other_photos_does_not_spare_the_retrieval_run(
    call, several: Bundle, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(photos, folder / "images")
    (folder / "gnd.json").write_text('{"scenes": {"elsewhere": ["a.jpg", "b.jpg"]}}')
    result = call("verify", several.path, "--photos", folder / "images", "--target", "openvino", "--json", "-q")
    assert result.code == 0, result.err
    ranking = result.json[0]["artefacts"][0]["parity"]["ranking"]
    assert (ranking["kind"], ranking["photos"]) == ("overlap", 18)


@pytest.mark.slow
def test_the_checkpoint_is_the_reference_on_request(call, bundle: Bundle, checkpoint: Path, photos: Path) -> None:
    arguments = ("--photos", photos, "--checkpoint", checkpoint, "--json", "-q")
    result = call("verify", bundle.path, *arguments)
    assert result.code == 0, result.err
    (artefact,) = result.json[0]["artefacts"]
    assert artefact["parity"]["reference"] == "PyTorch fp32, CPU"
    assert artefact["parity"]["cosine_min"] > 0.9999


def test_ground_truth_beside_the_photos_gives_a_mean_average_precision(
    call, bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(photos, folder / "images")
    names = sorted(path.name for path in photos.iterdir())
    scenes: dict[str, list[str]] = {}
    for name in names:
        scenes.setdefault(name.rpartition("_")[0], []).append(name)
    (folder / "gnd.json").write_text(json.dumps({"scenes": scenes, "junk_pairs": []}))
    result = call("verify", bundle.path, "--photos", folder / "images", "--json", "-q")
    assert result.code == 0, result.err
    ranking = result.json[0]["artefacts"][0]["parity"]["ranking"]
    assert (ranking["kind"], ranking["queries"]) == ("map", 18)
    assert ranking["map"] == ranking["reference_map"] and ranking["map"] > 0.4
    (folder / "gnd.json").write_text('{"scenes": 5}')
    result = call("verify", bundle.path, "--photos", folder / "images", "-q")
    assert result.code == 2 and "is not a ground truth in minibench's form" in result.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--target", "openvino"), 2, "need photos to run: give --photos DIR"),
        (
            ("--photos", "PHOTOS", "--precision", "int8"),
            12,
            "no artefact for --precision int8, only onnxruntime fp32",
        ),
        (("--photos", "PHOTOS", "--checkpoint", "OTHER"), 10, "is not the checkpoint that made"),
        (("--photos", "ARCHIVE"), 2, "ARCHIVE is not a folder"),
    ],
)
def test_mistakes(call, bundle: Bundle, checkpoint: Path, photos: Path, tmp_path: Path, options, code, message) -> None:
    import torch

    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["dim_reduction.bias"] += 1
    torch.save(content, tmp_path / "other.pth")
    places = {"PHOTOS": photos, "OTHER": tmp_path / "other.pth"}
    result = call("verify", bundle.path, *(places.get(option, option) for option in options), "-q")
    assert result.code == code
    assert message in result.err and len(result.err.splitlines()) == 1
