"""Commands on a GPU that is a stand-in, computing late and in any order: they find what they find on the CPU."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import Gpu
from ctxdeploy.export.parity import verify


@pytest.fixture
def runtime(load_reference: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return ONNX Runtime with a GPU."""
    return load_reference("fake_onnxruntime").install(monkeypatch, load_reference("fake_cuda").Machine(7))


@pytest.mark.slow
def test_an_archive_is_the_same_as_from_the_cpu(call, bundle: Bundle, photos: Path, tmp_path: Path, runtime) -> None:
    answers = []
    for backend in ("onnxruntime", "cuda"):
        archive = tmp_path / f"{backend}.ctxindex"
        options = ("--model", bundle.path, "--words", 32, "--backend", backend, "--batch-size", 1, "-q")
        result = call("index", photos, "-o", archive, *options)
        assert result.code == 0, result.err
        query = call("query", photos / "coins_0.jpg", "--index", archive, "--backend", backend, "--json")
        assert query.code == 0, query.err
        answers.append([(hit["name"], hit["score"]) for hit in query.json[0]["results"]])
    assert len(answers[0]) > 1 and answers[0] == answers[1]
    assert runtime.runs > 18


def test_graphs_for_onnx_runtime_are_verified_on_a_gpu(
    call, bundle: Bundle, photos: Path, tmp_path: Path, runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own.ctxbundle"
    shutil.copytree(bundle.path, folder)
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.glob("*_0.jpg"))[:3]:
        shutil.copy2(path, few)
    result = call("verify", folder, "--photos", few, "--target", "cuda", "--record", "-q")
    assert result.code == 0, result.err
    assert "cuda fp32: passed; cosine ≥ 1.0" in result.out
    assert "NVIDIA H200" in call("verify", folder, "--photos", few, "--target", "cuda", "--json", "-q").out
    (first,) = bundle.artefacts
    assert f'"target": "{first.target}"' in (folder / "bundle.json").read_text()
    assert '"cuda"' not in (folder / "bundle.json").read_text(), "what is for the CPU keeps its figures"
    monkeypatch.setattr(verify, "gpu_present", lambda number: Gpu(name="NVIDIA H200", capability=(9, 0)))
    found = verify._on_cuda(replace(bundle, artefacts=(first, replace(first, precision="int8"))), None, "auto")
    assert [(one.target, one.precision) for one in found] == [("cuda", "fp32")]
    monkeypatch.setattr(verify, "gpu_present", lambda number: None)
    assert verify._on_cuda(bundle, None, "auto") == [] == verify._on_cuda(bundle, "openvino", "auto")


def test_without_a_gpu_the_command_says_so_in_one_line(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    result = call("index", photos, "-o", tmp_path / "a.ctxindex", "--model", bundle.path, "--backend", "cuda", "-q")
    assert result.code != 0 and not (tmp_path / "a.ctxindex").exists()
    assert result.err.count("\n") == 1 and "there is no NVIDIA driver (libcuda cannot be loaded)" in result.err
