"""What the owner of an archive reads: the gist of ``info``, scores, and pages whose photos have moved."""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index import Codebook, Index, IndexConfig
from ctxdeploy.models import only_here

WHEN = 1_700_000_000


@pytest.fixture
def album(call, tmp_path: Path, monkeypatch) -> Path:
    """A folder with three small photos, one of them damaged, and its archive beside it, of the built-in model."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    folder = tmp_path / "my photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        pixels = random.integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((128, 96), Image.Resampling.BICUBIC).save(folder / name)
    (folder / "bad.jpg").write_bytes(b"no photo")
    assert call("index", folder, "-o", "a.ctxindex", "-q").code == 19
    return folder


def test_info_begins_with_what_an_owner_wants(call, album: Path, tmp_path: Path) -> None:
    for name in ("origin.json", "CURRENT"):
        os.utime(tmp_path / "a.ctxindex" / name, (WHEN, WHEN))
    gist, _, rest = call("info", "a.ctxindex").out.partition("\n\n")
    lines = gist.splitlines()
    assert re.fullmatch(r"a\.ctxindex: 2 photos, [0-9.]+ MB on disk", lines[0])
    assert lines[1] == "  failures: 1 photo could not be read:  ctxdeploy info a.ctxindex --failures"
    when = datetime.fromtimestamp(WHEN, UTC).isoformat()
    assert lines[2].startswith(f"  last run: {when}, onnxruntime fp32 on CPU")
    assert lines[3] == f"  photos from: {album}"
    assert lines[4] == "  model: lite-small.pth, how efficientnet-lite0, 128 dimensions"
    assert lines[5] == "  codebook: 16,384 words"
    assert re.match(r"  search: on the CPU, \d+ threads?(;|$)", lines[6])
    assert lines[7:] == ["  geometry: none"]
    assert rest.startswith("kind: archive\n") and "bad.jpg" in rest
    assert call("info", "a.ctxindex", "--json").json[0]["last_run"] == when
    assert call("info", "a.ctxindex", "--failures").json[0]["name"] == "bad.jpg"
    first = call("info", "ctx-small").out.splitlines()
    assert first[0].endswith("ctx-small: how resnet18-half, 128 dimensions")
    assert first[1].startswith("  onnxruntime fp32: ") and "  codebook: 16,384 words" in first


def test_info_of_an_archive_without_a_model(call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    with Index.create("own.ctxindex", Codebook.train(vectors, words=4)) as index:
        index.add("a", vectors)
    os.utime(tmp_path / "own.ctxindex" / "CURRENT", (WHEN, WHEN))
    lines = call("info", "own.ctxindex").out.splitlines()
    assert lines[0].startswith("own.ctxindex: 1 photo, ") and lines[1] == "  failures: none"
    assert lines[2] == f"  last run: {datetime.fromtimestamp(WHEN, UTC).isoformat()}"
    assert lines[3:5] == ["  photos from: none", "  codebook: 4 words"]


def test_a_page_of_photos_that_have_moved_says_what_to_do(call, album: Path, tmp_path: Path) -> None:
    # Before it may stand that loops are compiled, where nothing has asked before.
    assert call("query", album / "a.jpg", "--html", "p.html").err.splitlines()[-1] == "wrote p.html"
    (album / "b.jpg").rename(tmp_path / "b.jpg")
    said = call("query", album / "a.jpg", "--html", "p.html").err.splitlines()[-1]
    assert said.startswith(f"1 of 2 photos could not be found in {album}: the page shows their names alone; ")
    moved = album.rename(tmp_path / "elsewhere")
    (tmp_path / "b.jpg").rename(moved / "b.jpg")
    said = call("query", moved / "a.jpg", "--html", "p.html").err.splitlines()[-1]
    assert said.startswith("2 of 2 photos") and said.endswith("ctxdeploy index FOLDER -o a.ctxindex --moved")
    assert call("index", moved, "-o", "a.ctxindex", "--moved", "-q").code == 0
    assert call("query", moved / "a.jpg", "--html", "p.html").err == "wrote p.html\n"


def test_the_photo_itself_has_no_score_of_one_unless_both_sides_assign_alike(tmp_path: Path) -> None:
    """What ``Hit`` and ``query --help`` say."""
    random = np.random.default_rng(0)
    photos = {str(number): random.standard_normal((80, 32)).astype(np.float32) for number in range(8)}
    codebook = Codebook.train(np.concatenate(list(photos.values())), words=64)
    found = {}
    for words in (1, 5):
        path = tmp_path / f"{words}.ctxindex"
        with Index.create(path, codebook, config=IndexConfig(query_assignment=words)) as index:
            index.add_many(photos.items())
        with Index.open(path) as index:
            found[words] = [index.search(vectors, 1)[0] for vectors in photos.values()]
        assert [hit.name for hit in found[words]] == list(photos)
    assert [hit.score for hit in found[1]] == pytest.approx([1.0] * 8, abs=1e-6)
    assert all(0 < hit.score < 0.7 for hit in found[5])


def test_what_is_half_made_is_not_the_only_one_here(tmp_path: Path, monkeypatch) -> None:
    """A killed export leaves a hidden folder behind, and one that runs has it."""
    monkeypatch.chdir(tmp_path)
    for name in (".tmp-12ab-how.ctxbundle", ".tmp-12ab-a.ctxindex"):
        (tmp_path / name).mkdir()
    assert only_here(".ctxbundle", "--model") is None
    (tmp_path / "mine.ctxbundle").mkdir()
    assert only_here(".ctxbundle", "--model") == Path("mine.ctxbundle")
    (tmp_path / "other.ctxbundle").mkdir()
    with pytest.raises(ConfigError, match=r"2 \*\.ctxbundle in this folder \(mine\.ctxbundle, other\.ctxbundle\)"):
        only_here(".ctxbundle", "--model")
