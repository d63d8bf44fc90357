"""Runs over photos as they come: failures that last and failures that pass, limits, progress, estimates, places."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.archive import default_archive
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.job import index_photos
from ctxdeploy.indexing.plan import estimate
from ctxdeploy.runtime import Extractor, ExtractorConfig, PhotoFailure
from ctxdeploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from ctxdeploy.runtime.sources import list_photos


@pytest.fixture
def dirty(photos: Path, tmp_path: Path) -> Path:
    """Six photos and two that are none."""
    folder = tmp_path / "dirty"
    folder.mkdir()
    for path in photos.glob("*_0.jpg"):
        shutil.copy2(path, folder / path.name)
    (folder / "a_cut.jpg").write_bytes((folder / "coins_0.jpg").read_bytes()[:900])
    (folder / "z_text.jpg").write_text("no photo")
    return folder


def _index(call, folder: Path, bundle: Bundle, archive: Path, *options: object):
    return call("index", folder, "-o", archive, "--model", bundle.path, "--words", 32, "--json", *options)


def test_failures_are_told_with_reason_stage_and_seconds(call, bundle: Bundle, dirty: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.ctxindex"
    result = _index(call, dirty, bundle, archive)
    assert result.code == 19
    told = {failure["name"]: failure for failure in result.json[0]["failures"]}
    assert set(told) == {"a_cut.jpg", "z_text.jpg"}
    listed = call("info", archive, "--failures")
    records = [json.loads(line) for line in listed.out.splitlines()]
    assert listed.code == 0 and {record["name"] for record in records} == set(told)
    for record in records:
        assert record["stage"] == "decode" and record["reason"] == told[record["name"]]["reason"]
        assert 0 <= record["seconds"] < 60
        assert record["size"] == (dirty / record["name"]).stat().st_size
        assert record["mtime_ns"] == (dirty / record["name"]).stat().st_mtime_ns


def test_what_cannot_be_decoded_is_given_up_until_it_changes(call, bundle: Bundle, dirty: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.ctxindex"
    assert _index(call, dirty, bundle, archive).code == 19
    again = _index(call, dirty, bundle, archive)
    assert (again.code, again.json[0]["given_up"], again.json[0]["failed"], again.json[0]["unchanged"]) == (0, 2, 0, 6)
    assert "2 photos could not be decoded before and did not change:  --retry-failed" in again.err
    plan = call("index", dirty, "-o", archive, "--dry-run").out
    assert "0 to add, 0 to replace, 6 unchanged, 2 given up" in plan
    retried = _index(call, dirty, bundle, archive, "--retry-failed")
    assert (retried.code, retried.json[0]["given_up"], retried.json[0]["failed"]) == (19, 0, 2)
    shutil.copy2(dirty / "coins_0.jpg", dirty / "a_cut.jpg")
    mended = _index(call, dirty, bundle, archive)
    assert (mended.code, mended.json[0]["given_up"], mended.json[0]["indexed"]) == (0, 1, 1)
    (record,) = (json.loads(line) for line in call("info", archive, "--failures").out.splitlines())
    assert record["name"] == "z_text.jpg"


@pytest.mark.parametrize("stage", ["read", "memory", "network"])
def test_what_may_pass_is_tried_by_every_run(
    call, bundle: Bundle, dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    archive = tmp_path / "a.ctxindex"
    original = Extractor.extract

    def failing(self, photos):
        for result in original(self, photos):
            if result.name == "coins_0.jpg":
                result = PhotoFailure(name=result.name, reason="not now", stage=stage, file=result.file)
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "extract", failing)
        assert _index(call, dirty, bundle, archive).json[0]["failed"] == 3
    report = _index(call, dirty, bundle, archive).json[0]
    assert (report["given_up"], report["indexed"], report["failed"]) == (2, 1, 0)


def test_a_photo_that_failed_for_the_codebook_is_not_tried_twice(
    call, bundle: Bundle, dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    original = Extractor.extract

    def extract(self, photos):
        for result in original(self, photos):
            names.append(result.name)
            yield result

    monkeypatch.setattr(Extractor, "extract", extract)
    assert _index(call, dirty, bundle, tmp_path / "a.ctxindex").json[0]["failed"] == 2
    assert sorted(names) == sorted(path.name for path in dirty.iterdir())


@pytest.mark.parametrize("codebook", [True, False])
def test_a_run_that_goes_wrong_is_stopped_and_keeps_its_work(
    call, bundle: Bundle, dirty: Path, shared_archive: Path, tmp_path: Path, codebook: bool
) -> None:
    """Whether the failures come up in indexing or while the codebook is made."""
    for number in range(4):
        (dirty / f"y{number}.jpg").write_text("no photo either")
    archive = tmp_path / "a.ctxindex"
    given = ("--codebook", shared_archive / "codebook.safetensors") if codebook else ("--words", 32)
    arguments = ("index", dirty, "-o", archive, "--model", bundle.path, *given)
    stopped = call(*arguments, "--max-failures", 3)
    assert stopped.code == 20
    line = stopped.err.splitlines()[-1]
    assert "4 of " in line and "more than --max-failures 3" in line
    if codebook:
        with Index.open(archive) as index:
            assert len(index) == 6 and len(index.failures()) == 4
    again = call(*(arguments[:6] if codebook else arguments), "--json", "--max-failures", 6)
    assert again.code == 19
    report = again.json[0]
    assert report["unchanged"] + report["indexed"] == 6
    assert report["given_up"] + report["failed"] == 6


def test_the_same_command_goes_on_whatever_it_says_of_the_codebook(
    call, bundle: Bundle, dirty: Path, shared_archive: Path, tmp_path: Path
) -> None:
    archive, codebook = tmp_path / "a.ctxindex", shared_archive / "codebook.safetensors"
    command = ("index", dirty, "-o", archive, "--model", bundle.path, "-q")
    for _ in range(2):
        assert call(*command, "--codebook", codebook, "--geometry").code in (0, 19)
    words = call("info", archive, "--json").json[0]["codebook"]["words"]
    assert call(*command, "--words", words).code == 0
    refused = call(*command, "--words", words + 1)
    assert refused.code == 2 and f"has a codebook of {words} words" in refused.err
    other = tmp_path / "b.ctxindex"
    assert call("index", dirty, "-o", other, "--model", bundle.path, "--words", 16, "-q").code == 19
    assert call(*command, "--codebook", other / "codebook.safetensors").code == 2


def test_a_share_of_failures_is_one_of_all_photos_tried(
    call, bundle: Bundle, dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of eight, in both passes of a first run, and when the first pass begins anew after an interruption."""
    monkeypatch.setattr("ctxdeploy.indexing.config.MIN_TRIED", 2)
    archive = tmp_path / "a.ctxindex"
    with monkeypatch.context() as patch:
        patch.setattr(Index, "create", _interrupt)
        assert _index(call, dirty, bundle, archive, "--max-failures", "40%").code == 130
    result = _index(call, dirty, bundle, archive, "--max-failures", "40%")
    assert result.code == 19, result.err
    assert (result.json[0]["indexed"], result.json[0]["failed"]) == (6, 2)


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_photos_that_failed_before_do_not_keep_others_from_being_tried(
    call, bundle: Bundle, dirty: Path, shared_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a share of failures, those at the head of the list would stop every run."""
    monkeypatch.setattr("ctxdeploy.indexing.config.MIN_TRIED", 2)
    original = Extractor.extract

    def failing(self, photos):
        for result in original(self, photos):
            passing = result.name in ("a_cut.jpg", "astronaut_0.jpg")
            yield PhotoFailure(name=result.name, reason="not now", stage="read", file=None) if passing else result

    monkeypatch.setattr(Extractor, "extract", failing)
    place, archive = tmp_path / "place", tmp_path / "a.ctxindex"
    place.mkdir()
    for name in ("a_cut.jpg", "astronaut_0.jpg", "coins_0.jpg"):
        shutil.copy2(dirty / name, place / name)
    codebook = ("--codebook", shared_archive / "codebook.safetensors")
    assert call("index", place, "-o", archive, "--model", bundle.path, *codebook).code == 19
    for name in ("coffee_0.jpg", "hubble_deep_field_0.jpg", "rocket_0.jpg"):
        shutil.copy2(dirty / name, place / name)
    result = call("index", place, "-o", archive, "--max-failures", "50%", "--json")
    assert result.code == 19, result.err
    assert (result.json[0]["indexed"], result.json[0]["failed"]) == (3, 2)


def test_limits_that_are_none(call, bundle: Bundle, dirty: Path, tmp_path: Path) -> None:
    for flag, value, said in (
        ("--max-failures", "many", "neither a number"),
        ("--memory-limit", "lots", "is not an amount of memory"),
        ("--commit-seconds", -1, "outside 0..86400"),
        ("--max-pixels", 0, "--max-pixels 0"),
        ("--photo-timeout", 0, "--photo-timeout"),
        ("--workers", 0, "--workers"),
        ("--read-threads", 0, "--read-threads"),
    ):
        result = _index(call, dirty, bundle, tmp_path / "a.ctxindex", flag, value)
        assert result.code == 2 and said in result.err, (flag, result)


def test_progress_as_json(call, bundle: Bundle, dirty: Path, tmp_path: Path) -> None:
    result = _index(call, dirty, bundle, tmp_path / "a.ctxindex", "--training-photos", 3)
    events = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    assert {event["event"] for event in events} == {"progress", "remark"}
    last = {event["task"]: event for event in events if event["event"] == "progress"}
    assert last["extracting for the codebook"]["total"] == 3
    indexing = last["indexing"]
    assert indexing["done"] == indexing["total"] > 0
    assert indexing["limit"] in ("network", "decode", "read", "assign", "write")
    assert indexing["per_second"] > 0 and indexing["seconds_left"] == 0
    stages = result.json[0]["stages"]
    assert stages["network"] > 0 and stages["decode"] > 0 and stages["limit"] == indexing["limit"]
    assert len(result.out.splitlines()) == 1, "stdout has the report alone"
    quiet = _index(call, dirty, bundle, tmp_path / "a.ctxindex", "-q")
    assert quiet.err == ""


def test_dry_run_estimates_time_and_size(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.ctxindex"
    plan = call("index", photos, "-o", archive, "--model", bundle.path, "--dry-run", "--json").json[0]
    estimate = plan["estimate"]
    assert (estimate["photos"], estimate["tried"]) == (18, 5)
    assert 200 < estimate["descriptors"] <= 300
    assert estimate["seconds"] == pytest.approx(18 * estimate["seconds_a_photo"])
    text = call("index", photos, "-o", archive, "--model", bundle.path, "--dry-run", "--geometry").out
    assert "s a photo) and" in text and " descriptors a photo), from 5 photos" in text
    assert not archive.exists() and not list(tmp_path.iterdir())
    assert call("index", photos, "-o", archive, "--model", bundle.path, "-q").code == 0
    stored = sum(path.stat().st_size for path in (archive / "shards").iterdir())
    # A posting holds all descriptors of a photo that share a word, so that less is stored than descriptors were found.
    assert 0 < stored < 1.2 * estimate["bytes"]
    done = call("index", photos, "-o", archive, "--dry-run", "--json").json[0]
    assert done["estimate"]["photos"] == done["estimate"]["bytes"] == 0


def test_an_estimate_of_batches_is_that_of_all_their_photos(
    bundle: Bundle, dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = OnnxRuntimeBackend._run

    def slow(self: OnnxRuntimeBackend, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        time.sleep(0.05 * len(images))
        return original(self, images)

    monkeypatch.setattr(OnnxRuntimeBackend, "_run", slow)
    for number in range(5):
        shutil.copy2(dirty / "coins_0.jpg", tmp_path / f"{number}.jpg")
    extractor = Extractor(bundle, config=ExtractorConfig(batch_size=5))
    expected = estimate(list_photos(str(tmp_path), recursive=False).photos, tmp_path / "a", extractor, IndexingConfig())
    assert expected is not None and expected.tried == 5
    assert expected.seconds_a_photo >= 0.05


def test_another_place_is_refused_and_a_moved_one_taken(call, bundle, photos: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        shutil.copytree(photos, place)
    archive = tmp_path / "a.ctxindex"
    assert call("index", first, "-o", archive, "--model", bundle.path, "-q").code == 0
    refused = call("index", second, "-o", archive)
    assert refused.code == 2 and "--moved" in refused.err and str(first) in refused.err
    assert call("index", second, "-o", archive, "--dry-run").code == 2
    moved = call("index", second, "-o", archive, "--moved", "--json")
    assert (moved.code, moved.json[0]["unchanged"]) == (0, 18)
    assert call("info", archive, "--json").json[0]["photos"] == str(second)
    shutil.rmtree(second)
    assert call("index", first, "-o", archive, "-q").code == 0, "a place that is gone needs no --moved"


def test_archives_are_named_after_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.photos").mkdir()
    names = {
        "my.photos": "my.photos",
        "my.photos/": "my.photos",
        ".": tmp_path.name,
        "lists/march.csv": "march",
        "shards-{000..099}.tar": "shards",
        "s3://bucket/summer/": "summer",
        "https://host/photos/?token=1": "photos",
        "s3://bucket": "bucket",
        "ftp://user:secret@host": "host",
    }
    assert {place: str(default_archive(place)) for place in names} == {
        place: f"{name}.ctxindex" for place, name in names.items()
    }


def test_what_is_left_out_is_told_by_the_run_and_before_it(call, photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    folder, archive = tmp_path / "album", tmp_path / "a.ctxindex"
    for name in ("coins_0.jpg", "@eaDir/coins_0.jpg/THUMB.jpg", "old/coins_1.jpg", "b.CR9", "c.jxl", ".x.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(photos / "coins_0.jpg", folder / name)
    (tmp_path / "list.csv").write_text("path;box\nalbum/coins_0.jpg;\nalbum/coins_0.jpg;1 2 3\n")
    remarks = (
        "2 files are not photos: 1 .CR9, 1 .jxl",
        "1 file or folder of systems and programs left out: 1 @eaDir",
        "1 hidden file or folder left out",
        "1 photo or folder left out by --include and --exclude",
        "JPEG XL is not read: convert it, with  djxl photo.jxl photo.png",
    )
    options = ("--exclude", "OLD", "-o", archive, "--model", bundle.path, "--words", 32)
    plan = call("index", folder, "--dry-run", *options)
    planned = call("index", folder, "--dry-run", "--json", *options)
    run = call("index", folder, *options)
    told = call("index", folder, "--json", *options)
    assert all(remark in plan.out and remark in run.err for remark in remarks)
    assert "1 photo added" in run.out and "0 failed, 2 other files left out" in run.out
    assert planned.json[0]["left_out"] == told.json[0]["left_out"]
    assert told.json[0]["left_out"]["other"] == {".CR9": 1, ".jxl": 1}
    assert (plan.code, run.code, told.json[0]["unchanged"]) == (0, 0, 1)

    # A wrong line of a list is a failure, told before and by the run.
    options = ("-o", tmp_path / "b.ctxindex", "--model", bundle.path, "--words", 32)
    plan, run = (
        call("index", tmp_path / "list.csv", "--dry-run", *options),
        call("index", tmp_path / "list.csv", *options),
    )
    reason = "list.csv, line 3: the box '1 2 3' is not four numbers"
    assert (plan.code, run.code) == (0, 19)
    assert "list.csv, line 3 (the box '1 2 3' is not four numbers" in plan.out
    assert reason in run.err and "1 photo added" in run.out


@pytest.mark.parametrize("words", [None, 32])
def test_a_photo_with_nothing_to_see_is_said(
    call, photos: Path, bundle: Bundle, shared_archive: Path, tmp_path: Path, words: int | None
) -> None:
    """Whether it trained the codebook, and came by the cache, or not; a dark photo is none."""
    folder = tmp_path / "album"
    folder.mkdir()
    for path in photos.glob("*_0.jpg"):
        shutil.copy2(path, folder / path.name)
    Image.new("RGB", (300, 200), (3, 3, 5)).save(folder / "black.png")
    Image.new("L", (300, 200), 250).save(folder / "white.jpg")
    Image.open(photos / "coins_0.jpg").point(lambda value: value // 8).save(folder / "dark.png")
    options = ["-o", tmp_path / "a.ctxindex", "--model", bundle.path, "--json"]
    options += ["--words", words] if words else ["--codebook", shared_archive / "codebook.safetensors"]
    result = call("index", folder, *options)
    assert result.code == 0
    told = {remark["name"]: remark["remark"] for remark in result.json[0]["remarks"]}
    assert told == {"black.png": "it is nearly one colour", "white.jpg": "it is nearly one colour"}
    assert "black.png: it is nearly one colour" in result.err
    assert "2 photos may not be found by any query" in result.err


def test_a_photo_that_vanishes_between_listing_and_reading(bundle: Bundle, dirty: Path, tmp_path: Path) -> None:
    listing = list_photos(str(dirty))
    (dirty / "coins_0.jpg").unlink()
    archive = tmp_path / "a.ctxindex"
    report = index_photos(listing, archive, Extractor(bundle), IndexingConfig(words=32), Display(quiet=True))
    reasons = {failure["name"]: failure["reason"] for failure in report.failures}
    assert "No such file" in reasons["coins_0.jpg"]
    assert (report.indexed, report.failed) == (5, 3)


def _without_override() -> None:
    """Give up root's right to read everything (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH), from the next program on."""
    prctl, drop_from_bounding_set = ctypes.CDLL(None).prctl, 24
    if os.geteuid() == 0:
        for capability in (1, 2):
            prctl(drop_from_bounding_set, capability, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities of Linux")
def test_a_photo_without_permission_is_tried_by_every_run(bundle: Bundle, dirty: Path, tmp_path: Path) -> None:
    (dirty / "coins_0.jpg").chmod(0)
    reading = subprocess.run(
        ["cat", dirty / "coins_0.jpg"], preexec_fn=_without_override, capture_output=True, check=False
    )
    if reading.returncode == 0:
        pytest.skip("this process cannot give up the right to read everything")
    command = [sys.executable, "-m", "ctxdeploy.cli.main", "index", str(dirty), "-o", str(tmp_path / "a.ctxindex")]
    command += ["--model", str(bundle.path), "--json", "-q"]

    def run() -> dict[str, Any]:
        done = subprocess.run(command, preexec_fn=_without_override, capture_output=True, check=False, timeout=600)
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    for _ in range(2):
        (failure,) = (failure for failure in run()["failures"] if failure["name"] == "coins_0.jpg")
        assert failure["stage"] == "read" and "Permission denied" in failure["reason"]
    (dirty / "coins_0.jpg").chmod(0o644)
    assert run()["indexed"] == 1


def test_what_would_help_is_said_after_a_run_that_was_long_enough(
    call, bundle: Bundle, dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a.ctxindex"
    assert "would help" not in _index(call, dirty, bundle, archive).err
    monkeypatch.setattr("ctxdeploy.cli.index.ADVISED_FROM", 0.0)
    shutil.copy2(dirty / "coins_0.jpg", dirty / "new.jpg")
    assert "would help" in _index(call, dirty, bundle, archive).err
