"""Networks that give a global descriptor, alone or beside local ones, from photos to archives and answers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.index import Index
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.query import QueryConfig

# As the network by hand in conftest.py.
GLOBAL_DIM, CELL = 24, 8


def _weights() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(GLOBAL_DIM, 3, CELL, CELL)).astype(np.float32) / 255


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos: three scenes of four views, named as in INRIA Holidays."""
    random = np.random.default_rng(2)
    folder = tmp_path_factory.mktemp("photos") / "set"
    folder.mkdir()
    for scene in range(3):
        rough = random.integers(0, 256, (7, 8, 3))
        for view in range(4):
            noisy = np.clip(rough + random.normal(0, 12, rough.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).resize((64, 56), Image.Resampling.NEAREST).save(
                folder / f"{1000 + scene}0{view}.png"
            )
    return folder


def _vector(path: Path) -> NDArray[np.float64]:
    """Return what the network sees in a photo, in plain loops."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float64).transpose(2, 0, 1)
    weights = _weights().astype(np.float64)
    cells = []
    for y in range(0, pixels.shape[1], CELL):
        for x in range(0, pixels.shape[2], CELL):
            patch = pixels[:, y : y + CELL, x : x + CELL]
            cells.append([max(float((one * patch).sum()), 0.0) for one in weights])
    mean = np.array(cells).mean(axis=0)
    return mean / np.sqrt((mean**2).sum())


def _wanted(photos: Path, query: str) -> list[str]:
    scores = {path.name: float(_vector(path) @ _vector(photos / query)) for path in photos.iterdir()}
    return sorted(scores, key=lambda name: (-scores[name], name))


def test_an_archive_of_a_network_without_local_descriptors(
    call: Callable[..., tuple[int, str, str]], alone: Bundle, photos: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "a.ctxindex"
    code, _, err = call("index", photos, "-o", archive, "--model", alone.path, "--words", 4)
    assert code == 2 and "--words is about local descriptors" in err and not archive.exists()
    code, out, err = call("index", photos, "-o", archive, "--model", alone.path)
    assert code == 0 and "12 photos added" in out and "descriptors each" not in out, err
    assert not (archive / "codebook.safetensors").exists() and not (archive / "judgement.json").exists()
    with Index.open(archive) as index:
        assert (index.config.global_vectors, index.config.global_dim, index.keeps_local) == ("fp16", GLOBAL_DIM, False)
        for path in photos.iterdir():
            (kept,) = index.global_vectors([path.name])
            np.testing.assert_allclose(kept, _vector(path), atol=1e-3)
    with PhotoIndex.open(archive) as opened:
        hits = opened.search(photos / "100100.png", top=12)
        assert {hit.name for hit in hits[:4]} == set(_wanted(photos, "100100.png")[:4])
        assert opened.search(photos / "100100.png", config=QueryConfig(rank="global", top=12)) == hits
    code, out, err = call("query", "--indexed", "100100.png", "--index", archive, "--top", 2)
    assert code == 0 and "from its stored global vector" in out and "100100.png" in out.splitlines()[2]
    code, _, err = call("query", photos / "100100.png", "--index", archive, "--rank", "local")
    assert code == 2 and "keeps global vectors alone" in err
    again = call("index", photos, "-o", archive)
    assert again[0] == 0 and "12 unchanged" in again[1]
    assert call("index", photos, "-o", archive, "--geometry")[0] == 2
    assert call("info", archive)[0] == 0 and call("verify", archive)[0] == 0
    code, out, err = call("index", photos, "-o", tmp_path / "new.ctxindex", "--model", alone.path, "--dry-run")
    assert code == 0 and "12 to add" in out


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--words", 8)])
def test_the_networks_own_vector_stands_before_the_sum(
    call: Callable[..., tuple[int, str, str]], both: Bundle, photos: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    """Also of the photos that train the codebook, whose descriptors are kept on disk meanwhile."""
    archive = tmp_path / "b.ctxindex"
    code, _, err = call("index", photos, "-o", archive, "--model", both.path, "--global", "fp32", *words, "-q")
    assert code == 0, err
    with Index.open(archive) as index:
        assert index.config.global_dim == GLOBAL_DIM and index.keeps_local
        for path in photos.iterdir():
            (kept,) = index.global_vectors([path.name])
            np.testing.assert_allclose(kept, _vector(path), atol=1e-5)
    with PhotoIndex.open(archive) as opened:
        hits = opened.search(photos / "100200.png", rank="global", top=12)
        assert [hit.name for hit in hits] == _wanted(photos, "100200.png")
        anew = opened.search(photos / "100200.png", rank="global-then-local", rerank=4)
        assert {hit.name for hit in anew[:4]} == {hit.name for hit in hits[:4]}
    plain = tmp_path / "plain.ctxindex"
    assert call("index", photos, "-o", plain, "--model", both.path, *words, "-q")[0] == 0
    with Index.open(plain) as index:
        assert not index.config.keeps_global


def test_evaluation_of_a_network_without_local_descriptors(
    call: Callable[..., tuple[int, str, str]], alone: Bundle, photos: Path, tmp_path: Path
) -> None:
    options = ("eval", photos, "--set", "holidays", "--model", alone.path, "-o", tmp_path / "a.ctxindex", "-q")
    code, _, err = call(*options)
    assert code == 2 and "say --rank global" in err
    code, out, err = call(*options, "--framework", "all")
    assert code == 0 and out.splitlines()[2].startswith("global vectors (none)"), err
    code, out, err = call(*options, "--rank", "global")
    assert code == 0 and "codebook" not in out, err
