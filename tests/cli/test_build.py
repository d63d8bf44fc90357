"""``ctxdeploy build``: engines into a bundle, by a stand-in for TensorRT, and by TensorRT-RTX where it is installed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ctxdeploy.core.bundle
from ctxdeploy.export.tensorrt import publish
from ctxdeploy.runtime.backends import BackendConfig, open_backend

Call = Callable[..., Any]


@pytest.fixture
def fake(load_reference: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: ModuleType = load_reference("trt/fake_tensorrt")
    module.install(monkeypatch, module)
    return module


@pytest.fixture
def own(load_reference: Any, tmp_path: Path) -> Path:
    """A bundle with a small graph, listed as fp32 and as fp16."""
    folder = tmp_path / "own.ctxbundle"
    load_reference("trt/tiny_bundle").write(folder)
    return folder


def engines(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.name.startswith("engine"))


def test_engines_are_built_into_the_bundle_and_run(call: Call, own: Path, fake: ModuleType) -> None:
    before = ctxdeploy.core.bundle.open(own)
    done = call("build", own, "--target", "tensorrt", "--precision", "fp32", "--precision", "fp16", "--max-batch", 2)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 2 and "measure it with  ctxdeploy verify" in done.out
    after = ctxdeploy.core.bundle.open(own)
    assert after.model_id == before.model_id
    assert after.artefacts[:2] == before.artefacts
    built = after.artefacts[2:]
    assert [(a.format, a.target, a.precision, dict(a.parity)) for a in built] == [
        ("engine", "tensorrt", "fp32", {}),
        ("engine", "tensorrt", "fp16", {}),
    ]
    assert sorted(a.file for a in built) == engines(own)
    for artefact in built:
        assert artefact.file.startswith(f"engine-{artefact.precision}-") and artefact.file.endswith(".plan")
        assert artefact.details["key"]["gpu"] == "NVIDIA H200"
        assert artefact.details["graph"]["sha256"] == before.artefact().sha256
    backend = open_backend(after, BackendConfig(name="tensorrt", precision="fp16"))
    assert backend.precision == "fp16"


def test_info_names_the_shapes_that_an_engine_is_tuned_for(call: Call, own: Path, fake: ModuleType) -> None:
    done = call("build", own, "--target", "tensorrt", "--max-batch", 2)
    assert done.code == 0, done.err
    profiles = ctxdeploy.core.bundle.open(own).artefacts[-1].details["key"]["options"]["profiles"]
    lines = [line.strip() for line in call("info", own).out.splitlines()]
    at = lines.index(f"profiles: {len(profiles)}")
    shown = [", ".join(f"{k} {'×'.join(map(str, p[k]))}" for k in ("low", "typical", "high")) for p in profiles]
    assert len(profiles) > 1 and lines[at + 1 : at + 1 + len(profiles)] == shown


def test_a_precision_that_a_runtime_lacks_is_refused_with_the_options_of_build(call: Call, own: Path) -> None:
    done = call("build", own, "--target", "tensorrt-rtx", "--precision", "fp8")
    assert done.code == 2 and "--target tensorrt-rtx has no --precision fp8: use --precision " in done.err
    assert done.err.endswith(", or --target tensorrt\n") and "--backend" not in done.err


def test_openvinos_bf16_is_no_graph_of_bf16(call: Call, own: Path, fake: ModuleType) -> None:
    opened = ctxdeploy.core.bundle.open(own)
    hinted = replace(opened.artefact(), target="openvino", precision="bf16")
    replace(opened, artefacts=(*opened.artefacts, hinted)).write_manifest()
    done = call("build", own, "--target", "tensorrt", "--precision", "bf16")
    assert done.code == 12 and "has no bf16 graph to build TensorRT from, only fp32, fp16" in done.err


def test_a_graph_for_the_same_runtime_stays(call: Call, own: Path, fake: ModuleType) -> None:
    opened = ctxdeploy.core.bundle.open(own)
    graph = replace(opened.artefact(), target="tensorrt")
    replace(opened, artefacts=(*opened.artefacts, graph)).write_manifest()
    for _ in range(2):
        done = call("build", own, "--target", "tensorrt", "--json")
        assert done.code == 0 and done.json[0]["file"].endswith(".plan")
    built = [a for a in ctxdeploy.core.bundle.open(own).artefacts if a.target == "tensorrt"]
    assert [a.format for a in built] == ["onnx", "engine"]


def test_a_rebuilt_engine_replaces_the_old_one(call: Call, own: Path, fake: ModuleType) -> None:
    arguments = ("build", own, "--target", "tensorrt")
    assert call(*arguments).code == 0
    (first,) = engines(own)
    assert call(*arguments, "--tf32").code == 0
    (second,) = engines(own)
    assert second != first, "another key, another name"
    opened = ctxdeploy.core.bundle.open(own)
    assert [a.file for a in opened.artefacts if a.format == "engine"] == [second]
    assert not [file for file in own.iterdir() if file.name.startswith(".")]


def test_builds_that_differ_under_one_key_do_not_touch_each_others_file(
    call: Call, own: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fake.plan
    arguments = ("build", own, "--target", "tensorrt", "--json")
    names = []
    for timing in range(3):
        monkeypatch.setattr(fake, "plan", lambda *a, t=timing, **k: real(*a, timing=t, **k))
        done = call(*arguments)
        names.append(json.loads(done.out)["file"])
        assert engines(own) == [names[-1]]
        ctxdeploy.core.bundle.open(own)
    assert len(set(names)) >= 2
    assert call(*arguments).json[0]["file"] == names[-1], "the same bytes stay"
    ctxdeploy.core.bundle.open(own)


@pytest.mark.parametrize("step", ["_write_plan", "write_manifest"])
def test_a_bundle_stays_whole_when_writing_fails(
    call: Call, own: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    assert call("build", own, "--target", "tensorrt").code == 0
    before = ctxdeploy.core.bundle.open(own)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish if step == "_write_plan" else ctxdeploy.core.bundle.Bundle, step, full)
    done = call("build", own, "--target", "tensorrt", "--tf32")
    assert done.code == 18 and "cannot be written: No space left on device" in done.err
    assert ctxdeploy.core.bundle.open(own).artefacts == before.artefacts


def test_a_disk_that_is_full_leaves_no_piece_of_an_engine(
    call: Call, own: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    files = sorted(file.name for file in own.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    assert call("build", own, "--target", "tensorrt").code == 18
    assert sorted(file.name for file in own.iterdir()) == files


def test_an_engine_of_another_gpu_is_refused_and_built_anew(
    call: Call, own: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxdeploy.core.errors import BackendError

    assert call("build", own, "--target", "tensorrt").code == 0
    fake.install(monkeypatch, fake, name="NVIDIA L4", capability=(8, 9))
    with pytest.raises(BackendError) as caught:
        open_backend(ctxdeploy.core.bundle.open(own), BackendConfig(name="tensorrt"))
    command = str(caught.value).rpartition("run  ctxdeploy ")[2].split()
    assert call(*command).code == 0
    outputs = open_backend(ctxdeploy.core.bundle.open(own), BackendConfig(name="tensorrt"))
    assert outputs.device == "GPU: NVIDIA L4 (8.9)"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "tensorrt", "--precision", "int8"), 12, "has no int8 graph to build TensorRT from, only fp32, "
         "fp16: run  ctxdeploy export CHECKPOINT --precision int8"),
        (("--target", "tensorrt-rtx", "--timing-cache", "t"), 2, "--target tensorrt-rtx has no --timing-cache"),
        (("--target", "tensorrt", "--typical", "768x1024"), 2, "such as 1x768x1024"),
        (("--target", "tensorrt", "--typical", "1x768x1024"), 2, "height 768 is outside the engine's 1..256"),
        (("--target", "tensorrt", "--workspace", "0"), 2, "--workspace 0 is too small: give 1 or more (MiB)"),
        (("--target", "tensorrt", "--optimisation-level", "9"), 2, "--optimisation-level 9 is outside 0..5"),
        (("--target", "openvino"), 2, "'openvino' is not one of 'tensorrt', 'tensorrt-rtx'"),
        ((), 2, "Missing option '--target'. Choose from: tensorrt, tensorrt-rtx: see  ctxdeploy build --help"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_their_remedy(
    call: Call, own: Path, fake: ModuleType, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = call("build", own, *arguments)
    assert (done.code, message in done.err) == (code, True), done.err
    assert engines(own) == []


def test_a_graph_beyond_the_limits_is_refused_before_the_build(
    call: Call, own: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxdeploy.export.tensorrt import limits, nodes

    monkeypatch.setattr(nodes, "LARGEST_K", 39)
    assert limits.LARGEST_K == 3840
    done = call("build", own, "--target", "tensorrt")
    assert done.code == 13 and "(TopK) selects 40, and the most is 39: give --top-k 39 or less" in done.err


def test_without_a_gpu_the_message_is_one_line(call: Call, own: Path, fake: ModuleType, monkeypatch: Any) -> None:
    fake.install(monkeypatch, fake, status=999)
    done = call("build", own, "--target", "tensorrt")
    assert done.code == 13 and done.err.count("\n") == 1
    assert done.err.startswith(
        "ctxdeploy: error: --target tensorrt: the NVIDIA driver is not usable (cuInit returned 999)"
    )
    assert done.err.endswith("or give --target tensorrt-rtx, which builds without one\n")


def test_profiles_are_asked_for_by_aspect(call: Call, own: Path, fake: ModuleType) -> None:
    def options(*more: Any) -> dict[str, Any]:
        done = call("build", own, "--target", "tensorrt", "--json", *more)
        assert done.code == 0, done.err
        found: dict[str, Any] = done.json[0]["details"]["key"]["options"]
        return found

    assert len(options()["profiles"]) == 4
    assert options("--aspects", "none")["profiles"] == []
    found = options("--aspects", "16:9,1:1", "--max-batch", 2)
    assert [profile["typical"] for profile in found["profiles"]] == [
        [2, 144, 256, 3],
        [2, 256, 144, 3],
        [2, 256, 256, 3],
    ]
    done = call("build", own, "--target", "tensorrt", "--aspects", "0:1")
    assert done.code == 2 and done.err == (
        "ctxdeploy: error: --aspects '0:1' is not a list of ratios such as 4:3,3:2, each of two whole numbers from 1 "
        "on, and not none\n"
    )


def test_fp8_is_for_tensorrt_alone(call: Call, own: Path, fake: ModuleType) -> None:
    done = call("build", own, "--target", "tensorrt-rtx", "--precision", "fp8")
    assert done.code == 2 and "--target tensorrt-rtx has no --precision fp8" in done.err
    done = call("build", own, "--target", "tensorrt", "--precision", "fp8")
    assert done.code == 12 and "has no fp8 graph to build TensorRT from, only fp32, fp16" in done.err


def test_no_pytorch_is_needed(own: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from ctxdeploy.cli.main import run\n"
        f"sys.exit(run(['build', {str(own)!r}, '--target', 'tensorrt-rtx', '--precision', 'bf16']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 12 and "has no bf16 graph" in done.stderr, done.stderr


def test_tensorrt_rtx_builds_on_this_machine(call: Call, own: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra rtx is not installed")
    done = call("build", own, "--target", "tensorrt-rtx", "--optimisation-level", 0, "--json")
    assert done.code == 0, done.err
    (facts,) = done.json
    assert facts["details"]["key"]["capabilities"] == ["8.0", "8.6", "8.9", "12.0+"]
    assert facts["details"]["key"]["options"]["shapes"]["typical"] == [8, 192, 256, 3]
    artefact = ctxdeploy.core.bundle.open(own).artefact("tensorrt-rtx")
    assert artefact.format == "engine"
