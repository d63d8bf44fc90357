"""Runs that stop and go on: Ctrl-C, a second run, photos that come later, descriptors that are not made twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.index import Index
from ctxdeploy.runtime import Extractor


def _answers(archive: Path, extractor: Extractor, photos: list[Path]) -> list[object]:
    with Index.open(archive) as index:
        return [{hit.name: hit.score for hit in index.search(extractor.extract_one(photo), 100)} for photo in photos]


@pytest.fixture
def extracted(monkeypatch) -> list[str]:
    """Names of the photos that go through the network."""
    names: list[str] = []
    original = Extractor.extract

    def extract(self, photos):
        for result in original(self, photos):
            names.append(result.name)
            yield result

    monkeypatch.setattr(Extractor, "extract", extract)
    return names


def test_no_photo_is_extracted_twice(call, bundle: Bundle, photos: Path, tmp_path: Path, extracted: list[str]) -> None:
    archive = tmp_path / "a.ctxindex"
    arguments = ("index", photos, "-o", archive, "--model", bundle.path, "-q", "--training-photos", 7)
    assert call(*arguments).code == 0
    assert sorted(extracted) == sorted(path.name for path in photos.iterdir())
    assert not archive.with_name("a.ctxindex.training").exists()
    extracted.clear()
    result = call("index", photos, "-o", archive, "--json", "-q")
    assert (result.json[0]["unchanged"], result.json[0]["indexed"], extracted) == (18, 0, [])


def test_new_photos_are_added_and_changed_ones_replaced(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "growing"
    shutil.copytree(photos, folder)
    (folder / "coins_0.jpg").rename(tmp_path / "later.jpg")
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "-q").code == 0
    (folder / "below").mkdir()
    (tmp_path / "later.jpg").rename(folder / "below" / "coins_0.jpg")
    os.utime(folder / "rocket_0.jpg", (1, 1))
    result = call("index", folder, "-o", archive, "--json")
    report = result.json[0]
    assert (report["indexed"], report["unchanged"], report["changed"], report["replaced"]) == (1, 16, 1, 1)
    answer = call("query", folder / "below" / "coins_0.jpg", "--index", archive, "--json").json[0]
    assert answer["results"][0]["name"] == "below/coins_0.jpg"


@pytest.mark.parametrize("after", [3, 12])
def test_ctrl_c_keeps_what_was_done(call, bundle, photos, shared_archive, tmp_path, monkeypatch, after: int) -> None:
    archive = tmp_path / "a.ctxindex"
    arguments = ("index", photos, "-o", archive, "--model", bundle.path, "-q", "--training-photos", 8, "--json")
    original = Extractor.extract
    count = 0

    def interrupted(self, sources):
        nonlocal count
        for result in original(self, sources):
            if count == after:
                raise KeyboardInterrupt
            count += 1
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "extract", interrupted)
        result = call(*arguments)
    assert result.code == 130
    assert "run the same command again" in result.err
    seen: list[str] = []

    def counted(self, sources):
        for item in original(self, sources):
            seen.append(item.name)
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "extract", counted)
        assert call(*arguments).code == 0
    assert len(seen) == 18 - after
    with Index.open(archive) as index:
        assert sorted(index.names()) == sorted(path.name for path in photos.iterdir())
        assert index.verify() == []


@pytest.mark.slow
def test_killed_by_sigint_as_a_process(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.ctxindex"
    command = [sys.executable, "-m", "ctxdeploy.cli.main", "index", str(photos), "-o", str(archive)]
    command += ["--model", str(bundle.path), "--words", "64"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    spool = archive.with_name("a.ctxindex.training")
    limit = time.monotonic() + 600
    while not list(spool.glob("*/*.safetensors")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode in (0, 130), err
    assert "Traceback" not in err
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    extractor = Extractor(bundle)
    with Index.open(archive) as index:
        assert len(index) == 18
        assert index.search(extractor.extract_one(photos / "coins_0.jpg"))[0].name == "coins_0.jpg"


def test_answers_do_not_depend_on_the_order_of_runs(call, bundle, photos, shared_archive, tmp_path: Path) -> None:
    """Photos that come in two runs answer like photos that come in one, with the same codebook."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = sorted(path.name for path in photos.iterdir())
    archive = tmp_path / "a.ctxindex"
    arguments = ("index", folder, "-o", archive, "--model", bundle.path, "-q")
    for part in (names[9:], names[:9]):
        for name in part:
            shutil.copy2(photos / name, folder / name)
        codebook = () if archive.exists() else ("--codebook", shared_archive / "codebook.safetensors")
        assert call(*arguments, *codebook).code == 0
    queries = sorted((photos.parent / "queries").iterdir())
    extractor = Extractor(bundle)
    assert _answers(archive, extractor, queries) == _answers(shared_archive, extractor, queries)


def test_photos_that_are_gone_are_told(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "broken.jpg").write_text("no photo")
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "-q").code == 19
    for name in ("broken.jpg", "coins_1.jpg"):
        (folder / name).unlink()
    result = call("index", folder, "-o", archive, "--json")
    assert (result.code, result.json[0]["missing"], result.json[0]["unchanged"]) == (0, 1, 17)
    assert "the files of 1 photo of the archive are gone" in result.err
    assert call("info", archive, "--json").json[0]["failed_photos"] == []


def test_garbage_goes_when_asked(call, archive: Path, photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    former = sorted(path.name for path in archive.glob("manifest-*"))
    (archive / "shards" / f"{'0' * 64}.safetensors").write_bytes(b"left by an interrupted run")
    shutil.copytree(photos, tmp_path / "moved")
    assert call("index", photos, "-o", archive, "-q", "--gc").code == 0
    assert len(list(archive.glob("manifest-*"))) == 1 < len(former)
    assert len(list((archive / "shards").iterdir())) == 1
    assert call("verify", archive).code == 0
    assert call("query", photos / "coins_0.jpg", "--index", archive).code == 0


def test_a_second_first_run_is_refused_and_harms_nothing(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.ctxindex"
    arguments = ("index", photos, "-o", archive, "--model", bundle.path)
    command = [sys.executable, "-m", "ctxdeploy.cli.main", *map(str, arguments)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    spool = archive.with_name("a.ctxindex.training")
    limit = time.monotonic() + 600
    while not list(spool.glob("*/*.safetensors")) and first.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    result = call(*arguments)
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=600)
    assert first.returncode == 0, err
    assert result.code == 15
    assert f"process {first.pid}" in result.err
    assert not spool.exists()


def test_a_refused_model_leaves_the_spool_of_another(call, bundle, archive, photos, tmp_path, checkpoint) -> None:
    new = tmp_path / "new.ctxindex"
    spool = tmp_path / "new.ctxindex.training" / "0123456789abcdef"
    spool.mkdir(parents=True)
    (spool / "x.safetensors").write_bytes(b"hours of work of another model")
    assert call("index", photos, "-o", new, "--model", bundle.path, "-q").code == 0
    assert [path.name for path in spool.iterdir()] == ["x.safetensors"]


def test_archive_whose_making_was_interrupted_gets_its_model(
    call, bundle, archive, photos, tmp_path, monkeypatch
) -> None:
    shutil.rmtree(archive / "model")
    shutil.copytree(bundle.path, tmp_path / "only.ctxbundle")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CTXDEPLOY_MODEL", raising=False)
    assert call("index", photos, "-o", archive, "-q").code == 0
    assert call("query", photos / "coins_0.jpg", "--index", archive).code == 0
