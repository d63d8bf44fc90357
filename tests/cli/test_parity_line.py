"""What is printed of an artefact's comparison: each figure with what it must reach, and in what it was run."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from ctxdeploy.cli.parity import parity_line
from ctxdeploy.core.bundle import Artefact
from ctxdeploy.core.types import Precision
from ctxdeploy.export.parity import TOLERANCES, Agreement, Parity
from ctxdeploy.export.parity.parity import compare_photo


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    count = 50
    places = np.stack((np.arange(count) * 16.0, np.full(count, 8.0)), axis=1)[None]
    one = (
        np.random.default_rng(1).normal(size=(1, count, 8)),
        np.linspace(1, 0.1, count)[None],
        places,
        np.ones((1, count)),
    )
    outputs = tuple(array.astype(np.float32) for array in one)
    parity = Parity(
        photos=(compare_photo("photo", np.zeros((16, 800, 3), np.uint8), outputs, outputs),),
        tolerance=TOLERANCES[Precision.FP32],
        ranking=Agreement(photos=4, queries=4, overlap=1.0),
        measured_with="onnxruntime 1.24.0 fp32, emulating fp16, CPU: some",
    )
    facts = {"file": "model.onnx", "sha256": "0" * 64, "bytes": 1, "format": "onnx", "precision": "fp32"}
    return Artefact(**facts, target="onnxruntime", parity=parity.metadata())  # type: ignore[arg-type]


def test_every_figure_stands_with_what_it_must_reach(artefact: Artefact) -> None:
    assert parity_line(artefact) == (
        "passed; cosine ≥ 1.00000 (needed: 0.9999), its 1st percentile ≥ 1.00000 (needed: 0.9999), its mean ≥ 1.00000 "
        "(needed: 0.9999), positions in common ≥ 1.00000 (needed: 0.99), best ten in common ≥ 1.00000 (needed: 0.98)"
    )


def test_a_limit_that_is_none_is_explained(artefact: Artefact) -> None:
    int8 = {**artefact.parity, "tolerance": asdict(TOLERANCES[Precision.INT8]), "cosine_min": -0.2}
    line = parity_line(replace(artefact, precision="int8"), int8)
    assert "cosine ≥ -0.20000 (any may do: percentile, mean and answers decide), its 1st percentile" in line
    assert "(needed: 0.8), its mean ≥ 1.00000 (needed: 0.985)" in line


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_a_graph_that_no_engine_ran_is_said_to_be_one(artefact: Artefact, target: str) -> None:
    line = parity_line(replace(artefact, target=target, precision="fp16"))
    assert line.startswith(
        f"passed in onnxruntime 1.24.0 fp32, emulating fp16, CPU: some; {target} itself did not run, an engine is"
    )
    assert parity_line(replace(artefact, target=target, format="engine")).startswith("passed; cosine")
    assert parity_line(replace(artefact, target=target, format="engine", parity={})) == "not measured"


def test_figures_of_older_bundles_and_of_none(artefact: Artefact) -> None:
    old = {key: value for key, value in artefact.parity.items() if key not in ("tolerance", "cosine_p1")}
    line = parity_line(artefact, {**old, "cosine_min": None, "seconds": 0.2, "reference_seconds": 3.1})
    assert line == (
        "passed; cosine is not a number, its 1st percentile is not a number, its mean ≥ 1.00000, positions in common ≥ "
        "1.00000, best ten in common ≥ 1.00000"
    )
