"""A model with another decoder: what ``verify`` says of it, and whom it takes questions from."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import Gpu
from ctxdeploy.export.parity import compare_decoders
from ctxdeploy.runtime.decode import nvimgcodec

WITH = "nvimgcodec"


@pytest.fixture
def on_gpu(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The model of ``bundle``, exported with the other decoder."""
    folder = tmp_path / "gpu.ctxbundle"
    shutil.copytree(bundle.path, folder)
    settings = replace(bundle.preprocessing, decoder=WITH)
    replace(bundle, path=folder, preprocessing=settings).write_manifest()
    return ctxdeploy.core.bundle.open(folder)


@pytest.fixture
def few(photos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for photo in sorted(photos.iterdir())[:3]:
        shutil.copy(photo, folder)
    return folder


@pytest.fixture
def decoder(load_reference: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the stand-in in place of nvImageCodec."""
    package = load_reference("fake_nvimgcodec")
    monkeypatch.setattr(nvimgcodec, "require", lambda module, extra: package)
    monkeypatch.setattr(nvimgcodec, "find_gpu", lambda number: Gpu(name="none", capability=(9, 0)))
    monkeypatch.setattr(nvimgcodec, "_OPENED", [])
    return package.Decoder


def test_pixels_and_descriptors_are_compared(on_gpu: Bundle, few: Path, decoder: Any) -> None:
    found = compare_decoders(on_gpu, few)
    assert found is not None
    assert (found.decoder, found.photos, found.on_gpu) == (WITH, 3, 3)
    assert 2 < found.largest < 120 and 0 < found.mean < 5 and 0 < found.beyond < 0.5
    assert 0.8 < found.cosine_min <= found.cosine_mean < 1 and 0.5 < found.overlap <= 1
    assert f"3 of 3 photos decoded by it, pixels {found.mean:.3f} levels apart, at most {found.largest}" in found.line
    assert json.dumps(found.metadata())
    decoder.answer = staticmethod(lambda pixels: None)  # what it declines has the pixels of libjpeg
    found = compare_decoders(on_gpu, few)
    assert found is not None
    assert (found.on_gpu, found.largest, found.beyond, found.cosine_min, found.overlap) == (
        0,
        0,
        0,
        pytest.approx(1),
        1,
    )


def test_libjpeg_is_not_compared_with_itself(bundle: Bundle, few: Path) -> None:
    assert compare_decoders(bundle, few) is None


@pytest.mark.slow
def test_verify_says_it(on_gpu: Bundle, few: Path, decoder: Any, call: Callable[..., Any]) -> None:
    result = call("verify", on_gpu.path, "--photos", few, "-q")
    assert result.code == 0 and "decoder nvimgcodec beside libjpeg: 3 of 3 photos decoded by it" in result.out
    facts = json.loads(call("verify", on_gpu.path, "--photos", few, "-q", "--json").out)
    assert facts["decoder"]["photos"] == 3 and facts["decoder"]["line"] in result.out


@pytest.mark.slow
def test_verify_goes_on_where_it_cannot_run(on_gpu: Bundle, few: Path, call: Callable[..., Any]) -> None:
    """Artefacts are compared on the pixels of the CPU."""
    result = call("verify", on_gpu.path, "--photos", few, "-q")
    assert result.code == 0 and "its decoder cannot run here: " in result.out


def test_an_archive_of_it_is_not_asked_by_the_other(
    on_gpu: Bundle, bundle: Bundle, few: Path, tmp_path: Path, decoder: Any, call: Callable[..., Any]
) -> None:
    from ctxdeploy.archive import check_model
    from ctxdeploy.core.errors import MismatchError
    from ctxdeploy.index import Codebook, DescriptorSource, Index

    source = DescriptorSource(model=on_gpu.model_id, preprocessing=on_gpu.preprocessing.hash, description="")
    words = Codebook.from_centroids([[0.0] * on_gpu.extraction.dim, [1.0] * on_gpu.extraction.dim])
    with Index.create(tmp_path / "a.ctxindex", words, source=source) as index:
        check_model(index, on_gpu)
        with pytest.raises(MismatchError):
            check_model(index, bundle)
