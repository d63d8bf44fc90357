"""Which artefacts are compared on a GPU: those of ONNX Runtime on CUDA, which has none of its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import Gpu
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.export.parity import verify
from ctxdeploy.export.parity.verify import artefacts_on_cuda, open_artefact, record_parity


@pytest.fixture
def bundle(load_reference: Callable[[str], ModuleType], tmp_path: Path) -> Bundle:
    """A bundle with fp32, fp16 and int8 for ONNX Runtime, and fp32 for OpenVINO."""
    load_reference("trt/tiny_bundle").write(tmp_path / "tiny.ctxbundle")
    made = bundles.open(tmp_path / "tiny.ctxbundle")
    first = made.artefacts[0]
    more = [replace(first, precision=precision) for precision in ("fp16", "int8")]
    return replace(made, artefacts=(first, *more, replace(first, target="openvino")))


@pytest.mark.parametrize(
    ("there", "target", "device", "precisions"),
    [
        (True, None, "auto", ["fp32", "fp16"]),
        (True, "cuda", "cuda:1", ["fp32", "fp16"]),
        (True, "openvino", "auto", []),
        (True, None, "cpu", []),
        (False, None, "auto", []),
        # Asked for by name: what is missing is said for each.
        (False, "cuda", "auto", ["fp32", "fp16"]),
    ],
)
def test_graphs_of_onnxruntime_are_compared_on_cuda_where_there_is_a_gpu(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    there: bool,
    target: str | None,
    device: str,
    precisions: list[str],
) -> None:
    gpu = Gpu(name="NVIDIA H200", capability=(9, 0)) if there else None
    monkeypatch.setattr(verify, "gpu_present", lambda number: gpu)
    found = artefacts_on_cuda(bundle, target, device)
    assert [(artefact.target, artefact.precision) for artefact in found] == [("cuda", p) for p in precisions]


def test_they_open_on_the_device_that_is_named_and_others_on_the_cpu(bundle: Bundle) -> None:
    (fp32, *_), openvino = artefacts_on_cuda(bundle, "cuda", "cuda:1"), bundle.artefacts[-1]
    with pytest.raises(BackendError, match="NVIDIA driver"):
        open_artefact(bundle, fp32, "cuda:1")
    with pytest.raises(ConfigError, match="--backend cuda runs on a GPU, not on --device cpu"):
        open_artefact(bundle, fp32, "cpu")
    assert open_artefact(bundle, openvino, "cuda:1").name == "openvino"


def test_figures_of_cuda_are_not_recorded_over_those_of_the_cpu(bundle: Bundle) -> None:
    (fp32, *_) = artefacts_on_cuda(bundle, "cuda", "auto")
    record_parity(bundle, [verify.Verified(artefact=fp32, parity={"verdict": "passed"})])
    assert all(not artefact.parity for artefact in bundles.open(bundle.path).artefacts)
