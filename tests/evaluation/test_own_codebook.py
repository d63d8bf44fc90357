"""A model that carries a codebook is evaluated with it, and what is known of the codebook is said."""

import shutil
from pathlib import Path

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.indexing.codebook import add_codebook


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
