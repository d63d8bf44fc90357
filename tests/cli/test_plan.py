"""``ctxdeploy plan``."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.settings import parse_bytes, parse_count

WITHOUT = """
import sys
for name in ("torch", "onnxruntime", "openvino", "onnx", "ray", "simpy", "scipy", "matplotlib"):
    sys.modules[name] = None
from ctxdeploy.cli.main import run
sys.exit(run(["plan", "--photos", "10M", "--json"]))
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100M", 10**8),
        ("1.5k", 1500),
        ("2G", 2 * 10**9),
        ("20,000", 20_000),
        ("7", 7),
        (" 3 m", 3 * 10**6),
        (".5K", 500),
    ],
)
def test_numbers_of_photos(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "1e8", "-5", "1,00", "5X", "1.2.3"])
def test_what_is_not_a_number_of_photos(call: Callable[..., Any], text: str) -> None:
    done = call("plan", f"--photos={text}")
    assert done.code == 2 and "is not a number such as 20000, 1.5k or 100M" in done.err


def test_a_terabyte_is_an_amount() -> None:
    assert (parse_bytes("2TB"), parse_bytes("1TiB")) == (2 * 10**12, 1 << 40)


def test_people_read_figures_and_every_assumption(call: Callable[..., Any]) -> None:
    done = call("plan", "--photos", "100M", "--machines", 32, "--memory", "64GB", "--seconds-per-photo", 0.2)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("lite-small: 100,000,000 photos; 16,384 words of 128 dimensions, on 32 machines")
    assert "DOES NOT FIT" not in done.out
    assert any(line.split()[:3] == ["--seconds-per-photo", "0.2", "given"] for line in lines)
    assert any(line.split()[:4] == ["--posting-rate", "970", "M", "default"] for line in lines)
    assert max(map(len, lines)) < 400 and not any(line.endswith(" ") for line in lines)


def test_programs_read_json_and_options_override(call: Callable[..., Any]) -> None:
    (one,) = call("plan", "--photos", "1M", "--json").json
    (two,) = call("plan", "--photos", "1M", "--words-per-photo", 560, "--json", "--geometry", "--idf").json
    assert two["archive"]["postings"] == 2 * one["archive"]["postings"] == 560_000_000
    assert two["subject"]["config"]["geometry"] == "codes" and two["subject"]["config"]["idf"] is True
    sources = {entry["name"]: entry["source"] for entry in two["assumptions"]}
    assert sources["words_per_photo"] == "given" and sources["features_per_photo"] == "of the model"


def test_what_does_not_fit_is_said_first(call: Callable[..., Any]) -> None:
    done = call("plan", "--photos", "100M", "--machines", 4, "--memory", "16GB", "--disk", "1TB")
    assert done.code == 0 and done.out.splitlines()[1].startswith("DOES NOT FIT: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "how many photos? Give --photos"),
        (("--photos", "1M", "--sample", "x"), "--sample says how to measure: add --measure"),
        (("--photos", "1M", "--work", "x"), "--work says how to measure"),
        (("--photos", "1M", "--measured", "gone.json"), "does not exist: make it with  ctxdeploy plan --measure"),
        (("--photos", "1M", "--model", "gone.ctxbundle"), "gone.ctxbundle"),
        (("--photos", "1M", "--global-cells", "8"), "say --global too"),
        (("--photos", "1M", "--spread", "0.1"), "--spread 0.1 must be 1 or more"),
        (("--archive", "gone.ctxindex"), "gone.ctxindex"),
    ],
)
def test_mistakes_are_named(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("plan", *arguments)
    assert done.code != 0 and done.out == "" and len(done.err.splitlines()) == 1 and message in done.err


def test_a_plan_needs_no_engine() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"ctxdeploy-plan"' in done.stdout
