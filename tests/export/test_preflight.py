"""What targets cannot do is said before any work: all of it, each with the option that solves it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.bundle import Extraction, ShapeRange
from ctxdeploy.core.errors import ConfigError, MissingExtraError
from ctxdeploy.core.types import Precision
from ctxdeploy.export import ExportConfig, export_bundle, preflight
from ctxdeploy.export.graph import graph
from ctxdeploy.export.networks import NetworkConfig
from ctxdeploy.export.parity import ParityPhotos
from ctxdeploy.export.preflight import Job, plan
from ctxdeploy.runtime.backends import openvino as openvino_backend


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_network: Any) -> Path:
    from ctxdeploy.export import save_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    save_checkpoint(small_network, path, image_size=320)
    return path


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_more_positions_than_tensorrt_selects_are_refused_before_the_network_is_traced(
    target: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "build_graph", lambda *a, **k: pytest.fail("the network was traced"))
    config = ExportConfig(targets=(target,), top_k=3841)
    with pytest.raises(ConfigError, match=r"selects at most 3840 .*, and K is 3841: give --top-k 3840 or less"):
        export_bundle(
            checkpoint, tmp_path / "out", config, retrieval=None, photos=ParityPhotos(parity={}, retrieval={})
        )
    assert list(tmp_path.iterdir()) == []


def test_other_targets_take_more_positions(config_of: Callable[..., NetworkConfig]) -> None:
    jobs, _ = plan(("onnxruntime", "openvino"), (Precision.FP32,))
    preflight.preflight(jobs, Extraction(top_k=3841), config_of("how"), ShapeRange())


def test_every_problem_is_listed_at_once(
    config_of: Callable[..., NetworkConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_bf16(
        capabilities: list[str], precision: str, check: Any = openvino_backend.check_openvino_precision
    ) -> None:
        check(["FP32", "INT8"], precision)

    monkeypatch.setattr(openvino_backend, "check_openvino_precision", without_bf16)
    jobs, _ = plan(("openvino", "tensorrt"), (Precision.FP32, Precision.BF16))
    with pytest.raises(ConfigError) as caught:
        preflight.preflight(jobs, Extraction(top_k=5000), config_of("how"), ShapeRange())
    assert "openvino bf16: this CPU has no bf16 arithmetic" in str(caught.value)
    assert "give --top-k 3840 or less" in str(caught.value)


def test_a_runtime_that_is_not_installed(
    config_of: Callable[..., NetworkConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(module: str, extra: str) -> Any:
        raise MissingExtraError(module, extra)

    monkeypatch.setattr(preflight, "require", absent)
    jobs, _ = plan(("openvino",), (Precision.FP32,))
    with pytest.raises(MissingExtraError, match=r"openvino is not installed: run .*\[cpu\]'"):
        preflight.preflight(jobs, Extraction(), config_of("how"), ShapeRange())


def test_an_operator_that_the_parser_lacks(small_graph: Any) -> None:
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(small_graph)
    changed.graph.node.append(onnx.helper.make_node("NonZero", ["image"], ["where"], name="found"))
    rtx = [Job(target="tensorrt-rtx", precision=Precision.FP32)]
    with pytest.raises(ConfigError, match=r"TensorRT-RTX: .*NonZero"):
        preflight.check_graph(changed, rtx)
    preflight.check_graph(changed, [Job(target="openvino", precision=Precision.FP32)])
    preflight.check_graph(small_graph, rtx)
