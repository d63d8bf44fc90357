"""The README's commands and programs, run word for word in a folder with a checkpoint and photos."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctxdeploy.cli.main import COMMANDS
from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.export import untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _how_2020(path: Path) -> None:
    """Write a checkpoint in the form of the published how_r18.pth, with an untrained network of half its width."""
    network = untrained_network(
        NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF),
        Extraction(),
        [sample_photo(name) for name in ("coffee", "rocket", "astronaut")],
    )
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    state = {}
    for name, tensor in network.state_dict().items():
        _, child, rest = name.split(".", 2) if name.startswith("backbone.") else ("", "", name)
        key = f"features.{numbers[child]}.{rest}" if child else name.replace("dim_reduction.", "whiten.")
        state[key] = tensor
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    meta = {"architecture": "resnet18-half", "mean": mean, "std": std, "skip_layer": 0, "dim": 128, "feat_pool_k": 3}
    torch.save({"meta": meta, "state_dict": state}, path)


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README assumes it."""
    folder = tmp_path_factory.mktemp("readme")
    _how_2020(folder / "how_r18.pth")
    (folder / "photos").mkdir()
    for scene in ("coffee", "coins", "rocket"):  # a search of int8 runs each photo dozens of times
        for photo in photos.glob(f"{scene}_*.jpg"):
            shutil.copy2(photo, folder / "photos")
    shutil.copy(photos.parent / "queries" / "rocket_3.jpg", folder / "photo.jpg")
    return folder


@pytest.mark.slow
def test_commands_and_programs_run(folder: Path) -> None:
    scripts = [block for block in _blocks("sh") if not re.match(r"(make|pip) ", block)]
    assert len(scripts) >= 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    for name in ("CTXDEPLOY_INDEX", "CTXDEPLOY_MODEL"):
        environment.pop(name, None)
    outputs = []
    for script in scripts:
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert re.search(r"^ +1 +[\d.]+ +rocket_\d\.jpg$", outputs[0], re.MULTILINE)
    assert (folder / "answers.html").stat().st_size > 10_000
    programs = _blocks("python")
    assert len(programs) == 2
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[-2].startswith("photo-7 ")
    assert re.search(r"^coffee_0\.jpg \(\d+, 128\) \[", outputs[-1], re.MULTILINE)


def test_nothing_was_left_to_fill_in() -> None:
    assert "@@" not in README


def test_first_block_is_the_two_commands() -> None:
    commands = re.findall(r"^make (\w+)", _blocks("sh")[0], re.MULTILINE)
    assert commands == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in commands)


def test_every_command_and_exit_code_is_described() -> None:
    import ctxdeploy.core.errors as errors

    for name in COMMANDS:
        assert f"ctxdeploy {name}" in README or f"`{name}`" in README
    codes = {value.exit_code for value in vars(errors).values() if isinstance(value, type) and value.exit_code > 1}
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert codes <= listed
