"""Indexing a folder again: changed, new and gone photos, dry runs, and what must not happen to an archive."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.index import Index
from ctxdeploy.runtime import Extractor


def _answers(archive: Path, extractor: Extractor, photos: list[Path]) -> list[object]:
    with Index.open(archive) as index:
        return [{hit.name: hit.score for hit in index.search(extractor.extract_one(photo), 100)} for photo in photos]


def _first(call, photo: Path, archive: Path, *options: object) -> str:
    result = call("query", photo, "--index", archive, "--json", *options)
    assert result.code == 0, result.err
    return result.json[0]["results"][0]["name"]


def _content(folder: Path) -> dict[str, object]:
    """Return every file below a folder with its bytes and times, and every folder with its time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


def test_changed_photo_is_found_under_its_new_content_alone(call, bundle, photos, folder, indexed, tmp_path) -> None:
    queries = photos.parent / "queries"
    shutil.copy(queries / "coins_3.jpg", folder / "rocket_0.jpg")
    (folder / "coffee_0.jpg").unlink()
    result = call("index", folder, "-o", indexed, "--sync", "--json")
    assert result.code == 0, result.err
    report = result.json[0]
    counts = {key: report[key] for key in ("indexed", "replaced", "changed", "unchanged", "removed", "missing")}
    assert counts == {"indexed": 0, "replaced": 1, "changed": 1, "unchanged": 16, "removed": 1, "missing": 0}
    assert _first(call, queries / "coins_3.jpg", indexed) == "rocket_0.jpg"
    assert _first(call, photos / "rocket_0.jpg", indexed) != "rocket_0.jpg"
    fresh = tmp_path / "fresh.ctxindex"
    options = ("--model", bundle.path, "--codebook", indexed / "codebook.safetensors", "-q")
    assert call("index", folder, "-o", fresh, *options).code == 0
    extractor = Extractor(bundle)
    every = [*queries.iterdir(), photos / "rocket_0.jpg"]
    assert _answers(indexed, extractor, every) == _answers(fresh, extractor, every)
    assert call("verify", indexed).code == 0


def test_times_that_no_archive_holds_change_nothing_twice(call, folder: Path, indexed: Path) -> None:
    """Before 1970, and after the last nanosecond of an int64, in 2262; file systems have last years of their own."""
    for name, seconds in (("coins_0", -43_200), ("coins_1", -1), ("coffee_0", 9_300_000_000), ("coffee_1", 1 << 34)):
        os.utime(folder / f"{name}.jpg", (seconds, seconds))
    assert call("index", folder, "-o", indexed, "--dry-run", "--json").json[0]["changed"] == 4
    first = call("index", folder, "-o", indexed, "--json")
    assert first.code == 0, first.err
    assert (first.json[0]["replaced"], first.json[0]["failed"]) == (4, 0)
    second = call("index", folder, "-o", indexed, "--json").json[0]
    assert (second["unchanged"], second["replaced"]) == (18, 0)
    assert call("index", folder, "-o", indexed, "--dry-run", "--json").json[0]["unchanged"] == 18
    assert call("verify", indexed).code == 0


def test_text_says_what_was_done(call, photos: Path, folder: Path, indexed: Path) -> None:
    shutil.copy(photos / "coins_1.jpg", folder / "new.jpg")
    os.utime(folder / "coins_0.jpg", (1, 1))
    (folder / "coffee_0.jpg").unlink()
    result = call("index", folder, "-o", indexed, "--sync")
    assert result.out.startswith(f"{indexed}: 1 photo added, 1 replaced (300 descriptors each), ")
    assert "16 unchanged, 1 removed, 0 failed" in result.out


