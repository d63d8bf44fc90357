"""The built-in model as commands take it: where none is named, by its name, and beside others."""

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ctxdeploy.core.bundle
from ctxdeploy.cli.index import FASTER, _runs_here
from ctxdeploy.index import Codebook, Index
from ctxdeploy.indexing.codebook import codebook_of
from ctxdeploy.indexing.report import StageTimes
from ctxdeploy.models import DEFAULT, built_in


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no model but the built-in one."""
    monkeypatch.delenv("CTXDEPLOY_MODEL", raising=False)
    monkeypatch.delenv("CTXDEPLOY_INDEX", raising=False)
    monkeypatch.setenv("CTXDEPLOY_HOME", str(tmp_path / "home"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Nothing is written beside the built-in models, whatever a command does with it: it may lie where nobody can."""
    folder = built_in(DEFAULT).parent
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-small/**")}
    assert {path.name for path in before} >= {DEFAULT, "ctx-small"}
    yield
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*-small/**")} == before


@pytest.fixture
def few(photos: Path, tmp_path: Path) -> Path:
    """Six photos of three scenes."""
    folder = tmp_path / "few"
    folder.mkdir()
    for scene in ("coffee", "rocket", "coins"):
        for number in (0, 1):
            shutil.copy2(photos / f"{scene}_{number}.jpg", folder)
    return folder


def test_index_without_a_model_uses_the_built_in_one_with_its_codebook(
    call, work: Path, few: Path, photos: Path
) -> None:
    result = call("index", few)
    assert result.code == 0, result.err
    assert f"6 photos; {DEFAULT} (built in); " in result.err and "the model's own codebook of" in result.err
    assert "training a codebook" not in result.err
    archive = work / "few.ctxindex"
    own = ctxdeploy.core.bundle.open(built_in(DEFAULT))
    with Index.open(archive) as index:
        assert index.codebook.id == own.codebook.id
    answer = call("query", photos.parent / "queries" / "rocket_3.jpg", "--json").json[0]
    assert {hit["name"] for hit in answer["results"][:2]} == {"rocket_0.jpg", "rocket_1.jpg"}
    # The archive has its own copy of the graphs, and the codebook once.
    copied = ctxdeploy.core.bundle.open(archive / "model")
    assert copied.model_id == own.model_id and copied.codebook is None
    assert not (archive / "model" / "codebook.safetensors").exists()
    assert call("verify", archive).code == 0
    # By its name it is the same model; a later run takes the archive's.
    assert call("index", few, "--model", DEFAULT, "-q").out.startswith("few.ctxindex: 0 photos added, 6 unchanged")
    assert "6 photos; its model; " in call("index", few).err
    answer = call("query", few / "coffee_0.jpg", "--model", DEFAULT, "--json").json[0]
    assert answer["results"][0]["name"] == "coffee_0.jpg"


@pytest.mark.slow
@pytest.mark.long
def test_what_is_advised_at_the_end_works_as_it_stands(call, work: Path, few: Path, bundle, monkeypatch) -> None:
    """A precision that the model has here, in an archive of its own; nothing of one that it has not."""
    monkeypatch.setattr("ctxdeploy.cli.index.ADVISED_FROM", 0.0)
    monkeypatch.setattr(StageTimes, "limit", "network")
    faster = next((precision for precision in FASTER["fp32"] if _runs_here(_small(), precision)), None)
    for photo in list(few.iterdir())[2:]:
        photo.unlink()
    folder = few.rename(few.with_name("two photos"))
    words = [call("index", folder, "-o", "mine.ctxindex", "--precision", "fp32").err.splitlines()[-1]]
    shutil.copy(next(folder.iterdir()), folder / "third.jpg")
    words.append(call("index", folder, "-o", "mine.ctxindex").err.splitlines()[-1])
    for line in words:
        said, _, command = line.partition(";")
        assert said == "the network takes most of the time" and bool(command) == bool(faster)
        if faster:
            made = f"mine-{faster}.ctxindex"
            name, *arguments = shlex.split(command.partition("less:  ")[2])
            result = call(*arguments, "-q")
            assert (name, result.code) == ("ctxdeploy", 0), result.err
            assert call("info", made, "--json").json[0]["extraction"]["precision"] == faster
            assert Codebook.load(f"{made}/codebook.safetensors").id == codebook_of(_small()).id
            shutil.rmtree(made)
    # The small network of these tests has fp32 alone.
    result = call("index", folder, "-o", "other.ctxindex", "--model", bundle.path, "--words", 16)
    assert result.err.splitlines()[-1] == "the network takes most of the time"


def _small():
    return ctxdeploy.core.bundle.open(built_in(DEFAULT))


@pytest.mark.slow
def test_an_archive_of_the_former_default_goes_on_with_its_own_model(call, work: Path, few: Path, photos: Path) -> None:
    assert call("index", few, "--model", "ctx-small", "-q").code == 0
    shutil.copy2(photos / "rocket_2.jpg", few)
    again = call("index", few, "--json").json[0]
    assert again["extraction"]["model"] == "its model", again
    archive = work / "few.ctxindex"
    assert ctxdeploy.core.bundle.open(archive / "model").source["file"] == "ctx-small.pth"
    answer = call("query", photos.parent / "queries" / "rocket_3.jpg", "--json").json[0]
    assert {hit["name"] for hit in answer["results"][:3]} == {f"rocket_{number}.jpg" for number in range(3)}
    refused = call("index", few, "--model", DEFAULT)
    assert refused.code != 0 and "few.ctxindex" in refused.err


def test_words_trains_a_codebook_and_codebook_takes_another(call, work: Path, few: Path) -> None:
    result = call("index", few, "--words", 32, "-o", "words.ctxindex", "--json")
    assert result.json[0]["codebook"]["words"] == 32
    vectors = np.random.default_rng(0).normal(size=(20, 128)).astype(np.float32)
    Codebook.from_centroids(vectors).save("c.safetensors")
    result = call("index", few, "--codebook", "c.safetensors", "-o", "other.ctxindex", "--json")
    assert result.json[0]["codebook"] is None and result.json[0]["extraction"]["model"] == f"{DEFAULT} (built in)"
    with Index.open("other.ctxindex") as index:
        assert len(index.codebook) == 20


def test_what_is_nearer_than_the_built_in_model(call, work: Path, few: Path, monkeypatch) -> None:
    """A path, then the only bundle of the folder, then CTXDEPLOY_MODEL, then a bundle of the name, then the name."""
    shutil.copytree(built_in(DEFAULT), work / "mine.ctxbundle")
    assert "6 photos; mine.ctxbundle; " in call("index", few, "-o", "a.ctxindex").err
    monkeypatch.setenv("CTXDEPLOY_MODEL", DEFAULT)
    assert f"{DEFAULT} (built in); " in call("index", few, "-o", "b.ctxindex").err
    (work / DEFAULT).mkdir()  # no bundle: the name means the model
    assert call("info", DEFAULT, "--json").json[0]["path"] == str(built_in(DEFAULT))
    (work / DEFAULT).rmdir()
    shutil.copytree(built_in(DEFAULT), work / DEFAULT)
    assert call("info", DEFAULT, "--json").json[0]["path"] == DEFAULT


def test_commands_take_the_name(call, work: Path, few: Path) -> None:
    assert call("verify", DEFAULT).out.endswith(f"{DEFAULT}: sound\n")
    assert call("inspect", few / "coffee_0.jpg", "--model", DEFAULT, "-q").code == 0
    result = call("diff", DEFAULT, f"{DEFAULT}:fp32", "--image-size", 64, "-q")
    assert result.code == 0, result.err
    assert "fp32" in call("info", DEFAULT).out


def test_the_built_in_model_is_never_written(call, work: Path, few: Path) -> None:
    for arguments in (
        ("build", DEFAULT, "--target", "tensorrt"),
        ("verify", DEFAULT, "--photos", few, "--record"),
        ("build", built_in(DEFAULT), "--target", "tensorrt"),
    ):
        result = call(*arguments)
        assert result.code == 2 and f"{DEFAULT} is built in and stays as it is" in result.err
        assert f"ctxdeploy export {DEFAULT} -o mine.ctxbundle" in result.err


@pytest.mark.slow
def test_the_built_in_model_exports_like_any_checkpoint_with_a_codebook_of_one_s_own(call, work: Path) -> None:
    own = ctxdeploy.core.bundle.open(built_in(DEFAULT))
    codebook_of(own).save(work / "words")
    result = call("export", DEFAULT, "--codebook", "words", "--scales", "1", "--image-size", 96, "-q")
    assert result.code == 0, result.err
    made = ctxdeploy.core.bundle.open(work / f"{DEFAULT}.ctxbundle")
    assert made.source["weights_sha256"] == own.source["weights_sha256"] and made.codebook.id == own.codebook.id
    Codebook.from_centroids(np.eye(4, 16)).save(work / "other")
    result = call("export", DEFAULT, "--codebook", "other", "-o", "b.ctxbundle", "-q")
    assert result.code == 2 and "has dimension 16, the model 128" in result.err and not Path("b.ctxbundle").exists()


def test_models_lists_what_there_is(call, work: Path) -> None:
    listed = {entry["name"]: entry for line in call("models", "--json").out.splitlines() if (entry := json.loads(line))}
    assert list(listed)[:5] == [DEFAULT, "ctx-small", "how-r18", "how-r50", "fire"]
    kinds = {name: entry["kind"] for name, entry in listed.items()}
    assert (kinds["gem-w-r101-gl18"], kinds["rmac-gordo"]) == ("published", "unavailable")
    assert listed["gem-w-r101-gl18"]["sha256"] == "sha256: begins with a4d43db, as the file's name says"
    assert listed["ap-gem-r101"]["by_hand"] and not listed["delg-r101"]["by_hand"]
    small = listed[DEFAULT]
    assert small["kind"] == "built-in" and small["default"] and small["dim"] == 128 and small["words"] <= 16384
    assert small["path"] == str(built_in(DEFAULT)) and 0 < small["bytes"] <= 12_000_000
    former = listed["ctx-small"]
    assert former["kind"] == "built-in" and not former["default"] and former["licence"] == "MIT"
    assert listed["fire"]["path"] is None and listed["fire"]["licence"] == "CC BY-NC-SA 4.0"
    text = call("models").out
    assert "ctxdeploy models pull how-r18" in text and "licence: MIT" in text and "licence: Apache-2.0" in text


def test_training_starts_from_a_model_of_a_name(work: Path) -> None:
    from ctxdeploy.cli.train import _start

    start = _start(Path(DEFAULT), None, None, None, None, None, None, None)
    assert start.checkpoint == built_in(DEFAULT) / f"{DEFAULT}.pth"
