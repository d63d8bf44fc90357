"""The table of runtimes says what is there: backends, extras and the precisions of every artefact that can be made."""

import re
from importlib import import_module
from importlib.metadata import metadata

import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.targets import AUTO, ENGINE_TARGETS, GRAPH_TARGETS, PRECISIONS, TARGETS, choose, label_of


@pytest.mark.parametrize("name", TARGETS)
def test_each_row_has_its_backend_and_its_extra(name: str) -> None:
    target = TARGETS[name]
    backend = getattr(import_module(target.module), target.class_name)
    assert backend.__module__ == target.module
    assert target.extra in (metadata("ctxdeploy").get_all("Provides-Extra") or [])
    assert set(target.precisions) <= set(PRECISIONS)
    # What it does not have, it says why.
    assert bool(target.lacks) is (set(target.precisions) != set(PRECISIONS))
    assert re.fullmatch(r"\.[a-z]+", target.suffix) and label_of(name) == target.label


def test_every_runtime_takes_graphs_or_engines_and_every_precision_has_one_on_a_cpu() -> None:
    assert (*GRAPH_TARGETS, *ENGINE_TARGETS) == tuple(TARGETS)
    assert {TARGETS[name].device for name in GRAPH_TARGETS} == {"CPU"}
    for precision in PRECISIONS:
        assert choose(AUTO, precision) in GRAPH_TARGETS
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
        ("cuda", "fp32", "backend 'cuda' is unknown: give --backend auto, onnxruntime or openvino or tensorrt or"),
        (AUTO, "fp8", "precision 'fp8' is unknown: give --precision fp32 or fp16 or bf16 or int8"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(name: str, precision: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        choose(name, precision)
