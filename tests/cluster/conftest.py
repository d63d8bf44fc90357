"""Photos, some of which cannot be read, one machine's archive of them, and the command line as a function."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.cli.main import run
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo

SCENES = ("astronaut", "coffee", "rocket", "coins")
MODEL = "ctx-small"


@dataclass(frozen=True)
class Result:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run ``ctxdeploy`` in this process."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three views of each of four scenes, and two files that cannot be read; not to be changed."""
    folder = tmp_path_factory.mktemp("cluster") / "photos"
    random = np.random.default_rng(5)
    for scene in SCENES:
        (folder / scene).mkdir(parents=True)
        for view in range(3):
            shown = make_view(sample_photo(scene), random, ViewConfig(longest=224))
            shown.save(folder / scene / f"{view}.jpg", quality=90)
    for number, place in enumerate((folder / "coffee", folder)):
        (place / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn"[: 8 + number])
    return folder


@pytest.fixture(scope="session")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive that one machine makes of the photos; not to be changed."""
    path = tmp_path_factory.mktemp("whole") / "whole.ctxindex"
    assert run(["index", str(photos), "-o", str(path), "--model", MODEL, "--quiet"]) == 19
    return path


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, str]]:
    """Return a function that gives the hash of every file that archives of the same photos have in common."""

    def read(archive: Path) -> dict[str, str]:
        files = [*archive.glob("shards/*"), *archive.glob("names/*"), archive / "codebook.safetensors"]
        return {str(path.relative_to(archive)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return read
