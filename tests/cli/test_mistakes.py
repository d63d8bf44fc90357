"""What users get wrong: one clear line, an exit code of its own, nothing lost and nothing half made."""

import copy
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import ctxdeploy.export.export as exporter
from ctxdeploy.core.bundle import Bundle


def _one_line(result, code: int, *words: str) -> None:
    assert result.code == code, result
    lines = [line for line in result.err.splitlines() if line.startswith("ctxdeploy: ")]
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err
    for word in words:
        assert word in lines[0], lines[0]


def test_not_a_checkpoint(call, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ctxbundle"
    result = call("export", photos / "coffee_0.jpg", "-o", output, "-q")
    _one_line(result, 10, "coffee_0.jpg", "not a PyTorch checkpoint")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [".", "/", ".."])
def test_a_folder_for_a_checkpoint(call, path: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _one_line(call("export", path, "-q"), 10, path)
    assert not list(tmp_path.iterdir())


def test_report_in_no_folder_is_refused_before_any_work(call, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = ("-o", tmp_path / "out.ctxbundle", "--report", tmp_path / "none" / "report.html", "-q")
    _one_line(call("export", checkpoint, *options), 2, "none is not a folder", "--report")
    assert not list(tmp_path.iterdir())


def test_checkpoint_with_a_missing_layer(call, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["features.5.1.conv2.weight"]
    torch.save(content, tmp_path / "lame.pth")
    result = call("export", tmp_path / "lame.pth", "-o", tmp_path / "out.ctxbundle", "-q")
    _one_line(result, 10, "lame.pth", "missing: features.5.1.conv2.weight")
    assert not (tmp_path / "out.ctxbundle").exists()


@pytest.mark.slow
def test_graph_that_differs_from_pytorch_leaves_no_bundle(call, checkpoint, tmp_path: Path, monkeypatch) -> None:
    runner = exporter.torch_runner

    def another(network):
        changed = copy.deepcopy(network)
        with torch.no_grad():
            changed.dim_reduction.weight[3] *= -1
        return runner(changed)

    monkeypatch.setattr(exporter, "torch_runner", another)
    result = call("export", checkpoint, "-o", tmp_path / "out.ctxbundle", "-q")
    _one_line(result, 11, "differs from PyTorch", "cosine", "out.ctxbundle.rejected")
    assert [path.name for path in tmp_path.iterdir()] == ["out.ctxbundle.rejected"]


def test_bundle_with_a_flipped_bit(call, damaged_bundle: Path, photos: Path, tmp_path: Path) -> None:
    result = call("index", photos, "-o", tmp_path / "a.ctxindex", "--model", damaged_bundle, "-q")
    _one_line(result, 12, "model.onnx", "damaged", "sha256")
    assert not (tmp_path / "a.ctxindex").exists()
    result = call("verify", damaged_bundle)
    assert result.code == 12
    assert result.out == ""


def test_archive_with_a_flipped_bit(call, archive: Path) -> None:
    (shard,) = (archive / "shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[-5] ^= 4
    shard.write_bytes(content)
    result = call("verify", archive, "--json")
    assert result.code == 15
    assert any(shard.name in problem for problem in result.json[0]["problems"])


@pytest.mark.slow
def test_archive_of_another_model(call, checkpoint: Path, archive: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ctxbundle"
    assert call("export", checkpoint, "-o", other, "--top-k", 50, "-q").code == 0
    for command in (["query", photos / "coins_0.jpg", "--index", archive], ["index", photos, "-o", archive, "-q"]):
        _one_line(call(*command, "--model", other), 16, "model", "--model")


@pytest.mark.slow
def test_archive_of_another_preprocessing(call, bundle: Bundle, checkpoint, archive, photos, tmp_path: Path) -> None:
    other = tmp_path / "other.ctxbundle"
    assert call("export", checkpoint, "-o", other, "--image-size", 128, "-q").code == 0
    result = call("query", photos / "coins_0.jpg", "--index", archive, "--model", other)
    _one_line(result, 16, "preprocessing")
    before = call("info", archive, "--json").json[0]
    assert call("index", photos, "-o", archive, "--model", other, "-q").code == 16
    assert call("info", archive, "--json").json[0] == before


def test_unreadable_photos_are_skipped_and_listed(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(photos, folder)
    whole = (folder / "coffee_0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no photo")
    archive = tmp_path / "a.ctxindex"
    result = call("index", folder, "-o", archive, "--model", bundle.path)
    assert result.code == 19
    assert "2 of 20 photos could not be read" in result.err.splitlines()[-1]
    assert "cut.jpg" in result.err
    facts = call("info", archive, "--json").json[0]
    assert facts["images"] == 18
    assert {failure["name"] for failure in facts["failed_photos"]} == {"cut.jpg", "text.jpg"}
    assert all(failure["reason"] and failure["stage"] == "decode" for failure in facts["failed_photos"])
    assert "text.jpg" in call("info", archive).out
    # Mended photos are taken in by the next run, and leave the list.
    (folder / "cut.jpg").write_bytes(whole)
    (folder / "text.jpg").unlink()
    assert call("index", folder, "-o", archive, "-q").code == 0
    facts = call("info", archive, "--json").json[0]
    assert facts["images"] == 19


def test_empty_folder(call, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = call("index", tmp_path / "empty", "--model", bundle.path, "-o", tmp_path / "a.ctxindex")
    _one_line(result, 17, "empty", "no photos")
    assert not (tmp_path / "a.ctxindex").exists()


def test_folder_of_unreadable_photos_alone(call, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_text("no photo")
    result = call("index", tmp_path / "bad", "--model", bundle.path, "-o", tmp_path / "a.ctxindex", "-q")
    _one_line(result, 17, "none of 1 photos")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


def test_archive_path_that_cannot_be_written(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = call("index", photos, "--model", bundle.path, "-o", tmp_path / "file" / "a.ctxindex", "-q")
    _one_line(result, 18, "a.ctxindex", "-o")


@pytest.mark.parametrize(
    ("box", "code", "words"),
    [
        ("10,10,5000,60", 14, "does not lie in the photo"),
        ("900,900,950,950", 14, "does not lie in the photo"),
        ("60,10,20,40", 2, "x0 < x1"),
        ("1,2,3", 2, "--box: box '1,2,3' is not four numbers: give it as x0,y0,x1,y1"),
    ],
)
def test_wrong_boxes(call, shared_archive: Path, photos: Path, box: str, code: int, words: str) -> None:
    result = call("query", photos / "coins_0.jpg", "--index", shared_archive, "--box", box)
    _one_line(result, code, words)


def test_query_that_cannot_be_read_among_others(call, shared_archive: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no photo")
    result = call("query", tmp_path / "bad.jpg", photos / "coins_0.jpg", "--index", shared_archive, "--json")
    assert result.code == 14
    assert [answer["query"] for answer in result.json] == [str(photos / "coins_0.jpg")]
    assert "bad.jpg" in result.err
    _one_line(call("query", tmp_path / "none.jpg", "--index", shared_archive), 14, "none.jpg")


def test_which_archive(call, photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CTXDEPLOY_INDEX", raising=False)
    _one_line(call("query", photos / "coins_0.jpg"), 2, "--index", "ctxdeploy index")
    for name in ("a.ctxindex", "b.ctxindex"):
        (tmp_path / name).mkdir()
    _one_line(call("query", photos / "coins_0.jpg"), 2, "a.ctxindex", "b.ctxindex", "--index")
    _one_line(call("query", photos / "coins_0.jpg", "--index", "a.ctxindex"), 15, "a.ctxindex")
    _one_line(call("info", tmp_path), 2, "neither a bundle nor an archive")


def test_folder_that_is_no_archive_is_found_at_once(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    result = call("index", photos, "--model", bundle.path, "-o", tmp_path / "mine")
    _one_line(result, 15, "diary.txt")
    assert "extracting" not in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_folder_below_that_cannot_be_listed(call, bundle: Bundle, photos: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "disk"
    shutil.copytree(photos, folder)
    (folder / "sealed").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith("sealed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "--model", bundle.path, "-o", archive).code == 19
    (failure,) = call("info", archive, "--json").json[0]["failed_photos"]
    assert (failure["name"], failure["stage"]) == ("sealed/", "list")
    monkeypatch.undo()
    assert call("index", folder, "-o", archive).code == 0
    assert call("info", archive, "--json").json[0]["failed_photos"] == []


def test_no_such_model_or_several(call, photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CTXDEPLOY_MODEL", raising=False)
    monkeypatch.setenv("CTXDEPLOY_HOME", str(tmp_path / "home"))
    _one_line(call("index", photos, "--model", "none.ctxbundle"), 12, "none.ctxbundle", "ctxdeploy export")
    _one_line(call("index", photos, "--model", "how-r18"), 2, "ctxdeploy models pull how-r18")
    (tmp_path / "a.ctxbundle").mkdir()
    (tmp_path / "b.ctxbundle").mkdir()
    _one_line(call("index", photos), 2, "a.ctxbundle, b.ctxbundle", "--model")


def test_settings_that_exclude_each_other(call, archive: Path, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    new = ["index", photos, "-o", tmp_path / "n.ctxindex", "--model", bundle.path, "-q"]
    codebook = archive / "codebook.safetensors"
    _one_line(call(*new, "--words", 64, "--codebook", codebook), 2, "--codebook and --words")
    _one_line(call("index", photos, "-o", archive, "--words", 65, "-q"), 2, "has a codebook")
    _one_line(call(*new, "--words", 65537), 2, "--words 65537")
    _one_line(call("query", photos / "coins_0.jpg", "--index", archive, "--html", photos / "a.jpg"), 2, "--html")
    _one_line(call(*new, "--backend", "onnxruntime", "--precision", "bf16"), 2, "--precision")


def test_wrong_usage_is_one_line_that_names_the_help(call, photos: Path) -> None:
    for command, said in (
        (("index", photos, "--frobnicate"), "No such option '--frobnicate': see  ctxdeploy index --help"),
        (("query", photos, "--top", "ten"), "--top 'ten' is not a valid integer: see  ctxdeploy query --help"),
        (("build", "x"), "Missing option '--target'. Choose from: tensorrt, tensorrt-rtx: see  ctxdeploy build --help"),
        (("models", "pull"), "Missing argument 'NAME': see  ctxdeploy models pull --help"),
        (
            ("index", photos, "--geometry", "lots"),
            "--geometry 'lots' is not one of 'positions', 'codes', 'descriptors': see  ctxdeploy index --help",
        ),
        (("plan", "--photos", "0"), "--photos '0' is not a number of photos from 1 on, such as 20000 or 100M"),
        (("extract", photos, "-o", "x", "--part", "0/4"), "--part '0/4' is not one of 1/4 to 4/4"),
        (("serve", "x", "--max-queue", "0"), "--max-queue 0 is not positive: give 1 or more"),
        (
            ("train", "run", "--photos", photos, "--dim", "0"),
            "--dim 0: descriptor dimension 0 is outside 1..128",
        ),
        (
            ("train", "run", "--photos", photos, "--kernel-size", "4"),
            "--kernel-size 4: average smoothing with kernel size 4: use one of (1, 3, 5, 7, 9, 11)",
        ),
        (("train", "run", "--photos", photos, "--threads", "-1"), "--threads -1 is outside 1..1024"),
    ):
        result = call(*command)
        assert (result.code, result.err) == (2, f"ctxdeploy: error: {said}\n"), command
    none = call()
    assert none.code == 2 and none.err.startswith("Usage: ctxdeploy [OPTIONS] COMMAND"), "help is not one line"


def test_another_folder_into_the_same_archive(call, archive: Path, photos: Path) -> None:
    result = call("index", photos.parent / "queries", "-o", archive, "-q")
    _one_line(result, 2, "-o", str(photos))


def test_codebook_of_another_dimension(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    import numpy as np

    from ctxdeploy.index import Codebook

    Codebook.from_centroids(np.eye(8, 64, dtype=np.float32)).save(tmp_path / "c.safetensors")
    result = call(
        *("index", photos, "-o", tmp_path / "n.ctxindex", "--model", bundle.path, "-q"),
        *("--codebook", tmp_path / "c.safetensors"),
    )
    _one_line(result, 2, "dimension 64", "128")


def test_a_photo_that_is_a_folder(call, photos: Path) -> None:
    for command in (("inspect", photos), ("diff", "ctx-small", "ctx-small", "--photo", photos)):
        _one_line(call(*command), 14, "it is a folder")


def test_a_query_of_nothing(call, archive: Path, photos: Path, tmp_path: Path) -> None:
    given = ("--index", archive)
    _one_line(call("query", *given), 2, "there is nothing to ask with: name photos, or a photo of the archive")
    _one_line(call("query", "-", photos, "-", *given), 2, "standard input (-) holds one photo: name it once")
    (tmp_path / "empty").mkdir()
    _one_line(call("query", tmp_path / "empty", *given), 17, "holds no photos")
    _one_line(call("query", tmp_path / "no.csv", *given), 2, "no.csv")
    _one_line(call("query", "a.tar.gz", *given), 2, "decompress it to a plain .tar")
    result = call("query", tmp_path / "empty", photos / "coins_0.jpg", tmp_path / "no.csv", *given, "--json")
    assert result.code == 14 and [answer["query"] for answer in result.json] == [str(photos / "coins_0.jpg")]
    assert "holds no photos" in result.err and "no.csv" in result.err and "2 of 3 queries" in result.err


def test_a_url_shows_no_secrets(call, archive: Path) -> None:
    url = "nothing://me:secret@example.org/a.jpg"
    result = call("query", url, "--index", archive)
    assert result.code in (2, 3) and "secret" not in result.err and "nothing" in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--triton-kind", "cpu"), "--triton-kind is for a model repository: add --triton DIR"),
        (
            ("--precision", "int8", "--calibration-photos", "99"),
            "--calibration-photos is a number .* add --calibrate DIR",
        ),
        (("--calibrate", "."), "--calibrate is for int8 and fp8: add --precision int8"),
        (("--precision", "int8", "--calibrate", ".", "--calibration-photos", "0"), "--calibration-photos is 0: give 1"),
    ],
)
def test_an_option_of_export_that_needs_another(
    call, options: tuple[str, ...], said: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("export", "ctx-small", "-q", *options)
    assert result.code == 2 and re.search(said, result.err), result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("export", "none.pth"), 10, "none.pth does not exist"),
        (("export", "https://me:secret@example.org/a.pth"), 10, "https://example.org/a.pth is a URL: fetch the file"),
        (("export", "ctx-small", "--codebook", "none"), 15, "none does not exist"),
        (("export", "ctx-small", "--photos", "none"), 2, "none does not exist"),
        (("export", "ctx-small", "--precision", "int8", "--calibrate", "none"), 2, "none does not exist"),
        (("train", "run"), 2, "no photos to train on"),
        (("train", "run", "--landmarks", "none"), 2, "none does not exist"),
        (("train", "run", "--photos", ".", "--init", "none.pth"), 10, "none.pth does not exist"),
        (("models", "release", "none.pth", "-o", "m", "--photos", "."), 10, "none.pth does not exist"),
        (("verify", "ctx-small", "--photos", ".", "--checkpoint", "none.pth"), 10, "none.pth does not exist"),
    ],
)
def test_what_is_missing_is_said_before_pytorch_is_asked_for(
    call, command: tuple[str, ...], code: int, said: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    _one_line(call(*command), code, said)
    assert not list(tmp_path.iterdir())
