"""Where the codebook of an evaluation comes from; one that was trained on the evaluated photos cannot pass unseen."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.index import Codebook
from ctxdeploy.indexing.codebook import KEPT, add_codebook, fingerprint, marks_of, share_in
from ctxdeploy.runtime import PhotoSource, find_photos


@pytest.fixture
def options(few: Path, bundle: Bundle, tmp_path: Path) -> tuple[object, ...]:
    return ("eval", few, "-o", tmp_path / "a.ctxindex", "--model", bundle.path)


def test_without_a_codebook_it_is_said_where_to_get_one(call, options, tmp_path: Path) -> None:
    result = call(*options, "-q")
    assert result.code == 2
    assert all(flag in result.err for flag in ("--codebook FILE", "--codebook-photos", "--codebook-of-same-set"))
    assert not (tmp_path / "a.ctxindex").exists()


def test_one_of_the_evaluated_photos_is_refused_or_marked_everywhere(call, options, read_page, tmp_path: Path) -> None:
    page = tmp_path / "worst.html"
    result = call(*options, "--codebook-of-same-set", "--words", 64, "--html", page, "--json", "-q")
    assert result.code == 0, result.err
    facts = result.json["codebook"]
    assert (facts["trained_on"], facts["share_of_evaluated_photos"]) == ("the evaluated photos", 1.0)
    assert "THE CODEBOOK WAS TRAINED ON THE EVALUATED PHOTOS" in result.json["warnings"][0]
    (warning,) = read_page(page).texts("p", "callout")
    assert warning.startswith("THE CODEBOOK WAS TRAINED ON THE EVALUATED PHOTOS")
    # The archive remembers: without the flag it is refused, with it the table says so.
    result = call(*options, "-q")
    assert result.code == 2 and "about 100 % of its training photos" in result.err
    result = call(*options, "--codebook-of-same-set", "-q")
    assert result.out.splitlines()[-1].startswith("! THE CODEBOOK WAS TRAINED ON THE EVALUATED PHOTOS")
    # So does its codebook, wherever it is copied to.
    shutil.copy(tmp_path / "a.ctxindex" / "codebook.safetensors", tmp_path / "innocent.safetensors")
    result = call(*options[:2], "--model", options[-1], "--codebook", tmp_path / "innocent.safetensors", "-q")
    assert result.code == 2 and "trained on the evaluated photos" in result.err


def test_photos_that_are_among_the_evaluated_are_refused_before_any_work(
    call, options, few: Path, training: Path, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(training, tmp_path / "mixed")
    shutil.copy(few / "jpg" / "100100.jpg", tmp_path / "mixed" / "renamed.jpg")
    monkeypatch.setattr("ctxdeploy.evaluation.query_cache.ObservedExtractor.extract", None)
    result = call(*options, "--codebook-photos", tmp_path / "mixed", "-q")
    assert result.code == 2 and "about 4 % of its training photos" in result.err


def test_a_codebook_is_trained_on_other_photos_once(call, options, training: Path, tmp_path: Path) -> None:
    given = ("--codebook-photos", training, "--words", 64, "-q", "--json")
    first = call(*options, *given)
    assert first.code == 0, first.err
    facts = first.json["codebook"]
    assert (facts["trained_on"], facts["words"]) == ("another set", 64)
    assert first.json["warnings"] == []
    (file,) = (tmp_path / "a.ctxindex.codebook").iterdir()
    before = file.stat().st_mtime_ns
    assert call(*options, *given).json["figures"] == first.json["figures"]
    assert file.stat().st_mtime_ns == before
    assert {path.name for path in tmp_path.iterdir()} == {f"a.ctxindex{end}" for end in ("", ".codebook", ".eval")}


def test_a_codebook_that_says_nothing_is_marked_as_unknown(call, options, codebook: Path, tmp_path: Path) -> None:
    Codebook(Codebook.load(codebook).centroids).save(tmp_path / "own.safetensors")
    result = call(*options, "--codebook", tmp_path / "own.safetensors", "--json", "-q")
    assert result.code == 0, result.err
    assert result.json["codebook"]["trained_on"] == "unknown"
    assert "does not say which photos trained it" in result.json["warnings"][0]


def test_a_codebook_that_asmk_pickled(call, options, codebook: Path, training: Path, tmp_path: Path) -> None:
    centroids = np.array(Codebook.load(codebook).centroids)
    content = {"type": "Codebook", "params": {"size": len(centroids)}, "state": {"centroids": centroids}}
    (tmp_path / "codebook.pkl").write_bytes(pickle.dumps(content))
    given = ("--codebook", tmp_path / "codebook.pkl")
    result = call(*options, *given, "--json", "-q")
    assert result.code == 0, result.err
    plain = call(*options[:-2], "-o", tmp_path / "b.ctxindex", *options[-2:], "--codebook", codebook, "--json", "-q")
    assert result.json["figures"] == plain.json["figures"]
    assert result.json["codebook"]["id"] == Codebook.load(codebook).id
    assert result.json["codebook"]["trained_on"] == "unknown"
    # The same command goes on; an archive of photos takes it too.
    assert call(*options, *given, "-q").code == 0
    new = ("index", training, "-o", tmp_path / "c.ctxindex", "--model", options[options.index("--model") + 1], "-q")
    assert call(*new, *given).code == 0
    assert call(*new, *given).code == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--codebook", "a", "--codebook-photos", "b"), "--codebook and --codebook-photos"),
        (("--codebook", "a", "--words", 5), "--codebook and --words"),
        (("--words", 5), "--codebook-photos"),
        (("--codebook-photos", "b", "--words", 0), "--words 0"),
        (("--row", "DELG R101", "--distractors", "a"), "--distractors excludes re-ranking by geometry"),
        (("--html", "page.txt"), "--html page.txt"),
        (("--rankings", "none/r.jsonl"), "--rankings none/r.jsonl"),
    ],
)
def test_what_excludes_each_other(call, options, flags, words: str) -> None:
    result = call(*options, *flags)
    assert result.code == 2 and words in result.err and len(result.err.splitlines()) == 1


def test_a_fingerprint_knows_photos_again(revisited: Path, training: Path) -> None:
    photos, others = find_photos(revisited / "jpg"), find_photos(training)
    taken = fingerprint(photos)
    assert taken["count"] == len(photos) and len(taken["least_marks"]) == KEPT
    assert share_in(taken, marks_of(photos)) == 1.0
    assert share_in(taken, marks_of(others)) == 0.0
    assert share_in(fingerprint([*photos[:12], *others[:12]]), marks_of(photos)) == 0.5
    assert share_in({"least_marks": [[], {}, 5, None]}, marks_of(photos)) == 0.0
    for unknown in (None, {}, {"least_marks": []}, "text"):
        assert share_in(unknown, marks_of(photos)) is None
    # Photos that are no files are told by name and size, and those that cannot be read by their names.
    memory = PhotoSource(name="a/b.jpg", data=b"x")
    assert marks_of([memory]) == marks_of([PhotoSource(name="c/b.jpg", data=b"y")])
    assert len(marks_of([PhotoSource(name=name, path=Path("none") / name) for name in ("a.jpg", "b.jpg")])) == 2


def test_the_models_own_codebook(call, few: Path, bundle: Bundle, codebook: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "own.ctxbundle")
    words = add_codebook(ctxdeploy.core.bundle.open(tmp_path / "own.ctxbundle"), codebook).codebook
    options = ("eval", few, "-o", tmp_path / "a.ctxindex", "--model", tmp_path / "own.ctxbundle", "--json", "-q")
    result = call(*options)
    assert result.code == 0, result.err
    facts = result.json["codebook"]
    assert (facts["id"], facts["source"], facts["trained_on"]) == (words.id, "the model's own", "another set")
    assert result.json["figures"]["all"]["mAP"] == 100.0
    assert call(*options).json["codebook"] == facts  # also when it is that of the archive
    # Photos that trained it are known again when they are evaluated.
    archive = tmp_path / "trained.ctxindex"
    assert call("index", few, "-o", archive, "--model", bundle.path, "--words", 16, "-q").code == 0
    add_codebook(ctxdeploy.core.bundle.open(tmp_path / "own.ctxbundle"), archive / "codebook.safetensors")
    result = call(*options[:2], "-o", tmp_path / "b.ctxindex", *options[4:])
    assert result.code == 2 and "the codebook (the model's own) was trained on the evaluated photos" in result.err
