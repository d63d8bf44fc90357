"""Doors: a name is imported on first use, what is not named is not there, and every name of every door exists."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ctxdeploy.core.doors import door


def test_a_name_is_its_home_s() -> None:
    get, names = door("ctxdeploy.core", {"Box": "types", "files": "ctxdeploy.core.files", "door": "doors"})
    assert names() == ["Box", "door", "files"]
    assert get("door") is door and get("Box").__module__ == "ctxdeploy.core.types"
    assert get("files").__name__ == "ctxdeploy.core.files"
    with pytest.raises(AttributeError, match=r"module 'ctxdeploy\.core' has no attribute 'box'"):
        get("box")


def doors() -> list[str]:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]
    return [name for name in packages if hasattr(importlib.import_module(name), "_HOMES")]


@pytest.mark.parametrize("name", doors())
def test_every_name_of_a_door_exists(name: str) -> None:
    package = importlib.import_module(name)
    assert sorted(package.__all__) == sorted(package._HOMES)
    assert set(dir(package)) >= set(package.__all__)
    for public in package.__all__:
        assert getattr(package, public) is not None


def test_there_are_doors() -> None:
    assert {"ctxdeploy", "ctxdeploy.index", "ctxdeploy.runtime", "ctxdeploy.export", "ctxdeploy.report"} <= set(doors())


def test_a_door_imports_nothing_before_a_name_is_used() -> None:
    code = "import sys, ctxdeploy.index; print('ctxdeploy.index.index' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