def test_changed_photo_that_cannot_be_read_keeps_answering(call, photos: Path, folder: Path, indexed: Path) -> None:
    (folder / "coins_0.jpg").write_text("half a copy")
    for again in ((), ("--retry-failed",)):
        result = call("index", folder, "-o", indexed, "--sync", "--json", *again)
        assert (result.code, result.json[0]["changed"], result.json[0]["replaced"]) == (19, 1, 0)
        assert "1 changed photo could not be read; queries still find what they showed before" in result.err
        (failure,) = call("info", indexed, "--json").json[0]["failed_photos"]
        assert failure["name"] == "coins_0.jpg"
        assert _first(call, photos / "coins_0.jpg", indexed) == "coins_0.jpg"
        result = call("index", folder, "-o", indexed, "--sync", "--json")
        assert (result.code, result.json[0]["changed"], result.json[0]["given_up"]) == (0, 0, 1)
        assert "--retry-failed  tries them again" in result.err
    shutil.copy2(photos / "coins_0.jpg", folder / "coins_0.jpg")  # back from a copy, with its old time
    result = call("index", folder, "-o", indexed, "--json")
    assert (result.code, result.json[0]["unchanged"], result.json[0]["changed"]) == (0, 18, 0)
    assert call("info", indexed, "--json").json[0]["failed_photos"] == []


def test_dry_run_writes_nothing_and_needs_no_model(call, photos, folder, indexed, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CTXDEPLOY_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    with Index.open(indexed, writable=True) as index:
        index.record_failures([{"name": "broken.jpg", "reason": "cut", "stage": "decode"}])
    shutil.rmtree(indexed / "model")
    (folder / "broken.jpg").write_text("no photo")
    shutil.copy(photos / "coins_0.jpg", folder / "new.jpg")
    os.utime(folder / "rocket_0.jpg", (1, 1))
    (folder / "coffee_1.jpg").unlink()
    before = _content(tmp_path)
    result = call("index", folder, "-o", indexed, "--dry-run", "--sync", "--json")
    assert (result.code, result.err) == (0, "")
    (plan,) = result.json
    counts = {key: plan[key] for key in ("new", "changed", "unchanged", "gone", "failed_before")}
    assert counts == {"new": 2, "changed": 1, "unchanged": 16, "gone": 1, "failed_before": 1}
    assert plan["examples"] == {
        "new": ["broken.jpg", "new.jpg"],
        "changed": ["rocket_0.jpg"],
        "given_up": [],
        "refused": [],
        "gone": ["coffee_1.jpg"],
        "failed_before": ["broken.jpg"],
    }
    text = call("index", folder, "-o", indexed, "--dry-run").out
    assert "2 to add, 1 to replace, 16 unchanged, 1 gone; nothing was done" in text
    assert "gone (--sync removes them): coffee_1.jpg" in text
    new = call("index", folder, "-o", tmp_path / "new.ctxindex", "--dry-run").out
    assert "(new): 19 to add" in new
    assert _content(tmp_path) == before


def test_dry_run_refuses_what_a_run_refuses(call, folder: Path, indexed: Path, photos: Path, archive) -> None:
    queries = photos.parent / "queries"
    assert call("index", folder, "-o", indexed, "--dry-run", "--words", 65).code == 2
    assert call("index", folder, "-o", indexed, "--dry-run", "--geometry").code == 2
    assert call("index", folder, "-o", folder, "--dry-run").code == 15
    assert call("index", queries, "-o", indexed, "--dry-run", "--sync").code == 2
    (indexed / "CURRENT").unlink()
    result = call("index", folder, "-o", indexed, "--dry-run")
    assert result.code == 15
    assert f"ctxdeploy repair {indexed}" in result.err


def test_sync_removes_nothing_in_a_folder_that_cannot_be_listed(call, bundle, folder, tmp_path, monkeypatch) -> None:
    below = folder / "disk"
    below.mkdir()
    for name in ("coins_0.jpg", "coins_1.jpg"):
        (folder / name).rename(below / name)
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "-q").code == 0
    below.rename(tmp_path / "away")  # what a dead mount point looks like: it is there, and nothing can be asked of it
    below.mkdir()
    (folder / "rocket_0.jpg").unlink()
    real = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith("disk"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = call("index", folder, "-o", archive, "--sync", "--json")
    assert (result.code, result.json[0]["removed"]) == (19, 1)
    assert call("index", folder, "-o", archive, "--dry-run", "--json").json[0]["unreadable_folders"] == ["disk/"]
    with Index.open(archive) as index:
        assert {name for name in index.names() if name.startswith("disk/")} == {"disk/coins_0.jpg", "disk/coins_1.jpg"}
    monkeypatch.undo()
    assert call("index", folder, "-o", archive, "--sync", "--json").json[0]["removed"] == 2


def test_sync_keeps_what_another_run_did_not_look_at(call, bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    (folder / "below").mkdir()
    (folder / "coins_0.jpg").rename(folder / "below" / "coins_0.jpg")
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "-q").code == 0
    report = call("index", folder, "-o", archive, "--sync", "--no-recursive", "--json").json[0]
    assert (report["removed"], report["unchanged"]) == (0, 17)


def test_sync_refuses_to_leave_nothing(call, photos: Path, folder: Path, indexed: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    shutil.copy(photos / "coins_0.jpg", folder / "other.jpg")
    before = call("info", indexed, "--json").json
    result = call("index", folder, "-o", indexed, "--sync", "-q")
    assert result.code == 2
    assert "--sync would remove 18 photos" in result.err
    assert call("info", indexed, "--json").json[0]["images"] == before[0]["images"]


def test_interrupted_run_changes_and_removes_nothing_by_halves(
    call, bundle, photos, folder, indexed, monkeypatch
) -> None:
    for number in range(3):
        shutil.copy(photos.parent / "queries" / "coins_3.jpg", folder / f"rocket_{number}.jpg")
    (folder / "coffee_0.jpg").rename(folder / "renamed.jpg")
    original = Extractor.extract

    def interrupted(self, sources):
        for count, result in enumerate(original(self, sources)):
            if count == 2:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "extract", interrupted)
        assert call("index", folder, "-o", indexed, "--sync").code == 130
    with Index.open(indexed) as index:
        assert {f"rocket_{number}.jpg" for number in range(3)} | {"coffee_0.jpg"} <= set(index.names())
        assert index.verify() == []
    report = call("index", folder, "-o", indexed, "--sync", "--json").json[0]
    assert (report["indexed"] + report["replaced"], report["removed"]) == (2, 1)
    with Index.open(indexed) as index:
        assert sorted(index.names()) == sorted(path.name for path in folder.iterdir())
    assert call("index", folder, "-o", indexed, "--dry-run", "--json").json[0]["unchanged"] == 18


def test_second_run_at_the_same_time_is_refused(call, folder: Path, indexed: Path) -> None:
    with Index.open(indexed, writable=True) as index:
        index.remove([name for name in index.names() if name != "coins_0.jpg"])
    command = [sys.executable, "-m", "ctxdeploy.cli.main", "index", str(folder), "-o", str(indexed)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    limit = time.monotonic() + 600
    while (indexed / "LOCK").read_text() != f"{first.pid}\n" and first.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)
    result = call("index", folder, "-o", indexed)
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=600)
    assert first.returncode == 0, err
    assert result.code == 15
    assert f"process {first.pid}" in result.err
    assert call("info", indexed, "--json").json[0]["images"] == 18


