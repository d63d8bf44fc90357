"""A small model and a folder of photos, made once, and the command line as a function."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ctxdeploy.core.bundle
from ctxdeploy.cli.main import run
from ctxdeploy.core.bundle import Bundle, Extraction
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import export_bundle, save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig
from ctxdeploy.export.parity import ParityPhotos

SCENES = ("astronaut", "coffee", "rocket", "hubble_deep_field", "stereo_motorcycle", "coins")


@dataclass(frozen=True)
class Result:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        """The JSON documents on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run ``ctxdeploy`` in this process."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


# The code that decides what the bundle is.
CODE = ("ctxdeploy/core", "ctxdeploy/evaluation", "export", "runtime", "index")


@pytest.fixture(scope="session")
def checkpoint(artefacts: Callable[..., Path]) -> Path:
    """An untrained HOW network, small enough for tests: half as wide as the published, stride 16, two scales."""

    def make(folder: Path) -> None:
        config = NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF, skip_layer=1)
        extraction = Extraction(scales=(1.0, 0.707), top_k=300)
        network = untrained_network(config, extraction, [sample_photo(name) for name in SCENES], seed=1)
        save_checkpoint(network, folder / "small.pth", image_size=256)

    return artefacts("cli-checkpoint", make, CODE) / "small.pth"


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, artefacts: Callable[..., Path]) -> Bundle:
    """The bundle of ``checkpoint``; not to be changed."""

    def make(folder: Path) -> None:
        # A few photos: half of the time goes into comparing the usual ones.
        small = {name: np.asarray(Image.fromarray(sample_photo(name)).resize((160, 120))) for name in SCENES}
        few = ParityPhotos(parity={name: small[name] for name in SCENES[:2]}, retrieval=small)
        export_bundle(checkpoint, folder / "small.ctxbundle", retrieval=AsmkRetrieval, photos=few).check()

    return ctxdeploy.core.bundle.open(artefacts("cli-bundle", make, CODE) / "small.ctxbundle")


@pytest.fixture
def damaged_bundle(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of ``bundle`` with one bit of the graph flipped."""
    copy = tmp_path / "damaged.ctxbundle"
    shutil.copytree(bundle.path, copy)
    with (copy / "model.onnx").open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    return copy


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three mild views of six photos, and a fourth of each in ``../queries``; not to be changed."""
    random = np.random.default_rng(5)
    root = tmp_path_factory.mktemp("data")
    mild = ViewConfig(shift=0.02, shrink=0.15, rotation=3, light=0.15, occlusion=0.15, blur=0.5, longest=320)
    for folder in ("photos", "queries"):
        (root / folder).mkdir()
    for scene in SCENES:
        photo = sample_photo(scene)
        for number in range(4):
            folder = "photos" if number < 3 else "queries"
            make_view(photo, random, mild).save(root / folder / f"{scene}_{number}.jpg", quality=90)
    return root / "photos"


@pytest.fixture(scope="session")
def shared_archive(photos: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of ``photos``; not to be changed."""
    path = tmp_path_factory.mktemp("archive") / "photos.ctxindex"
    code = run(["index", str(photos), "-o", str(path), "--model", str(bundle.path), "--quiet"])
    assert code == 0
    return path


@pytest.fixture
def archive(shared_archive: Path, tmp_path: Path) -> Path:
    """A copy of ``shared_archive`` that a test may change."""
    copy = tmp_path / "copy.ctxindex"
    shutil.copytree(shared_archive, copy)
    return copy


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """A copy of ``photos`` that a test may change; times of change are those of the originals."""
    return Path(shutil.copytree(photos, tmp_path / "album"))


@pytest.fixture
def indexed(folder: Path, archive: Path) -> Path:
    """An archive of ``folder``, sound and complete."""
    (archive / "origin.json").unlink()
    return archive.rename(folder.with_name("album.ctxindex"))
