"""``ctxdeploy bench`` as a user runs it: small, with the model and the photos of the other commands' tests."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ctxdeploy.bench.record import Record
from ctxdeploy.core.bundle import Bundle

RUN = ("--windows", 1, "-q")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_extract(call: Callable[..., object], bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    common = ("--model", bundle.path, "--count", 2, "--batch-sizes", "1,2", "--thread-counts", "", "--threads", 1)
    arguments = ("bench", "extract", photos, *common, "--peer", "--plots", "plots")
    done = call(*arguments, *RUN, "--json")
    assert done.code == 0, done.err
    (result,) = done.json
    content = json.loads((tmp_path / "bench-extract.json").read_text())
    assert list(result["cases"]) == [
        "onnxruntime fp32",
        "batch of 2",
        "PyTorch fp32, one photo at a time",
        "meter: convolutions",
    ]
    main = result["cases"]["onnxruntime fp32"]
    assert 0 < main["limit"]["fraction_of_whole"] <= main["limit"]["fraction"] < 3
    assert main["limit"]["operations"] == pytest.approx(_pytorch_operations(bundle, content), rel=1e-9)
    about = content["configuration"]["cases"]["onnxruntime fp32"]
    assert about["model_id"] == bundle.model_id and about["artefacts"] == [bundle.artefacts[0].sha256]
    assert {path.name for path in Path("plots").iterdir()} >= {"bench-extract-latency.svg", "bench-extract-batch.png"}
    again = call(*arguments, *RUN[:-1])
    assert again.code == 0 and "1 windows already" in again.err and "GPU memory: not tried" in again.out
    other = call(*arguments, *RUN, "--precision", "int8", "--backend", "openvino")
    assert other.code != 0


def _pytorch_operations(bundle: Bundle, content: dict[str, object]) -> float:
    """Return the median over the photos of what PyTorch counts."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ctxdeploy.export.networks import NetworkConfig, build

    network = build(NetworkConfig.parse(bundle.network), bundle.extraction)
    counts = []
    for height, width in content["about"]["onnxruntime fp32"]["facts"]["shapes"]:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(torch.zeros((1, height, width, 3), dtype=torch.uint8))
        counts.append(counter.get_total_flops())
    return float(np.median(counts))


@pytest.mark.slow
def test_search(call: Callable[..., object]) -> None:
    common = ("--photos", 200, "--descriptors", 40, "--words", 64, "--queries", 4, "--threads", 1)
    sweeps = ("--sizes", "50", "--batch-sizes", "1,2", "--thread-counts", "")
    arguments = ("bench", "search", *common, *sweeps, *RUN, "-o", "a.json")
    done = call(*arguments)
    assert done.code == 0, done.err
    for label in ("search, 1 thread", "photos 50", "batch of 2", "asmk"):
        assert f"| {label} |" in done.out
    assert "postings read at the memory's bandwidth" in done.out
    assert all(f"{stage} " in done.out for stage in ("assign", "aggregate", "scan", "top-k"))
    assert "- search on the CPU, 1 thread: search, 1 thread, photos 50, batch of 2, asmk\n" in done.out
    again = call(*arguments[:-3], "-o", "a.json", "--windows", 1)  # the synthetic archive is the same once more
    assert again.code == 0 and "1 windows already" in again.err
    refused = call(*arguments, "--seed", 1)
    assert refused.code == 2 and "another configuration" in refused.err and "--restart" in refused.err
    few = call("bench", "compare", "a.json", "a.json")
    assert few.code == 2 and "--windows" in few.err


