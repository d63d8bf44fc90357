"""The commands and programs of README and of the guides beside it, run word for word in a folder with photos."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctxdeploy.cli.main import COMMANDS
from ctxdeploy.core import errors
from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.export import untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig

ROOT = Path(__file__).parents[2]
README, EXPORTING, ARCHIVES = ROOT / "README.md", ROOT / "docs" / "exporting.md", ROOT / "docs" / "archives.md"
REFERENCE = ROOT / "docs" / "reference"


def _blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a language, without those that set up an environment."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if not re.match(r"(make|pip) ", block)]


def _run(folder: Path, *command: str) -> str:
    """Run a command as a user would and return what it prints."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name in ("CTXDEPLOY_INDEX", "CTXDEPLOY_MODEL"):
        environment.pop(name, None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
        for photo in photos.glob(f"{scene}_[01].jpg"):
            shutil.copy2(photo, folder / "photos")
    shutil.copy(photos.parent / "queries" / "rocket_3.jpg", folder / "photo.jpg")
    return folder


@pytest.mark.slow
def test_search_my_photos(folder: Path) -> None:
    commands = _blocks(README, "sh")
    assert "ctxdeploy index photos/\n" in commands[0]
    answers = _run(folder, "bash", "-e", "-c", commands[0])
    assert re.search(r"^ +1 +[\d.]+ +\d+ % +rocket_\d\.jpg$", answers, re.MULTILINE)
    assert (folder / "answers.html").stat().st_size > 10_000
    _run(folder, "bash", "-e", "-c", next(block for block in commands if "ctxdeploy pairs" in block))
    pairs = [line.split() for line in (folder / "pairs.txt").read_text(encoding="utf-8").splitlines()]
    names = {path.name for path in (folder / "photos").iterdir()}
    assert {name for pair in pairs for name in pair} == names, "connected: every photo is in a pair"
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)


def test_programs(folder: Path) -> None:
    door, own = _blocks(README, "python")
    assert len(door.strip().splitlines()) == 6  # five lines, and an empty one
    assert _run(folder, sys.executable, "-c", door).startswith("rocket_")
    assert _run(folder, sys.executable, "-c", own).startswith("photo-7 ")


# Word for word it takes four minutes, most of them the search of int8 and all the scales: each time the same commands
# make fp16, of small photos.
SMALL = "--scales 1 --image-size 256"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.long)])
def test_the_guides_commands_and_programs_run(folder: Path, precision: str) -> None:
    def told(block: str) -> str:
        if precision == "int8":
            return block
        few = "" if "--photos" in block else "--photos photos/ "
        block = block.replace("export how_r18.pth", f"export how_r18.pth {few}{SMALL}")
        return block.replace("int8", precision).replace("--calibrate photos/ ", "")

    _run(folder, "ctxdeploy", "index", "photos/", "-q")  # the archive of the guides, with the built-in model
    checkpoint = next(block for block in _blocks(README, "sh") if "how_r18.pth" in block)
    checkpoint = checkpoint.replace("-o how.ctxbundle\n", "-o how.ctxbundle --precision fp32\n", 1)
    answers = _run(folder, "bash", "-e", "-c", told(checkpoint))
    assert re.search(r"^ +1 +[\d.]+ +\d+ % +rocket_\d\.jpg$", answers, re.MULTILINE)
    blocks = [block for page in (EXPORTING, ARCHIVES) for block in _blocks(page, "sh")]
    assert sum("--precision int8" in block for block in blocks) == 1
    for block in blocks:
        _run(folder, "bash", "-e", "-c", told(block))
    (program,) = _blocks(EXPORTING, "python")
    assert re.search(r"^coffee_0\.jpg \(\d+, 128\) \[", _run(folder, sys.executable, "-c", program), re.MULTILINE)


def test_first_block_is_the_two_commands() -> None:
    first = re.search(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert first is not None
    commands = re.findall(r"^make (\w+)", first[1], re.MULTILINE)
    assert commands == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in commands)


def test_every_command_and_exit_code_is_described() -> None:
    options = (REFERENCE / "options.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert re.search(rf"^## {name}\b", options, re.MULTILINE), name
    codes = {value.exit_code for value in vars(errors).values() if isinstance(value, type) and value.exit_code > 1}
    listed = re.findall(r"^\| (\d+) \|", (REFERENCE / "exit-codes.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert codes <= {int(code) for code in listed}


def test_links_lead_somewhere() -> None:
    """Links between files of the repository, as a code host follows them; the site's builder checks its own."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 15
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
