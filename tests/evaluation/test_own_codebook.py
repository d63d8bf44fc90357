"""A model that carries a codebook is evaluated with it, and what is known of the codebook is said."""

import shutil
from pathlib import Path

import ctxdeploy.bundle
from ctxdeploy.bundle import Bundle


def _holidays(revisited: Path, folder: Path) -> Path:
    folder.mkdir()
    for scene, name in ((0, "100000"), (0, "100001"), (1, "100100"), (1, "100101"), (2, "100200"), (3, "100300")):
        shutil.copy(revisited / "jpg" / f"scene{scene:02d}_easy_000000.jpg", folder / f"{name}.jpg")
    return folder


def test_the_models_own_codebook(call, revisited: Path, bundle: Bundle, codebook: Path, tmp_path: Path) -> None:
    folder = _holidays(revisited, tmp_path / "holidays")
    shutil.copytree(bundle.path, tmp_path / "own.ctxbundle")
    words = ctxdeploy.bundle.open(tmp_path / "own.ctxbundle").with_codebook(codebook).codebook()
    options = ("eval", folder, "-o", tmp_path / "a.ctxindex", "--model", tmp_path / "own.ctxbundle", "--json", "-q")
    result = call(*options)
    assert result.code == 0, result.err
    facts = result.json["codebook"]
    assert (facts["id"], facts["source"], facts["trained_on"]) == (words.id, "the model's own", "another set")
    assert result.json["figures"]["all"]["mAP"] == 100.0
    assert call(*options).json["codebook"] == facts  # also when it is that of the archive
    # Photos that trained it are known again when they are evaluated.
    archive = tmp_path / "trained.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "--words", 16, "-q").code == 0
    ctxdeploy.bundle.open(tmp_path / "own.ctxbundle").with_codebook(archive / "codebook.safetensors")
    result = call(*options[:2], "-o", tmp_path / "b.ctxindex", *options[4:])
    assert result.code == 2 and "the codebook (the model's own) was trained on the evaluated photos" in result.err
