"""The machine, the software and the energy that a measurement belongs to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.bench.machine import Energy, machine, peak_memory, software


def test_the_machine_and_the_software_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = machine()
    assert facts == machine()
    assert facts["processor"] and facts["processors"] >= 1
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = software()
    assert found["environment"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert len(found["code_sha256"]) == 64 and found["versions"]["numpy"] == np.__version__
    assert "commit" not in found  # a tracked result makes the checkout dirty, and must go on after that
    assert (peak_memory() or 0) > 10_000_000


def test_energy_is_that_of_all_packages_and_survives_a_wrap(tmp_path: Path) -> None:
    assert not Energy(tmp_path)
    assert Energy(tmp_path).joules([], []) is None
    for name, value in (("intel-rapl:0", 10), ("intel-rapl:1", 900), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("999\n")
    energy = Energy(tmp_path)
    before = energy.read()
    assert before == [10, 900]  # parts of a package are in it
    assert energy.joules(before, [30, 100]) == pytest.approx((20 + 200) / 1e6)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert len(Energy(tmp_path).read()) == 1


def test_the_hash_of_the_code_is_that_of_an_installed_copy(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    unwanted = shutil.ignore_patterns("__pycache__", "*.onnx", "*.pth", "*.safetensors")
    shutil.copytree(root / "ctxdeploy", tmp_path / "ctxdeploy", ignore=unwanted)
    for part in ("export", "index", "runtime"):
        shutil.copytree(root / part, tmp_path / "ctxdeploy" / part, ignore=unwanted)
    command = [sys.executable, "-c", "from ctxdeploy.bench.machine import code_hash; print(code_hash())"]

    def found(folder: Path) -> str:
        given = {**os.environ, "PYTHONPATH": str(folder)}
        return subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    same = found(tmp_path)
    assert same == found(root)
    (tmp_path / "ctxdeploy" / "index" / "config.py").write_text("")
    assert found(tmp_path) != same
