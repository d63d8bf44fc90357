"""What a clean clone holds: everything that is needed to install it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import ctxdeploy
from ctxdeploy.models.table import BUILT_IN, DEFAULT

ROOT = Path(__file__).parents[1]


def _tracked() -> set[str]:
    try:
        done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return set(done.stdout.splitlines())


def test_every_package_and_source_file_is_tracked() -> None:
    tracked = _tracked()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in settings["packages"]:
        top = max((name for name in settings["package-dir"] if f"{package}.".startswith(f"{name}.")), key=len)
        folder = settings["package-dir"][top] + package[len(top) :].replace(".", "/")
        assert f"{folder}/__init__.py" in tracked, package
    for folder in ("ctxdeploy", "export", "runtime", "index", "tests", "benchmarks"):
        found = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
        # benchmarks/work is a scratch folder of runs
        assert {name for name in found if "/work/" not in name} <= tracked, folder


def test_every_folder_with_sources_is_a_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = set(settings["packages"])
    for folder in ("ctxdeploy", "export", "runtime", "index"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.parent.relative_to(ROOT).parts
            name = ".".join(parts if parts[0] == "ctxdeploy" else ("ctxdeploy", *parts))
            assert name in packages, name


def test_the_built_in_models_come_with_the_wheel_and_are_small() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folder = ROOT / "ctxdeploy" / "models"
    data = {path for pattern in settings["package-data"]["ctxdeploy.models"] for path in folder.glob(pattern)}
    data = {path for path in data if path.suffix not in (".py", ".pyc")}
    assert {path.relative_to(ROOT).as_posix() for path in data} <= _tracked()
    for model in BUILT_IN:
        for name in ("bundle.json", "model.onnx", "codebook.safetensors", f"{model}.pth", "card.md"):
            assert folder / model / name in data
        assert sum(path.stat().st_size for path in data if path.parent.name == model) <= 12_000_000
    assert {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")} == data
    assert sum(path.stat().st_size for path in data) <= 24_000_000


def test_the_default_model_has_every_precision_of_a_cpu_without_torch() -> None:
    manifest = json.loads((ROOT / "ctxdeploy" / "models" / DEFAULT / "bundle.json").read_text(encoding="utf-8"))
    made = {(artefact["precision"], artefact["target"]): artefact["file"] for artefact in manifest["artefacts"]}
    assert made == {
        ("fp32", "onnxruntime"): "model.onnx",
        ("fp32", "openvino"): "model.onnx",
        ("bf16", "openvino"): "model.onnx",
        ("int8", "onnxruntime"): "model.int8.onnx",
        ("int8", "openvino"): "model.int8.onnx",
    }
    assert {artefact["parity"]["verdict"] for artefact in manifest["artefacts"]} == {"passed"}


def test_the_licence_of_the_weights_that_training_began_from_comes_with_them() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = ROOT / "ctxdeploy" / "models" / "lite-small"
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    assert "ML Illustrated" in notice and "TensorFlow" in notice and "changed" in notice
    assert "Apache-2.0" in settings["license"]
    for file in ("LICENSE", "NOTICE"):
        assert f"ctxdeploy/models/lite-small/{file}" in settings["license-files"]


def test_the_version_stands_in_one_place_and_in_the_citation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project and "version" in project["dynamic"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {ctxdeploy.__version__}\n" in citation
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## ([\d.]+)", changelog, re.MULTILINE)[1] == ctxdeploy.__version__
