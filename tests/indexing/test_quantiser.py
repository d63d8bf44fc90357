"""Words and cells of global vectors, trained on the first photos of an archive, from files and from a network."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import ctxdeploy.indexing.commit
import ctxdeploy.indexing.job
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.index import GlobalQuantiser, Index, IndexConfig
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.query import QueryConfig

PHOTOS, DIM = 300, 24
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def files(load_reference: Callable[[str], ModuleType], tmp_path: Path) -> dict[str, NDArray[np.float32]]:
    """Write 300 files of global vectors to ``files``; return the vectors by name, sorted."""
    writer, random = load_reference("delf_files"), np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    rows = random.standard_normal((PHOTOS, DIM))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    vectors = {f"{number:03d}.jpg": row for number, row in enumerate(rows)}
    for name, row in vectors.items():
        (tmp_path / "files" / f"{name}.delg_global").write_bytes(writer.datum(row))
    return vectors


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 photos of noise in large squares."""
    random, folder = np.random.default_rng(2), tmp_path_factory.mktemp("photos") / "set"
    folder.mkdir()
    for number in range(PHOTOS):
        rough = random.integers(0, 256, (7, 8, 3)).astype(np.uint8)
        Image.fromarray(rough).resize((64, 56), Image.Resampling.NEAREST).save(folder / f"{number:03d}.png")
    return folder


def test_of_files_they_are_trained_as_by_hand(call: Call, files: Any, tmp_path: Path) -> None:
    archive = tmp_path / "a.ctxindex"
    given = ("--descriptors", tmp_path / "files", "-o", archive)
    code, _, err = call("index", *given, "--global", "pq", "--global-cells", "5", "-q")
    assert code == 0, err
    rows = np.stack(list(files.values()))
    config = IndexConfig(global_vectors="pq", global_search="ivf", global_dim=DIM)
    wanted = GlobalQuantiser.train(rows, config, cells=5)
    with Index.open(archive) as index:
        assert index.config == config and index.global_cells == 5
        quantiser = index.state.quantiser
        assert quantiser is not None and quantiser.id == wanted.id
        kept = index.global_vectors(list(files))
        np.testing.assert_array_equal(kept, wanted.decoded(wanted.codes(rows)))
    code, out, _ = call("info", archive)
    assert code == 0 and "global vectors: 24 dimensions, pq, 5 cells" in out
    code, _, err = call("index", *given)
    assert code == 0, err
    for options, said in (
        (("--global", "fp16"), "was made with --global pq"),
        (("--global", "pq", "--global-cells", "6"), "was made with --global-cells 5"),
    ):
        code, _, err = call("index", *given, *options)
        assert code == 2 and said in err
    assert call("index", *given, "--global", "pq", "--global-cells", "auto")[0] == 0


def test_what_cannot_be_is_refused_before_anything_is_made(call: Call, files: Any, tmp_path: Path) -> None:
    given = ("index", "--descriptors", tmp_path / "files", "-o", tmp_path / "a.ctxindex")
    for options, said in (
        (("--global-cells", "8"), "--global-cells 8 partitions global vectors: say --global too"),
        (("--global-cells", "none"), "is neither a number of cells nor auto"),
        (("--global", "--global-cells", "5000"), "--global-cells 5000 is outside 1..4096"),
        (("--global", "pq", "--training-photos", "200"), "--training-photos 200 are fewer than the 256"),
        (
            ("--global", "--global-cells", "301"),
            "is trained on 301 photos or more, and there are 300",
        ),
    ):
        code, _, err = call(*given, *options)
        assert code != 0 and said in err and not (tmp_path / "a.ctxindex").exists(), err
    for number in range(100):
        (tmp_path / "files" / f"{number:03d}.jpg.delg_global").unlink()
    for options in ((), ("--dry-run",)):
        code, _, err = call(*given, "--global", "pq", *options)
        assert code != 0 and "--global pq is trained on 256 photos or more, and there are 200" in err
        assert not (tmp_path / "a.ctxindex").exists()
    with pytest.raises(ConfigError, match=r"--global-probes 3 .*--rank global"):
        QueryConfig(global_probes=3)


def test_archives_of_other_words_are_not_merged(call: Call, files: Any, tmp_path: Path) -> None:
    assert call("index", "--descriptors", tmp_path / "files", "-o", tmp_path / "a", "--global", "pq")[0] == 0
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    (tmp_path / "files" / "000.jpg.delg_global").unlink()
    assert call("index", "--descriptors", tmp_path / "files", "-o", tmp_path / "b", "--global", "pq")[0] == 0
    code, _, err = call("merge", tmp_path / "a", tmp_path / "b", "--conflicts", "keep")
    assert code != 0 and "quantiser is" in err and "begin both as copies of one archive" in err
    assert call("merge", tmp_path / "copy", tmp_path / "a", "--conflicts", "keep")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alone", "both"])