def test_small_shards_are_compacted_at_the_end_of_a_run(call, folder: Path, indexed: Path) -> None:
    random = np.random.default_rng(0)
    with Index.open(indexed, writable=True) as index:
        for number in range(8):
            index.add(f"made-{number}", random.standard_normal((50, 128), np.float32))
            index.commit()
    result = call("index", folder, "-o", indexed, "--json")
    assert result.json[0]["compacted"] == 9
    assert "merged 9 shards" in result.err
    assert len(list((indexed / "shards").iterdir())) == len(list(indexed.glob("manifest-*"))) == 1
    assert call("verify", indexed).code == 0


def test_disk_without_room_for_compaction_is_no_failed_run(call, folder: Path, indexed: Path, monkeypatch) -> None:
    from ctxdeploy.core.errors import StorageError

    def full(self, progress=None):
        raise StorageError("no space left on device")

    monkeypatch.setattr(Index, "compact_if_worth_it", full)
    result = call("index", folder, "-o", indexed)
    assert result.code == 0
    assert "not compacted: no space left" in result.err


def test_geometry_is_in_pixels_of_the_photos(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    """Also of photos whose descriptors trained the codebook and come from the spool."""
    archive = tmp_path / "a.ctxindex"
    options = ("--model", bundle.path, "-q", "--training-photos", 7)
    # What follows the option is PLACE, not its value.
    assert call("index", "-o", archive, *options, "--geometry", photos).code == 0
    extractor = Extractor(bundle)
    with Index.open(archive) as index:
        assert index.config.geometry == "codes"
        for name in sorted(index.names()):
            descriptors, found = extractor.extract_one(photos / name), index.features(name)
            with Image.open(photos / name) as opened:
                assert found.size == opened.size
            assert np.array_equal(found.codes, index.features(descriptors).codes)
            order = np.argsort(index.codebook.assign(descriptors.vectors, 1)[:, 0], kind="stable")
            assert np.abs(found.positions - descriptors.positions[order]).max() < 0.05
            assert np.allclose(found.scales, descriptors.scales[order], rtol=1e-3)
        count, dim = sum(len(index.features(name)) for name in index.names()), index.codebook.dim
    facts, each = call("info", archive, "--json").json[0], 8 + 8 * -(-dim // 64)
    assert facts["config"]["geometry"] == "codes"
    assert facts["features"] == {"kept": "codes", "count": count, "bytes_each": each}
    assert f"  geometry: codes, {each} bytes each for {count:,} features" in call("info", archive).out.splitlines()
    assert call("index", photos, "-o", archive, "-q", "--geometry").code == 0
    result = call("index", photos, "-o", archive, "-q", "--geometry", "descriptors")
    assert result.code == 2 and "made with --geometry codes: leave it out, or choose another -o" in result.err
    assert call("index", photos, "-o", archive, "-q", "--geometry=all").code == 2


def test_descriptors_are_kept(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    archive, codebook = tmp_path / "a.ctxindex", bundle.path
    options = ("--model", codebook, "-q", "--words", 16, "--geometry", "descriptors")
    assert call("index", photos, "-o", archive, *options).code == 0
    assert call("index", photos, "-o", archive, *options).code == 0
    with Index.open(archive) as index:
        asked = index.features(Extractor(bundle).extract_one(photos / "rocket_0.jpg"))
        found = index.features("rocket_0.jpg")
        assert np.abs(found.vectors - asked.vectors).max() <= np.abs(asked.vectors).max() / 253
    assert call("verify", archive).code == 0


def test_an_archive_of_positions_goes_on_as_it_is(call, bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    """--geometry meant positions before there were codes."""
    archive = tmp_path / "a.ctxindex"
    options = ("--model", bundle.path, "--words", 16)
    assert call("index", folder, "-o", archive, *options, "--geometry", "positions").code == 0
    (folder / "rocket_0.jpg").rename(folder / "renamed.jpg")
    assert "--verify needs codes" not in call("index", folder, "-o", archive, "--dry-run").err
    result = call("index", folder, "-o", archive, "--geometry")
    assert result.code == 0 and f"{archive} keeps positions alone" in result.err and "needs codes" in result.err
    with Index.open(archive) as index:
        found = index.features("renamed.jpg")
        assert (found.codes, found.size) == (None, None) and len(found) > 0
    assert call("index", folder, "-o", archive, "--geometry", "descriptors").code == 2


def test_geometry_of_an_archive_without(call, folder: Path, indexed: Path) -> None:
    result = call("index", folder, "-o", indexed, "--geometry", "-q")
    assert result.code == 2
    assert "made without --geometry" in result.err


@pytest.mark.parametrize("flag", ["--sync", "--gc"])
def test_first_run_takes_every_flag(call, bundle: Bundle, photos: Path, tmp_path: Path, flag: str) -> None:
    archive = tmp_path / "a.ctxindex"
    options = ("--model", bundle.path, "--words", 16, "-q", flag)
    assert call("index", photos, "-o", archive, *options).code == 0
    assert call("verify", archive).code == 0
