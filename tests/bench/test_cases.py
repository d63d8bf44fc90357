"""The engine of a measurement: what `auto` means is settled before, and a GPU is part of what was measured."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ctxdeploy.bench.cases import BundleEngine
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.device import Gpu, NoGpuError
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.runtime.backends import choice, obstacle


@pytest.fixture
def engine(load_reference: Callable[[str], ModuleType], tmp_path: Path) -> BundleEngine:
    load_reference("trt/tiny_bundle").write(tmp_path / "tiny.ctxbundle")
    bundle = bundles.open(tmp_path / "tiny.ctxbundle")
    return BundleEngine(bundle=bundle, backend="auto", precision="fp32", threads=2)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Gpu(name="NVIDIA H200", capability=(9, 0))
    monkeypatch.setattr(choice, "gpu_present", lambda number=0: found)
    monkeypatch.setattr(choice, "find_gpu", lambda number: found)
    monkeypatch.setattr(obstacle, "require_onnxruntime_gpu", lambda: None)


def test_on_a_cpu_nothing_is_said_of_a_device(engine: BundleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "gpu_present", lambda number=0: None)
    resolved = engine.resolved()
    assert (resolved.backend, resolved.device) == ("onnxruntime", "cpu")
    # Former versions, in another interpreter, know no such setting, and their results stay comparable.
    assert "device" not in resolved.settings() and "device" not in resolved.identity()


def test_a_gpu_is_part_of_what_was_measured(engine: BundleEngine, gpu: None) -> None:
    resolved = engine.resolved()
    assert (resolved.backend, resolved.device) == ("cuda", "cuda:0")
    assert resolved.settings()["device"] == resolved.identity()["device"] == "cuda:0"
    assert resolved.config().gpu == 0


def test_another_backend_may_run_elsewhere(engine: BundleEngine, gpu: None) -> None:
    resolved = engine.resolved()
    other = resolved.changed({"backend": "openvino", "precision": "bf16"})
    assert (other.backend, other.device, other.threads) == ("openvino", "cpu", 2)
    assert other.changed({"backend": "cuda", "device": "cuda:3", "precision": "fp16"}).device == "cuda:3"
    with pytest.raises(ConfigError, match="--backend openvino runs on a CPU, not on --device cuda"):
        resolved.changed({"backend": "openvino", "device": "cuda"})


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(
    engine: BundleEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(number: int) -> Gpu:
        raise NoGpuError("no GPU: look for it")

    monkeypatch.setattr(choice, "find_gpu", nothing)
    with pytest.raises(BackendError, match=r"^--backend cuda: no GPU: look for it, or give --backend onnxruntime$"):
        BundleEngine(bundle=engine.bundle, backend="cuda", precision="fp32", threads=None).resolved()