def test_compare(call: Callable[..., object], tmp_path: Path) -> None:
    cases = {"one": {"role": "main", "units": 1, "threads": 1}, "other": {"role": "against", "units": 1, "threads": 2}}
    configuration = {"settings": {}, "cases": cases, "machine": {"processor": "p"}, "software": {"environment": {}}}
    for name, factor in (("a", 1.0), ("b", 1.3)):
        record = Record.begin(tmp_path / f"{name}.json", "search", configuration, restart=False)
        for number in range(6):
            one = [factor * (1 + 0.001 * number), 2 * factor]
            times = {"one": {"seconds": one}, "other": {"seconds": [1.1 * value for value in one]}}
            record.append({"block": number // 2, "cases": times})
    said = call("bench", "compare", "a.json", "b.json")
    assert said.code == 0 and "B is slower than A: B takes 1.300 times as long" in said.out
    assert "could have been found" in said.out and "two runs, 3 and 3 blocks" in said.out
    (same,) = call("bench", "compare", "b.json", "b.json", "--json").json
    assert (same["verdict"], same["ratio"]) == ("no difference", 1.0)
    (turns,) = call("bench", "compare", "a.json", "--json").json
    assert turns["verdict"] == "slower" and turns["design"] == "interleaved"
    assert turns["ratio"] == pytest.approx(1.1) and "case.threads: 1 there, 2 here" in turns["differences"]
    (least,) = call("bench", "compare", "a.json", "--json", "--least", 0.2).json
    assert least["verdict"] == "no difference"


@pytest.mark.slow
def test_end_to_end(call: Callable[..., object], bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    common = ("--model", bundle.path, "--count", 2, "--words", 16, "--no-peer", "--threads", 1)
    done = call("bench", "end-to-end", photos, *common, "--windows", 1, "-q", "--json")
    assert done.code == 0, done.err
    cases = done.json[0]["cases"]
    assert list(cases["photo by photo"]["stages"]) == [
        "read", "decode", "scale", "network", "assign", "aggregate", "write"
    ]  # fmt: skip
    assert list(cases["query"]["stages"])[4:] == ["assign", "aggregate", "scan", "top-k"]
    network, search = cases["query"]["where"]["network"], cases["query"]["where"]["search"]
    assert (network["backend"], network["threads"]) == ("onnxruntime", 1)
    assert search == {"device": "cpu", "threads": 1, "gpu": None} and "search" not in cases["index"]["where"]
    assert cases["index"]["seconds"]["samples"] == 1 and cases["index"]["limit"]["fraction_of_whole"] > 0
    assert not list(tmp_path.glob("ctxdeploy-bench-*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "--batch-sizes", "x"), "--batch-sizes"),
        (("search", "--words", 100_000, "--photos", 10), "--words"),
        (("search", "nowhere.ctxindex"), "nowhere.ctxindex"),
        (("search", "nowhere.ctxindex", "--sizes", "5"), "--sizes"),
        (("search", "--photos", 20, "--words", 16, "--descriptors", 20, "--against", "colour=red"), "colour=red"),
        (("search", "--photos", 20, "--words", 16, "--descriptors", 20, "--windows", 0), "--windows"),
        (("extract", "--windows", 0, "--model", "nowhere.ctxbundle"), "--windows"),  # before anything is opened
        (("search", "--threads", 0), "--threads 0 is too small: give 1 or more"),
        (("search", "--photos", -1), "--photos -1 is too small: give 1 or more"),
        (("search", "--words", 0), "--words 0 is too small: give 1 or more"),
        (("search", "--photos", 20, "--words", 16, "--queries", 4, "--batch-sizes", "8"), "--queries"),
        (("search", "--photos", 20, "--words", 16, "--queries", 4, "--windows", 0), "--windows"),  # no batch of 16
        (("extract", "--model", "nowhere.ctxbundle"), "nowhere.ctxbundle"),
        (("compare", "nowhere.json"), "nowhere.json"),
        (("compare", "nowhere.json", "--least", 2), "--least"),
    ],
)
def test_mistakes_are_one_line(call: Callable[..., object], arguments: tuple[object, ...], said: str) -> None:
    done = call("bench", *arguments, *(("-q",) if arguments[0] != "compare" else ()))
    assert done.code in (2, 12, 15)
    assert said in done.err and len(done.err.strip().splitlines()) == 1


def test_without_matplotlib_plots_are_refused_before_anything_is_measured(
    call: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = call("bench", "search", "--photos", 20, "--words", 16, *RUN, "--plots", "plots")
    assert done.code != 0 and "[bench]" in done.err
    assert list(tmp_path.iterdir()) == []
