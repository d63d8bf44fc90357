"""Commands on a GPU that is a stand-in, computing late and in any order: they find what they find on the CPU."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import gpu_present


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
    call, bundle: Bundle, photos: Path, tmp_path: Path, runtime
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


def test_without_a_gpu_the_command_says_so_in_one_line(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    result = call("index", photos, "-o", tmp_path / "a.ctxindex", "--model", bundle.path, "--backend", "cuda", "-q")
    assert result.code == 13 and not (tmp_path / "a.ctxindex").exists()
    assert result.err == (
        "ctxdeploy: error: --backend cuda: there is no NVIDIA driver (libcuda cannot be loaded): run this where the "
        "GPU is, or give --backend onnxruntime\n"
    )


@pytest.mark.skipif(gpu_present() is not None, reason="there is a GPU")
def test_verify_of_what_cannot_run_here_ends_as_other_commands_do(
    call, bundle: Bundle, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call("verify", bundle.path, "--photos", photos, "--target", "cuda", "-q")
    assert result.code == 13 and "cuda fp32: cannot run here: --target cuda: there is no NVIDIA driver" in result.out
    assert result.err.startswith("ctxdeploy: error: --target cuda: ") and result.err.count("\n") == 1
    assert result.err.endswith(", or give --target onnxruntime\n")
    monkeypatch.setitem(sys.modules, "openvino", None)
    other = replace(bundle, artefacts=(replace(bundle.artefacts[0], target="openvino"),))
    monkeypatch.setattr(bundles, "open", lambda path, **options: other)
    result = call("verify", bundle.path, "--photos", photos, "--target", "openvino", "-q")
    assert result.code == 3 and "openvino is not installed: run  pip install" in result.err


@pytest.mark.parametrize("target", [(), ("--target", "onnxruntime")])
def test_a_gpu_that_is_asked_for_is_not_replaced_by_the_cpu_in_verify(
    call, bundle: Bundle, photos: Path, target: tuple[str, ...]
) -> None:
    result = call("verify", bundle.path, "--photos", photos, "--device", "cuda:99", *target, "-q")
    assert result.code == 13 and result.out == ""
    assert result.err.startswith("ctxdeploy: error: --device cuda:99: ") and result.err.count("\n") == 1
