"""Small data sets in the published forms, a network of one convolution, and the command line as a function."""

import importlib.util
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.cli.main import run
from ctxdeploy.core.bundle import Bundle, ShapeRange
from ctxdeploy.core.types import Preprocessing

# The network by hand is that of the runtime's tests, which cannot be imported under pytest's importlib mode.
_RUNTIME = Path(__file__).parents[1] / "runtime" / "conftest.py"
SCENES, QUERIES_A_SCENE, OTHERS = 14, 5, 16
# Pixels of a scene, and of the photos that it is pasted into, on the grid of the network's cells of four.
SCENE, PHOTO = (56, 48), (80, 64)


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
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the tiny network at 80 pixels, K = 220; not to be changed."""
    spec = importlib.util.spec_from_file_location("runtime_conftest", _RUNTIME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DIM = 32  # codes are padded to 32 bits: with 8 of them every descriptor resembles every other
    data = module.tiny_model(220).SerializeToString()
    folder = tmp_path_factory.mktemp("bundle") / "tiny.ctxbundle"
    return module.write_bundle(folder, data, Preprocessing(image_size=80), ShapeRange(), 220)


def _texture(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return a random picture of ``size`` (width, height), of squares of two pixels: every cell is another."""
    rough = random.integers(0, 256, (size[1] // 2, size[0] // 2, 3), np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.NEAREST)


def _view(random: np.random.Generator, scene: Image.Image, light: float, noise: float) -> Image.Image:
    """Return a photo with the scene at its centre, darker and noisier."""
    photo = _texture(random, PHOTO)
    pixels = np.asarray(scene, np.float32) * light + random.normal(0, noise, (SCENE[1], SCENE[0], 3))
    corner = ((PHOTO[0] - SCENE[0]) // 2, (PHOTO[1] - SCENE[1]) // 2)
    photo.paste(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), corner)
    return photo


def _numbers(photos: list[str], wanted: list[str]) -> NDArray[np.int64]:
    return np.array([photos.index(name) for name in wanted], np.int64)


@pytest.fixture(scope="session")
def revisited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as that of Revisited Oxford: 70 queries with boxes, three lists each; not to be changed.

    The first query has no easy photos, the last scene no hard ones.
    """
    random = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("sets") / "roxford5k"
    (folder / "jpg").mkdir(parents=True)
    kinds = {"easy": (1.0, 6.0), "hard": (0.96, 40.0), "junk": (0.9, 60.0), "query": (1.0, 2.0)}
    counts = {"easy": 2, "hard": 2, "junk": 1, "query": QUERIES_A_SCENE}
    photos, queries, truths = [], [], []
    for number in range(SCENES):
        scene = _texture(random, SCENE)
        names = {kind: [f"scene{number:02d}_{kind}_{i:06d}" for i in range(counts[kind])] for kind in kinds}
        for kind, (light, noise) in kinds.items():
            for name in names[kind]:
                _view(random, scene, light, noise).save(folder / "jpg" / f"{name}.jpg", quality=95, subsampling=0)
        photos += [name for kind in ("easy", "hard", "junk") for name in names[kind]]
        queries += names["query"]
        truths += [names] * QUERIES_A_SCENE
    for number in range(OTHERS):
        photos.append(f"other_{number:06d}")
        _texture(random, PHOTO).save(folder / "jpg" / f"{photos[-1]}.jpg", quality=95, subsampling=0)
    random.shuffle(photos)
    left, top = (PHOTO[0] - SCENE[0]) / 2, (PHOTO[1] - SCENE[1]) / 2
    gnd = [
        {
            "bbx": [left + 0.3, top, left + SCENE[0], top + SCENE[1] - 0.4],
            "easy": _numbers(photos, truth["easy"]),
            "hard": _numbers(photos, truth["hard"] if number < len(truths) - QUERIES_A_SCENE else []),
            "junk": _numbers(photos, truth["junk"]),
        }
        for number, truth in enumerate(truths)
    ]
    gnd[0]["easy"] = np.array([], np.int64)
    content = {"imlist": photos, "qimlist": queries, "gnd": gnd}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return folder


@pytest.fixture(scope="session")
def few(revisited: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos named as in INRIA Holidays, three queries, of which one has no answers; not to be changed.

    The photos of a group are the same, so that every figure is 100.
    """
    folder = tmp_path_factory.mktemp("few") / "holidays"
    (folder / "jpg").mkdir(parents=True)
    for scene, numbers in enumerate(((0, 1, 2), (100, 101), (200,), (301, 302))):
        for number in numbers:
            source = revisited / "jpg" / f"scene{scene:02d}_easy_000000.jpg"
            shutil.copy(source, folder / "jpg" / f"{100000 + number}.jpg")
    return folder


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that are in no data set; not to be changed."""
    random = np.random.default_rng(4)
    folder = tmp_path_factory.mktemp("training") / "photos"
    folder.mkdir()
    for number in range(24):
        _texture(random, PHOTO).save(folder / f"{number}.jpg", quality=95, subsampling=0)
    return folder


@pytest.fixture(scope="session")
def codebook(training: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codebook trained on ``training``, as ``index`` leaves it."""
    archive = tmp_path_factory.mktemp("codebook") / "training.ctxindex"
    assert run(["index", str(training), "-o", str(archive), "--model", str(bundle.path), "--words", "64", "-q"]) == 0
    return archive / "codebook.safetensors"


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of ``revisited``: the command's options, and what it left."""

    options: tuple[str, ...]
    archive: Path
    rankings: Path
    page: Path


@pytest.fixture(scope="session")
def evaluated(revisited: Path, bundle: Bundle, codebook: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """``revisited``, evaluated once with global descriptors; not to be changed."""
    folder = tmp_path_factory.mktemp("evaluated")
    archive, rankings, page = folder / "set.ctxindex", folder / "rankings.jsonl", folder / "worst.html"
    options = ("eval", str(revisited), "-o", str(archive), "--model", str(bundle.path), "--codebook", str(codebook))
    assert run([*options, "--global", "--rankings", str(rankings), "--html", str(page), "--worst", "6", "-q"]) == 0
    return Evaluated(options=options, archive=archive, rankings=rankings, page=page)
