"""Parity of global descriptors, alone and beside local ones; bundles with them, from checkpoint to photo."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

import ctxdeploy.core.bundle
from ctxdeploy.cli.parity import parity_line
from ctxdeploy.core.bundle import Artefact, Extraction
from ctxdeploy.core.errors import ConfigError, ParityError, PhotoError
from ctxdeploy.core.scoring import GroundTruth
from ctxdeploy.core.types import PhotoDescriptors, Precision
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig, Pooling, Smoothing
from ctxdeploy.export.parity import (
    GLOBAL_TOLERANCES,
    TOLERANCES,
    GlobalParity,
    Parity,
    ParityPhotos,
    ParityRun,
    verify_bundle,
)
from ctxdeploy.export.parity.agreement import GlobalAnswers
from ctxdeploy.export.parity.global_parity import GlobalPhoto
from ctxdeploy.report import write_bundle_report
from ctxdeploy.runtime import Extractor, find_photos
from ctxdeploy.runtime.inspection import inspect_photo

FP32, WHOLE = TOLERANCES[Precision.FP32], GLOBAL_TOLERANCES[Precision.FP32]
IMAGE = np.zeros((100, 200, 3), np.uint8)
Vectors = NDArray[np.float32]


def vector(seed: int = 0, dim: int = 32) -> Vectors:
    """Return 1×D of length 1."""
    found = np.random.default_rng(seed).normal(size=(1, dim))
    return (found / np.linalg.norm(found)).astype(np.float32)


def local(seed: int = 0, count: int = 40) -> tuple[Vectors, ...]:
    places = np.stack((np.arange(count) * 4.0, np.full(count, 8.0)), axis=1)[None]
    vectors = np.random.default_rng(seed).normal(size=(1, count, 8))
    parts = (vectors, np.linspace(1, 0.1, count)[None], places, np.ones((1, count)))
    return tuple(array.astype(np.float32) for array in parts)


def photos_of(*widths: int) -> dict[str, NDArray[np.uint8]]:
    return {f"photo {width}": np.full((9, width, 3), width, np.uint8) for width in widths}


def test_a_turned_vector_fails_by_its_cosine_and_names_its_photo() -> None:
    photos = photos_of(50, 60, 70)

    def turned(images: NDArray[np.uint8]) -> tuple[Vectors, ...]:
        found = vector(images.shape[2])
        return (1.02 * found + 0.05 * vector(1),) if images.shape[2] == 60 else (found,)

    run = ParityRun(ParityPhotos(parity=photos, retrieval={}), lambda images: (vector(images.shape[2]),))
    assert run.compare(lambda images: (vector(images.shape[2]),), FP32, measured_with="it").verdict() == "passed"
    parity = run.compare(turned, FP32, measured_with="it")
    assert parity.photos == () and parity.whole is not None and len(parity.whole.photos) == 3
    assert parity.verdict().startswith("failed: of the global descriptors, cosine 0.99")
    assert "on photo 60 (60×9)" in parity.verdict()
    # What bf16 may do is more, but a length of 1 it must keep.
    loose = GLOBAL_TOLERANCES[Precision.BF16]
    again = run.compare(turned, FP32, measured_with="it", whole=loose).verdict()
    assert again.startswith("failed: of the global descriptors, a length differs from 1 by 0.0")
    metadata = parity.metadata()
    json.dumps(metadata, allow_nan=False)
    assert "cosine_min" not in metadata and metadata["global"]["cosine_min"] < 0.9999


def test_a_vector_that_is_not_one_fails() -> None:
    for broken in (np.full((1, 4), np.nan, np.float32), np.zeros((1, 4), np.float32)):
        photo = GlobalPhoto.compared("a", IMAGE, vector(dim=4), broken)
        whole = GlobalParity(photos=(photo,), tolerance=GLOBAL_TOLERANCES[Precision.INT8])
        assert (whole.problem() or "").startswith("of the global descriptors, cosine nan on a (200×100)")
        json.dumps(Parity(photos=(), tolerance=FP32, whole=whole).metadata(), allow_nan=False)
    # A photo in which neither side sees anything is no difference.
    nothing = GlobalPhoto.compared("a", IMAGE, np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32))
    assert (nothing.cosine, nothing.length_error) == (1.0, 0.0)


def test_a_bundle_with_both_kinds_must_pass_both() -> None:
    photos = photos_of(50)
    run = ParityRun(ParityPhotos(parity=photos, retrieval={}), lambda images: (*local(), vector()))
    same = run.compare(lambda images: (*local(), vector()), FP32, measured_with="it")
    assert same.verdict() == "passed" and {"cosine_min", "global"} <= set(same.metadata())
    wrong_local = run.compare(lambda images: (*local(1), vector()), FP32, measured_with="it").verdict()
    assert wrong_local.startswith("failed: cosine min")
    wrong_global = run.compare(lambda images: (*local(), vector(1)), FP32, measured_with="it").verdict()
    assert wrong_global.startswith("failed: of the global descriptors, cosine")
    with pytest.raises(ParityError, match="4 outputs instead of 5"):
        run.compare(lambda images: local(), FP32, measured_with="it")
    line = parity_line(
        Artefact(
            file="m", sha256="", bytes=1, format="onnx", precision="fp32", target="openvino", parity=same.metadata()
        )
    )
    assert "positions in common ≥ 1.00000" in line
    assert line.endswith(
        "cosine of the global descriptors ≥ 1.00000 (needed: 0.9999), its mean ≥ 1.00000 (needed: 0.9999)"
    )


def test_a_reference_of_zeros_is_refused() -> None:
    with pytest.raises(ParityError, match="gives descriptors of zeros alone on every photo"):
        ParityRun(
            ParityPhotos(parity=photos_of(50), retrieval={}), lambda images: (*local(), np.zeros((1, 4), np.float32))
        )


def test_answers_are_compared_by_the_ten_best() -> None:
    rng = np.random.default_rng(3)
    vectors = {
        f"{i:02}": (row / np.linalg.norm(row)).astype(np.float32) for i, row in enumerate(rng.normal(size=(40, 8)))
    }
    answers = GlobalAnswers(vectors)
    assert answers.agreement(vectors).metadata() == {
        "kind": "overlap",
        "photos": 40,
        "queries": 40,
        "overlap": 1.0,
        "reference_map": None,
        "map": None,
    }
    # By hand, in a loop over photos.
    moved = {name: row + 0.3 * vector(int(name), 8)[0] for name, row in vectors.items()}
    shares = []
    for name in vectors:
        best = []
        for side in (vectors, moved):
            others = sorted((other for other in side if other != name), key=lambda o: (-float(side[name] @ side[o]), o))
            best.append(set(others[:10]))
        shares.append(len(best[0] & best[1]) / 10)
    assert answers.agreement(moved).overlap == pytest.approx(float(np.mean(shares))) and np.mean(shares) < 0.95
    broken = {**vectors, "07": np.full(8, np.nan, np.float32)}
    assert answers.agreement(broken).overlap < 0.98
    truth = GroundTruth(scenes={"a": ("00", "01"), "b": ("02", "03", "04")}, junk={})
    scored = GlobalAnswers(vectors, truth).agreement(moved)
    assert scored.map is not None and scored.reference_map is not None and 0 < scored.reference_map < 1


SCALES = (1.0, 0.7071067811865475)


@pytest.fixture(scope="module")
def folder(samples: Mapping[str, NDArray[np.uint8]], artefacts: Any) -> Path:
    """Return a folder with a bundle of a global network, its checkpoint, and photos."""

    def make(where: Path) -> None:
        config = NetworkConfig(
            family="gem",
            architecture=Architecture.RESNET18_HALF,
            dim=None,
            smoothing=Smoothing(kind="none"),
            pooling=Pooling(dim=64),
        )
        extraction = config.fitted(Extraction(global_dim=64, global_scales=SCALES))
        save_checkpoint(
            untrained_network(config, extraction, list(samples.values())), where / "gem.pth", image_size=240
        )
        (where / "photos").mkdir()
        for name, photo in samples.items():
            Pillow.fromarray(photo).save(where / "photos" / f"{name}.png")
        photos = ParityPhotos(parity={name: samples[name] for name in ("coffee", "rocket")}, retrieval=samples)
        settings = ExportConfig(
            targets=("onnxruntime", "openvino", "tensorrt"), precisions=(Precision.FP32, Precision.BF16, Precision.INT8)
        )
        exported = export_bundle(
            where / "gem.pth",
            where / "gem.ctxbundle",
            settings,
            retrieval=AsmkRetrieval,
            photos=photos,
            calibration=samples,
        )
        exported.check()
        write_bundle_report(where / "report.html", exported.bundle)

    kept: Path = artefacts("global-bundle", make, ("ctxdeploy/core", "export", "runtime"))
    return kept


@pytest.mark.slow
def test_a_global_network_becomes_a_bundle_that_passed(folder: Path) -> None:
    bundle = ctxdeploy.core.bundle.open(folder / "gem.ctxbundle")
    manifest = bundle.metadata()
    assert (manifest["format_version"], manifest["outputs"]) == (
        4,
        [{"name": "global", "dtype": "float32", "shape": ["batch", 64]}],
    )
    assert manifest["network"]["pooling"] == {"kind": "gem", "dim": 64}
    assert bundle.extraction.global_scales == SCALES
    for artefact in bundle.artefacts:
        whole = artefact.parity["global"]
        assert artefact.parity["verdict"] == "passed" and whole["ranking"]["queries"] == 8
        least = {"fp32": 0.99999, "bf16": 0.995, "int8": 0.95}[artefact.precision]
        assert whole["cosine_min"] > least, (artefact.target, artefact.precision)
        assert whole["length_error_max"] < 1e-3
    assert {(a.target, a.precision) for a in bundle.artefacts} >= {("onnxruntime", "int8"), ("tensorrt", "bf16")}
    page = (folder / "report.html").read_text()
    assert "a global descriptor of 64 dimensions from 2 scales (1, 0.707107)" in page
    assert "global: smallest cosine" in page and "smallest overlap of positions" not in page


@pytest.mark.slow
def test_photos_get_the_networks_vector(folder: Path, samples: Mapping[str, NDArray[np.uint8]]) -> None:
    import torch

    from ctxdeploy.export import load_checkpoint

    bundle = ctxdeploy.core.bundle.open(folder / "gem.ctxbundle")
    network = load_checkpoint(folder / "gem.pth").network()
    names = ("coffee", "rocket", "page")
    chosen = [photo for photo in find_photos(folder / "photos") if photo.path and photo.path.stem in names]
    found = list(Extractor(bundle).extract(chosen))
    assert len(found) == 3
    for photo in found:
        assert isinstance(photo, PhotoDescriptors)
        name = Path(photo.name).stem
        with torch.inference_mode():
            (wanted,) = network(torch.from_numpy(np.array(samples[name]))[None])
        assert photo.global_descriptor is not None and len(photo.descriptors) == 0 and photo.remark == ""
        assert float(photo.global_descriptor.vector @ wanted[0].numpy()) == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(photo.global_descriptor.vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_verify_and_inspect_know_global_bundles(folder: Path) -> None:
    bundle = ctxdeploy.core.bundle.open(folder / "gem.ctxbundle")
    (found,) = verify_bundle(bundle, folder / "photos", retrieval=AsmkRetrieval, target="openvino", precision="fp32")
    assert found.parity["verdict"] == "passed" and found.parity["global"]["ranking"]["overlap"] > 0.97
    with pytest.raises((ConfigError, PhotoError), match="gives a global descriptor alone: it has no positions"):
        inspect_photo(bundle, folder / "photos" / "coffee.png")
    config = ExportConfig(top_k=50)
    with pytest.raises(ConfigError, match="--top-k is of local ones: leave it out, or give --global-scales"):
        export_bundle(folder / "gem.pth", folder / "other", config, retrieval=AsmkRetrieval)
