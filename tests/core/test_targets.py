"""The table of runtimes says what is there: backends, extras and the precisions of every artefact that can be made."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from ctxdeploy.core.device import AUTO
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.targets import (
    CPU_TARGETS,
    ENGINE_TARGETS,
    EXPORT_TARGETS,
    GRAPH_TARGETS,
    PRECISIONS,
    TARGETS,
    choose,
    label_of,
)


@pytest.mark.parametrize("name", TARGETS)
def test_each_row_has_its_backend_and_its_extra(name: str) -> None:
    target = TARGETS[name]
    backend = getattr(import_module(target.module), target.class_name)
    assert backend.__module__ == target.module
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert target.extra in project["optional-dependencies"]
    assert set(target.precisions) <= set(PRECISIONS)
    # What it does not have, it says why.
    assert bool(target.lacks) is (set(target.precisions) != set(PRECISIONS))
    assert re.fullmatch(r"\.[a-z]+", target.suffix) and label_of(name) == target.label


def test_every_runtime_takes_graphs_or_engines_and_every_precision_but_fp8_has_one_on_a_cpu() -> None:
    assert (*GRAPH_TARGETS, *ENGINE_TARGETS) == tuple(TARGETS)
    assert {TARGETS[name].device for name in CPU_TARGETS} == {"CPU"}
    assert {TARGETS[name].device for name in TARGETS if name not in CPU_TARGETS} == {"GPU"}
    for precision in PRECISIONS:
        assert (choose(AUTO, precision) in CPU_TARGETS) is (precision != "fp8")
    assert [choose(AUTO, precision) for precision in ("fp32", "fp16", "bf16", "int8")] == [
        "onnxruntime",
        "onnxruntime",
        "openvino",
        "openvino",
    ]
    assert label_of("a-later-runtime") == "a-later-runtime"


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        (
            "onnxruntime",
            "bf16",
            "onnxruntime has no --precision bf16: use --precision fp32 or fp16 or int8, or --backend",
        ),
        ("cuda", "int8", "cuda has no --precision int8: use --precision fp32 or fp16, or --backend openvino or onnx"),
        (
            "tpu",
            "fp32",
            "backend 'tpu' is unknown: give --backend auto, onnxruntime or openvino or cuda or tensorrt or",
        ),
        (AUTO, "fp4", "precision 'fp4' is unknown: give --precision fp32 or fp16 or bf16 or int8 or fp8"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(name: str, precision: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        choose(name, precision)


def test_what_runs_the_artefacts_of_another_is_no_target_of_an_export() -> None:
    others = {name: TARGETS[name].runs for name in TARGETS if name not in EXPORT_TARGETS}
    assert others == {"cuda": "onnxruntime"}
    assert set(TARGETS["cuda"].precisions) <= set(TARGETS["onnxruntime"].precisions)


@pytest.mark.parametrize(
    ("name", "precision", "device", "chosen"),
    [
        (AUTO, "fp32", "cpu", "onnxruntime"),
        (AUTO, "int8", "cpu", "openvino"),
        (AUTO, "fp32", "cuda", "cuda"),
        (AUTO, "fp16", "cuda:3", "cuda"),
        (AUTO, "bf16", "cuda:1", "tensorrt"),
        ("tensorrt", "fp16", "auto", "tensorrt"),
        ("tensorrt", "fp16", "cuda:1", "tensorrt"),
        ("openvino", "fp32", "cpu", "openvino"),
    ],
)
def test_a_device_narrows_the_choice(name: str, precision: str, device: str, chosen: str) -> None:
    assert choose(name, precision, device) == chosen


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        (
            *("openvino", "cuda:1"),
            "--backend openvino runs on a CPU, not on --device cuda:1: leave out --device, or use --backend cuda or "
            "tensorrt or tensorrt-rtx",
        ),
        (
            *("cuda", "cpu"),
            "--backend cuda runs on a GPU, not on --device cpu: leave out --device, or use --backend onnxruntime or "
            "openvino",
        ),
        (AUTO, "gpu", "--device 'gpu' is unknown: give --device auto, cpu, cuda or cuda:N"),
        (AUTO, "cuda:-1", "--device 'cuda:-1' is unknown"),
    ],
)
def test_a_runtime_and_a_device_that_exclude_each_other_are_refused(name: str, device: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(name, "fp32", device)
    assert str(caught.value).startswith(message)
