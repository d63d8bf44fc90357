"""A run as the command makes it: processes that take turns, an interruption, a slowdown that is found."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.bench.cases import BundleEngine
from ctxdeploy.bench.config import CompanionConfig, ExtractMeasurement, WindowConfig
from ctxdeploy.bench.questions import extraction_question
from ctxdeploy.bench.record import Record
from ctxdeploy.bench.results import compare_files
from ctxdeploy.bench.run import Question, measure
from ctxdeploy.bench.summary import comparison_text, markdown
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.progress import Display

QUIET = Display(quiet=True)
ALONE = ExtractMeasurement(batch_sizes=(), thread_counts=())
# Each photo takes a quarter of a second instead of some milliseconds: found however busy the machine that tests it is.
SLOW = """
import time
from ctxdeploy.bench import worker
from ctxdeploy.runtime.backends import Backend
fast = Backend.run
def run(self, images):
    outputs = fast(self, images)
    time.sleep(0.25)
    return outputs
Backend.run = run
worker.main()
"""
SLOW_LABEL, SAME_LABEL = "against python", "against threads 1"


@pytest.fixture(scope="module")
def engine(load_reference: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> BundleEngine:
    """A bundle of a dozen nodes, in one thread."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.ctxbundle"
    load_reference("trt/tiny_bundle").write(path)
    return BundleEngine(bundle=bundles.open(path), backend="onnxruntime", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three photos of two shapes, one of which is scaled."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = []
    for number, shape in enumerate(((200, 256, 3), (400, 500, 3), (200, 256, 3))):
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def question(engine: BundleEngine, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Question:
    """The network, the same in a slower interpreter, and the same once more."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(SLOW)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/slow.py"\n')
    python.chmod(0o755)
    companions = CompanionConfig(peer=False, against=[f"python={python}"])
    asked = extraction_question(engine, photos, ALONE, companions, QUIET)
    main, slow, _ = asked.cases
    same = Question(
        kind=asked.kind,
        settings=asked.settings,
        known=asked.known,
        cases=[main, _named(slow, SLOW_LABEL), _named(main, SAME_LABEL, "against")],
    )
    return same


def _named(case: object, label: str, role: str | None = None) -> object:
    from dataclasses import replace

    return replace(case, label=label, **({"role": role} if role else {}))


@pytest.fixture(scope="module")
def record(question: Question, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A run of two windows, and the same command again for four more."""
    path = tmp_path_factory.mktemp("results") / "r.json"
    measure(question, path, WindowConfig(windows=2, block=2), QUIET)
    assert len(Record.read(path).windows) == 2
    record = measure(question, path, WindowConfig(windows=6, block=2), QUIET)
    assert record.content["results"]["windows"] == 6
    return Record.read(path)


def test_an_interrupted_run_goes_on_in_new_blocks(record: Record) -> None:
    assert [window["block"] for window in record.windows] == [0, 0, 1, 1, 2, 2]
    assert [window["session"] for window in record.windows] == [0, 0, 1, 1, 1, 1]
    assert [window["number"] for window in record.windows] == list(range(6))


def test_every_item_of_every_window_is_timed_stage_by_stage(record: Record) -> None:
    for window in record.windows:
        for label, case in window["cases"].items():
            assert len(case["seconds"]) == 3, label
            for name, seconds in case["stages"].items():
                inside = all(0 <= part <= whole for part, whole in zip(seconds, case["seconds"], strict=True))
                assert len(seconds) == 3 and inside, (label, name)
    results = record.content["results"]["cases"]
    main = results["onnxruntime fp32"]
    assert list(main["stages"]) == ["read", "decode", "scale", "network"]
    assert main["seconds"]["samples"] == 18
    assert main["seconds"]["p05"] <= main["seconds"]["p50"] <= main["seconds"]["p99"]
    assert main["memory"]["peak"] > 10_000_000 and main["memory"]["gpu"] is None


def test_an_injected_slowdown_is_found_and_the_same_is_the_same(record: Record) -> None:
    slow = compare_files(record, None, other=SLOW_LABEL)
    assert slow.comparison.verdict == "slower" and slow.comparison.low > 1.3
    assert [line.partition(":")[0] for line in slow.differences] == ["case.role", "case.python"]
    same = compare_files(record, None, other=SAME_LABEL, min_difference=0.9)
    assert same.comparison.verdict == "no difference"
    assert same.comparison.low < slow.comparison.low
    faster = compare_files(record, None, case=SLOW_LABEL, other="onnxruntime fp32")
    assert faster.comparison.verdict == "faster"
    text = comparison_text(slow)
    assert "slower than A" in text and "interval" in text and "could have been found" in text
    assert record.content["results"]["ratios"][SLOW_LABEL]["verdict"] == "slower"


def test_two_files_are_compared_unless_they_measured_other_things(record: Record, tmp_path: Path) -> None:

    copy = Path(shutil.copy(record.path, tmp_path / "copy.json"))
    assert compare_files(record, Record.read(copy)).comparison.verdict == "no difference"
    found = compare_files(record, Record.read(copy), other=SLOW_LABEL).comparison
    assert found.design == "two runs" and found.ratio > 1.3
    for place, value, said in (
        (("machine", "processor"), "another", "different machines"),
        (("settings", "photos"), "others", "same photos or queries"),
    ):
        other = Record.read(copy)
        other.content["configuration"] = json.loads(json.dumps(other.content["configuration"]))
        other.content["configuration"][place[0]][place[1]] = value
        with pytest.raises(ConfigError, match=said):
            compare_files(record, other)
    other = Record.read(copy)
    other.content["kind"] = "search"
    with pytest.raises(ConfigError, match="no common unit"):
        compare_files(record, other)
    other = Record.read(copy)
    other.content["configuration"]["cases"][SAME_LABEL]["units"] = 2
    with pytest.raises(ConfigError, match="units"):
        compare_files(record, other, other=SAME_LABEL)
    with pytest.raises(ConfigError, match="with itself"):
        compare_files(record, None, other="onnxruntime fp32")
    with pytest.raises(ConfigError, match="no case 'none'"):
        compare_files(record, None, case="none")


def test_the_summary_names_what_was_measured(record: Record) -> None:
    text = markdown(record)
    processor = record.content["configuration"]["machine"]["processor"]
    for part in (
        processor,
        "onnxruntime fp32",
        "6 windows in 3 blocks",
        "model ",
        "not tried",
        "p99",
        "No limit was measured",
    ):
        assert part in text
    for label in (SLOW_LABEL, SAME_LABEL):
        assert f"{label} takes" in text


def test_plots_are_drawn(record: Record, tmp_path: Path) -> None:
    from ctxdeploy.bench.summary import draw

    files = draw(record, tmp_path / "plots")
    assert [file.name for file in files] == ["r-latency.png", "r-latency.svg"]
    assert all(file.stat().st_size > 3000 for file in files)


def test_a_worker_that_dies_or_cannot_load_is_said(engine: BundleEngine, photos: list[Path], tmp_path: Path) -> None:
    from dataclasses import replace

    asked = extraction_question(engine, photos, ALONE, CompanionConfig(peer=False), QUIET)
    main = asked.cases[0]
    dead = replace(asked, cases=[replace(main, python="/bin/false")])
    with pytest.raises(BackendError, match="ended"):
        measure(dead, tmp_path / "a.json", WindowConfig(windows=1), QUIET)
    missing = replace(asked, cases=[replace(main, settings={**main.settings, "photos": ["/nowhere.jpg"]})])
    with pytest.raises(Exception, match="cannot be read"):
        measure(missing, tmp_path / "b.json", WindowConfig(windows=1), QUIET)
    nowhere = replace(asked, cases=[replace(main, python="/nowhere/python")])
    with pytest.raises(ConfigError, match="cannot be started"):
        measure(nowhere, tmp_path / "c.json", WindowConfig(windows=1), QUIET)
    with pytest.raises(ConfigError, match="two cases are the same"):
        measure(replace(asked, cases=[main, main]), tmp_path / "d.json", WindowConfig(windows=1), QUIET)