def test_of_photos_they_are_trained_on_the_sample_and_an_interrupted_run_goes_on(
    call: Call, request: pytest.FixtureRequest, kind: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that gives global vectors alone, and of one with a codebook that is trained from the same photos."""
    bundle: Bundle = request.getfixturevalue(kind)
    given = ("--model", bundle.path, "--global", "pq", "--global-cells", "auto", "--training-photos", "280", "-q")
    given = (*given, *(("--words", "8") if kind == "both" else ()))
    whole, cut = tmp_path / "whole.ctxindex", tmp_path / "cut.ctxindex"
    code, _, err = call("index", photos, "-o", whole, *given)
    assert code == 0, err

    train, add = ctxdeploy.indexing.job.train_quantiser, ctxdeploy.indexing.commit.IndexCommitter.add
    monkeypatch.setattr(ctxdeploy.indexing.job, "train_quantiser", _interrupt)
    assert call("index", photos, "-o", cut, *given)[0] == 130
    assert not cut.exists() and len(list((tmp_path / "cut.ctxindex.training").glob("*/*.safetensors"))) == 280
    monkeypatch.setattr(ctxdeploy.indexing.job, "train_quantiser", train)
    monkeypatch.setattr(ctxdeploy.indexing.commit.IndexCommitter, "add", _after(add, 100))
    assert call("index", photos, "-o", cut, *given)[0] == 130
    with Index.open(cut) as index:
        assert len(index) == 100
    monkeypatch.setattr(ctxdeploy.indexing.commit.IndexCommitter, "add", add)
    code, _, err = call("index", photos, "-o", cut, *given)
    assert code == 0 and not list(tmp_path.glob("*.training")), err

    names = [f"{number:03d}.png" for number in range(PHOTOS)]
    with Index.open(whole) as a, Index.open(cut) as b:
        assert a.state.quantiser is not None and b.state.quantiser is not None
        assert a.state.quantiser.id == b.state.quantiser.id and a.global_cells == 8
        assert len(a) == len(b) == PHOTOS and a.keeps_local == (kind == "both")
        np.testing.assert_array_equal(a.global_vectors(names), b.global_vectors(names))
        for probes in (None, 1, 3):
            assert a.search_global(names[:4], 5, probes=probes) == b.search_global(names[:4], 5, probes=probes)
        few = [len(hits) for hits in a.search_global(names[:4], PHOTOS, probes=1)]
    query = ("query", "--indexed", "007.png", "--index", whole, "--rank", "global", "--top", PHOTOS, "--json")
    lines = [call(*query, "--global-probes", probes)[1] for probes in (0, 1)]
    assert lines[0].count('"rank"') > lines[1].count('"rank"') > max(few) / 8
    Image.fromarray(np.full((56, 64, 3), 90, np.uint8)).save(tmp_path / "late.png")
    with PhotoIndex.open(whole, writable=True) as opened:
        opened.add([("late.png", tmp_path / "late.png")])
        (hit,) = opened.search("late.png", rank="global", top=1)
        assert "late.png" in opened and hit.score > 0
    with Index.open(whole) as index, Index.open(cut) as former:
        quantiser = index.state.quantiser
        assert (
            quantiser is not None and former.state.quantiser is not None and quantiser.id == former.state.quantiser.id
        )


def test_probes_of_an_archive_without_cells_are_refused(
    call: Call, alone: Bundle, photos: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.iterdir())[:3]:
        shutil.copy(path, few)
    assert call("index", few, "-o", tmp_path / "a", "--model", alone.path)[0] == 0
    query = ("query", few / "000.png", "--index", tmp_path / "a", "--rank", "global")
    code, _, err = call(*query, "--global-probes", "2")
    assert code == 2 and "was made without --global-cells" in err
    assert call(*query, "--global-probes", "0")[0] == 0
    config = IndexingConfig(global_vectors="pq")
    with PhotoIndex.create(tmp_path / "b", model=alone.path, config=config) as made:
        with pytest.raises(NoPhotosError, match="there are 3"):
            made.add(few)
        assert not (tmp_path / "b" / "CURRENT").exists()


def _after(function: Callable[..., None], count: int) -> Callable[..., None]:
    """Return a function that is interrupted when it was called so often."""
    calls = iter(range(count))

    def called(*arguments: Any) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        function(*arguments)

    return called


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
