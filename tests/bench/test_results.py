"""Two files are compared in units of the meter only where it was the same work in both."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.bench.record import Record
from ctxdeploy.bench.results import compare_files, drift_of, limits_of, results_of
from ctxdeploy.bench.summary import _where_lines
from ctxdeploy.core.errors import ConfigError

METER = "meter: convolutions"


def record(path: Path, engine: dict[str, Any], seconds: float, **software: Any) -> Record:
    """A run whose network and meter both take ``seconds``, a little more in later windows."""
    case = {"subject": "photos", "units": 1, **engine, "threads": 1, "model_id": "m", "preprocessing_hash": "p"}
    cases = {
        "{backend} {precision}".format(**engine): {"role": "main", **case},
        "1 thread": {"role": "sweep", **case},
        "against model x": {"role": "against", **case, "model_id": "x"},
        METER: {"role": "meter", "subject": "convolutions", "units": 1, **engine, "threads": 1},
    }
    about = {"python": "3", "versions": {"onnxruntime": "1", "ctxdeploy": "1"}, "environment": {}}
    configuration = {"settings": {}, "cases": cases, "machine": {}, "software": {**about, **software}}
    made = Record.begin(path, "extract", configuration, restart=False)
    for number in range(12):
        times = [seconds * (1 + 0.001 * number)]
        found = {label: {"seconds": times, "stages": {"network": times}} for label in cases}
        made.append({"block": number // 2, "cases": found})
    return made


def test_an_engine_and_its_meter_that_are_faster_together_are_faster(tmp_path: Path) -> None:
    """In units of meters of their own bf16 would be as fast as fp32."""
    slow = record(tmp_path / "a.json", {"backend": "onnxruntime", "precision": "fp32"}, 1.0)
    fast = record(tmp_path / "b.json", {"backend": "openvino", "precision": "bf16"}, 0.5)
    found = compare_files(slow, fast).comparison
    assert (found.verdict, found.by_meter) == ("faster", None)
    assert found.ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    "software", [{"environment": {"OMP_NUM_THREADS": "2"}}, {"versions": {"onnxruntime": "2", "ctxdeploy": "1"}}]
)
def test_what_speeds_the_meter_up_too_is_no_faster_machine(tmp_path: Path, software: dict[str, Any]) -> None:
    engine = {"backend": "onnxruntime", "precision": "fp32"}
    before = record(tmp_path / "a.json", engine, 1.0)
    after = record(tmp_path / "b.json", engine, 0.5, **software)
    assert compare_files(before, after).comparison.verdict == "faster"


def test_another_version_of_ours_is_compared_in_units_of_the_meter(tmp_path: Path) -> None:
    engine = {"backend": "onnxruntime", "precision": "fp32"}
    before = record(tmp_path / "a.json", engine, 1.0)
    after = record(tmp_path / "b.json", engine, 0.5, versions={"onnxruntime": "1", "ctxdeploy": "2"})
    found = compare_files(before, after).comparison
    assert found.verdict == "no difference" and found.by_meter is not None


def test_a_case_that_b_has_not_is_not_another_one(tmp_path: Path) -> None:
    one = record(tmp_path / "a.json", {"backend": "onnxruntime", "precision": "fp32"}, 1.0)
    two = record(tmp_path / "b.json", {"backend": "openvino", "precision": "fp32"}, 1.0)
    assert compare_files(one, two, case="onnxruntime fp32").b.endswith("(openvino fp32)")
    del two.content["configuration"]["cases"]["1 thread"]
    with pytest.raises(ConfigError, match="no case '1 thread'"):
        compare_files(one, two, case="1 thread")


def test_the_limit_is_that_of_the_model_whose_operations_were_counted(tmp_path: Path) -> None:
    found = record(tmp_path / "a.json", {"backend": "onnxruntime", "precision": "fp32"}, 1.0)
    found.content |= {"known": {"operations": [2e9]}, "about": {METER: {"facts": {"operations": 4e9}}}}
    limits = limits_of(found)
    assert list(limits) == ["onnxruntime fp32", "1 thread"]
    assert limits["1 thread"]["fraction"] == pytest.approx(0.5, rel=0.01)


def test_where_only_a_mean_was_timed_the_limit_is_the_mean_of_the_operations(tmp_path: Path) -> None:
    found = record(tmp_path / "a.json", {"backend": "onnxruntime", "precision": "fp32"}, 1.0)
    found.content |= {"known": {"operations": [1e9, 2e9, 9e9]}, "about": {METER: {"facts": {"operations": 4e9}}}}
    limit = limits_of(found)["1 thread"]
    assert (limit["operations"], limit["operations_per_second"], limit["seconds"]) == pytest.approx((4e9, 4e9, 1.0))


def test_drift_is_that_of_the_last_third_over_the_first() -> None:
    assert drift_of(np.array([[1.0], [1.0], [1.0], [1.0], [1.2], [1.2]])) == pytest.approx(0.2)
    assert drift_of(np.ones((2, 1))) is None


def test_where_each_case_ran_is_what_its_process_said(tmp_path: Path) -> None:
    """On a GPU, which no machine of these tests has: what stands in the file is enough to say it."""
    made = record(tmp_path / "a.json", {"backend": "cuda", "precision": "fp16"}, 1.0)
    network = {"backend": "cuda", "precision": "fp16", "device": "GPU: NVIDIA H200 (9.0)", "threads": None}
    search = {"device": "cuda:1", "threads": 16, "gpu": "NVIDIA H200 (9.0)"}
    made.content["about"] = {
        "cuda fp16": {"facts": {**network, "search": search, "shapes": []}},
        "1 thread": {"facts": {**network, "device": "AMD EPYC", "backend": "onnxruntime", "threads": 1}},
        METER: {"facts": {}},
    }
    for window in made.windows:
        for case in window["cases"].values():
            case |= {"memory": {"peak": 1, "own": 1, "gpu": None}, "joules": None}
        window["load_average"] = None
    cases = results_of(made)["cases"]
    assert cases["cuda fp16"]["where"] == {"network": network, "search": search}
    assert cases["against model x"]["where"] == {}, "an older file does not say"
    assert _where_lines(cases) == [
        "Where it ran:",
        "",
        "- network in cuda fp16 on GPU: NVIDIA H200 (9.0); search on cuda:1 (NVIDIA H200 (9.0)), and 16 threads of the "
        "CPU for what is not done there: cuda fp16",
        "- network in onnxruntime fp16 on the CPU, 1 thread: 1 thread",
        "",
    ]
