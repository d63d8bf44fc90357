"""``index --device cuda`` with a stand-in for faiss: the archive is the one that the CPU makes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import Device, Gpu
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index
from ctxdeploy.index.codebook import faiss_gpu
from ctxdeploy.index.codebook.gpu_assignment import GpuAssigner
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.job import index_photos
from ctxdeploy.runtime import Extractor, ExtractorConfig
from ctxdeploy.runtime.sources import list_photos


@pytest.fixture
def faiss(load_reference: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the stand-in, with sums that are off, on a GPU that there is not, and have it do all, however little."""
    module = load_reference("gpu_faiss").Faiss(off=1.0)
    monkeypatch.setattr(faiss_gpu, "asked_gpu", lambda device: Gpu(name="none", capability=(9, 0)))
    monkeypatch.setattr(faiss_gpu, "require_faiss_gpu", lambda: module)
    monkeypatch.setattr(GpuAssigner.__init__, "__defaults__", (0,))
    faiss_gpu._opened.cache_clear()
    yield module
    faiss_gpu._opened.cache_clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder, random = tmp_path / "photos", np.random.default_rng(3)
    folder.mkdir()
    for number in range(6):
        noise = Image.fromarray(random.integers(0, 256, (8, 9, 3), dtype=np.uint8))
        noise.resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_an_archive_is_the_same(both: Bundle, photos: Path, tmp_path: Path, faiss: Any, capfd: Any) -> None:
    found = []
    for device in (Device(kind="cpu"), Device(kind="cuda")):
        extractor = Extractor(both, config=ExtractorConfig(isolated=False))
        extractor.device = device
        archive = tmp_path / f"{device.kind}.ctxindex"
        config = IndexingConfig(words=20, global_vectors="fp32")
        before = faiss.asked
        report = index_photos(list_photos(str(photos)), archive, extractor, config, Display(quiet=False))
        said = capfd.readouterr().err
        assert report.indexed == 6 and ("on cuda:0" in said) == (device.kind == "cuda")
        assert (faiss.asked > before) == (device.kind == "cuda")
        with Index.open(archive) as index:
            shards = [path.read_bytes() for path in sorted((archive / "shards").iterdir()) if path.is_file()]
            found.append((index.codebook.id, shards))
            if device.kind == "cuda":  # for k-means, and for the photos
                assert faiss.asked >= 2 * report.descriptors
    assert found[0] == found[1] and found[0][1]
