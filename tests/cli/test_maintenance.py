"""Snapshots, compaction, merging, removal, repair: an archive over its life."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ctxdeploy.archive import photo_folder, store_origin
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index import Index
from ctxdeploy.runtime import Extractor
from ctxdeploy.runtime.sources import PhotoList


def _one_line(result, code: int, *words: str) -> None:
    assert result.code == code, result
    (line,) = [line for line in result.err.splitlines() if line.startswith("ctxdeploy: ")]
    assert "Traceback" not in result.err
    for word in words:
        assert word in line, line


def _hits(call, photo: Path, archive: Path, *options: object) -> list[str]:
    result = call("query", photo, "--index", archive, "--json", *options)
    assert result.code == 0, result.err
    return [hit["name"] for hit in result.json[0]["results"]]


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.fixture
def halves(bundle: Bundle, photos: Path, shared_archive: Path, tmp_path: Path, call) -> tuple[Path, Path]:
    """Two archives, of the first 10 and the last 10 of 18 photos, made with one codebook."""
    names = sorted(path.name for path in photos.iterdir())
    made = []
    for label, part in (("first", names[:10]), ("last", names[8:])):
        folder = tmp_path / label
        folder.mkdir()
        for name in part:
            shutil.copy2(photos / name, folder / name)
        options = ("--model", bundle.path, "-q", "--codebook", shared_archive / "codebook.safetensors")
        made.append(tmp_path / f"{label}.ctxindex")
        assert call("index", folder, "-o", made[-1], *options).code == 0
    return made[0], made[1]


def test_snapshot_answers_as_before(call, photos: Path, archive: Path) -> None:
    made = call("snapshot", archive, "monday")
    assert (made.code, made.out.split()[:2]) == (0, ["monday", "manifest"])
    number = call("info", archive, "--json").json[0]["manifest"]
    assert call("remove", archive, "coins_0.jpg", "-q").code == 0
    assert call("compact", archive, "--purge", "-q").code == 0
    query = photos / "coins_0.jpg"
    assert "coins_0.jpg" not in _hits(call, query, archive)
    for at in ("monday", number):
        assert _hits(call, query, archive, "--at", at)[0] == "coins_0.jpg"
    assert call("info", archive, "--at", "monday", "--json").json[0]["images"] == 18
    facts = call("info", archive, "--json").json[0]
    assert (facts["images"], facts["snapshots"]) == (17, ["monday"])
    (listed,) = call("snapshot", archive, "--json").json[0]["snapshots"]
    assert (listed["name"], listed["manifest"]) == ("monday", number)
    assert call("snapshot", archive, "--remove", "monday", "-q").code == 0
    assert call("compact", archive, "-q").code == 0
    _one_line(call("query", query, "--index", archive, "--at", number), 15, f"no manifest {number}")
    _one_line(call("query", query, "--index", archive, "--at", "monday"), 2, "monday", f"ctxdeploy snapshot {archive}")
    listed = call("snapshot", archive)
    assert (listed.out, listed.err) == ("", f"{archive} has no snapshots\n")


def test_snapshot_whose_name_is_a_number(call, photos: Path, archive: Path) -> None:
    assert call("snapshot", archive, "2024", "-q").code == 0
    assert call("remove", archive, "coins_0.jpg", "-q").code == 0
    assert _hits(call, photos / "coins_0.jpg", archive, "--at", "2024")[0] == "coins_0.jpg"


def test_mistakes_with_snapshots(call, archive: Path, bundle: Bundle) -> None:
    _one_line(call("snapshot", archive, "../evil"), 2, "letters, digits")
    _one_line(call("snapshot", archive, "a", "--remove", "b"), 2, "exclude each other")
    _one_line(call("snapshot", archive, "--remove", "none"), 2, "no snapshot 'none'")
    assert call("snapshot", archive, "a").code == 0
    _one_line(call("snapshot", archive, "a"), 2, "'a' exists")
    _one_line(call("info", bundle.path, "--at", "a"), 2, "--at a", "leave out")


def test_compact_says_what_it_won(call, photos: Path, archive: Path) -> None:
    with Index.open(archive, writable=True) as index:
        for name in sorted(index.names())[:6]:
            index.remove(name)
            index.commit()
    facts = call("compact", archive, "--json", "-q").json[0]
    assert (facts["merged"], facts["shards"]) == (1, {"before": 1, "after": 1})
    after = sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())
    assert facts["bytes"]["before"] > facts["bytes"]["after"] == after
    assert facts["files_removed"] > 6
    assert call("info", archive, "--json").json[0]["removed"] == 0
    result = call("compact", archive)
    assert result.out.startswith(f"{archive}: 1 to 1 shards, ")
    assert call("verify", archive).code == 0


def test_purge_leaves_nothing_of_a_photo(call, archive: Path) -> None:
    name = b"coins_1.jpg"
    assert any(name in path.read_bytes() for path in archive.rglob("*.safetensors"))
    assert call("snapshot", archive, "s", "-q").code == 0
    assert call("remove", archive, name.decode(), "-q").code == 0
    assert "s need is still there" in call("compact", archive, "--purge").err
    assert call("snapshot", archive, "--remove", "s", "-q").code == 0
    assert call("compact", archive, "--purge").err == ""
    assert not any(name in path.read_bytes() for path in archive.rglob("*.*") if path.is_file())


def test_merged_archives_answer_as_one(call, bundle, photos, halves, shared_archive) -> None:
    first, last = halves
    _one_line(call("merge", first, last), 2, "2 photos are in both archives", "--conflicts keep")
    assert len(Index.open(first)) == 10
    result = call("merge", first, last, "--conflicts", "keep")
    assert result.out == f"{last}: 8 photos added, 0 replaced, 2 kept\n{first}: 18 photos\n"
    facts = call("merge", first, last, "--conflicts", "replace", "--json").json[0]
    assert facts["merged"] == [{"path": str(last), "added": 0, "replaced": 10, "kept": 0}]
    assert call("verify", first).code == 0
    extractor = Extractor(bundle)
    for query in (photos.parent / "queries").iterdir():
        descriptors = extractor.extract_one(query)
        found = [
            {hit.name: hit.score for hit in Index.open(path).search(descriptors, 99)}
            for path in (first, shared_archive)
        ]
        assert found[0] == found[1]


def test_archives_are_merged_together_or_not_at_all(call, halves, shared_archive, tmp_path: Path) -> None:
    first, last = halves
    assert call("remove", last, *sorted(Index.open(last).names())[:2], "-q").code == 0
    before = {path: path.read_bytes() for path in first.glob("*") if path.is_file() and path.name != "LOCK"}
    _one_line(call("merge", first, last, tmp_path / "none"), 15, "none is not an archive")
    _one_line(call("merge", first, last, shared_archive), 2, "in both archives")
    _one_line(call("merge", first, last, first), 2, "into itself")
    assert {path: path.read_bytes() for path in before} == before
    assert len(Index.open(first)) == 10
    assert call("merge", first, last, "-q").code == 0
    assert len(Index.open(first)) == 18


def test_archive_with_another_codebook_is_not_merged(call, bundle, photos, archive, tmp_path: Path) -> None:
    other = tmp_path / "other.ctxindex"
    assert call("index", photos, "-o", other, "--model", bundle.path, "--words", 16, "-q").code == 0
    _one_line(call("merge", archive, other), 16, "codebook", "--codebook")


def test_removed_photos_are_not_found(call, photos: Path, archive: Path) -> None:
    result = call("remove", archive, "coins_0.jpg", "coins_1.jpg", "coins_1.jpg", "nothing.jpg")
    assert (result.code, result.out) == (0, f"{archive}: 2 photos removed, 16 left\n")
    assert "not in the archive: nothing.jpg" in result.err
    assert f"2 files still in {photos}" in result.err
    assert not {"coins_0.jpg", "coins_1.jpg"} & set(_hits(call, photos / "coins_0.jpg", archive))
    _one_line(call("remove", archive, "coins_0.jpg"), 2, "not in", "coins_0.jpg")
    facts = call("remove", archive, "coins_0.jpg", "coins_2.jpg", "--json").json[0]
    assert (facts["removed"], facts["images"], facts["unknown"]) == (1, 15, ["coins_0.jpg"])
    assert call("index", photos, "-o", archive, "--json").json[0]["indexed"] == 3


def test_names_from_a_file_and_from_stdin(call, archive: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "names").write_bytes(b"coins_0.jpg\n\ncoins_1.jpg")
    assert call("remove", archive, "coins_2.jpg", "--from", tmp_path / "names", "--json").json[0]["removed"] == 3
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"rocket_0.jpg\n")))
    assert call("remove", archive, "--from", "-", "--json").json[0]["removed"] == 1
    monkeypatch.setattr(sys, "stdin", None)
    _one_line(call("remove", archive, "--from", "-"), 2, "--from - reads names from stdin, which is closed")
    (tmp_path / "names").write_bytes(b"")
    assert call("remove", archive, "--from", tmp_path / "names").out == f"{archive}: 0 photos removed, 14 left\n"
    _one_line(call("remove", archive, "--from", tmp_path / "none"), 2, "--from", "none")
    _one_line(call("remove", archive), 2, "no photos to remove")


def test_names_that_are_no_text(archive: Path, call) -> None:
    names = [b"caf\xe9.jpg", b"a\nb.jpg", b"\xff\xfe"]
    with Index.open(archive, writable=True) as index:
        for name in names:
            index.add(os.fsdecode(name), index.codebook.centroids[:5])
    command = [sys.executable, "-m", "ctxdeploy.cli.main", "remove", str(archive), *names[:2], "--from", "-"]
    done = subprocess.run(command, input=names[2] + b"\n\xe9\n", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"3 photos removed, 18 left" in done.stdout
    assert b"not in the archive: \\udce9" in done.stderr
    _one_line(call("remove", archive, "\ud800"), 2, "name")


def test_flipped_bit_repaired_and_its_photos_indexed_again(call, photos, folder: Path, indexed: Path) -> None:
    (shard,) = (indexed / "shards").iterdir()
    (folder / "later.jpg").write_bytes((folder / "coins_0.jpg").read_bytes())
    assert call("index", folder, "-o", indexed, "-q").code == 0
    _flip(shard, shard.stat().st_size // 2)
    result = call("verify", indexed)
    assert result.code == 15
    assert result.err.splitlines()[-1].endswith(f"run  ctxdeploy repair {indexed}")
    result = call("repair", indexed)
    assert result.code == 0, result.err
    (lost,) = indexed.glob("lost-*.jsonl")
    for word in (f"was damaged: {shard}", "astronaut_0.jpg", str(lost), "18 photos lost"):
        assert word in result.out
    assert f"ctxdeploy index {folder} -o {indexed}" in result.out
    assert len(lost.read_text().splitlines()) == 18
    assert call("verify", indexed).code == 0
    assert _hits(call, photos / "coins_0.jpg", indexed)[0] == "later.jpg"
    report = call("index", folder, "-o", indexed, "--json").json[0]
    assert (report["indexed"], report["unchanged"]) == (18, 1)
    assert call("verify", indexed).code == 0
    assert "coins_0.jpg" in _hits(call, photos / "coins_0.jpg", indexed)[:2]
    sound = call("repair", indexed, "-q")
    assert (sound.code, sound.out, sound.err) == (0, f"{indexed}: sound\n", "")


def _lose_pointer(archive: Path) -> None:
    (archive / "CURRENT").unlink()


def _cut_manifest(archive: Path) -> None:
    newest = max(archive.glob("manifest-*.json"))
    newest.write_bytes(newest.read_bytes()[:-100])


def _damage_origin(archive: Path) -> None:
    (archive / "origin.json").write_text("{")


def _damage_names(archive: Path) -> None:
    _flip(next((archive / "names").iterdir()), -1)


def test_a_flipped_bit_in_the_origin_is_found(tmp_path: Path) -> None:
    place = tmp_path / "photos"
    store_origin(tmp_path, PhotoList(place=str(place), photos=[], folder=place), {"backend": "onnxruntime"})
    path = tmp_path / "origin.json"
    original = path.read_bytes()
    for place in range(len(original) - 1):  # but the end of the line
        for bit in {place % 8, place * 3 % 7}:
            damaged = bytearray(original)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            if path.read_bytes().decode("latin-1").split() == original.decode("latin-1").split():
                continue  # a blank became another blank
            with pytest.raises(ArchiveError, match=r"origin\.json is damaged"):
                photo_folder(tmp_path)
    path.write_bytes(original)
    assert photo_folder(tmp_path) == (tmp_path / "photos").resolve()


@pytest.mark.parametrize("damage", [_lose_pointer, _damage_origin, _damage_names])
def test_damage_that_costs_no_photo(call, photos: Path, archive: Path, damage: Callable[[Path], None]) -> None:
    damage(archive)
    result = call("verify", archive)
    assert result.code == 15
    assert f"ctxdeploy repair {archive}" in result.err.splitlines()[-1]
    facts = call("repair", archive, "--json", "-q")
    assert facts.code == 0, facts.err
    assert (len(facts.json[0]["problems"]), facts.json[0]["lost"], facts.json[0]["left"]) == (1, [], [])
    assert call("verify", archive).code == 0
    assert call("index", photos, "-o", archive, "--json").json[0]["unchanged"] == 18


def test_cut_manifest_goes_back_to_the_newest_sound_one(call, photos: Path, archive: Path) -> None:
    assert call("remove", archive, "coins_0.jpg", "-q").code == 0
    _cut_manifest(archive)
    assert call("repair", archive).code == 0
    assert _hits(call, photos / "coins_0.jpg", archive)[0] == "coins_0.jpg"


def test_repair_says_what_it_cannot_mend(call, photos: Path, bundle: Bundle, archive: Path) -> None:
    assert call("snapshot", archive, "old", "-q").code == 0
    (shard,) = (archive / "shards").iterdir()
    _flip(shard, 5000)
    result = call("repair", archive)
    assert "repaired, 18 photos lost" in result.out
    _one_line(result, 15, "1 problem left", f"ctxdeploy snapshot {archive} --remove old")
    assert call("snapshot", archive, "--remove", "old", "-q").code == 0
    assert call("repair", archive).code == 0
    _flip(archive / "model" / "model.onnx", 1_000_000)
    _one_line(call("repair", archive), 15, "--model BUNDLE")
    assert call("index", photos, "-o", archive, "--model", bundle.path, "-q").code == 0
    assert call("verify", archive).code == 0


def test_archive_made_in_python_is_sound_without_a_model(call, shared_archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.ctxindex"
    with Index.create(path, Index.open(shared_archive).codebook) as index:
        index.add("a", index.codebook.centroids)
    assert call("verify", path).code == 0
    assert call("repair", path).code == 0
    assert call("info", path, "--json").json[0]["images"] == 1


def test_every_writing_command_names_the_process_that_writes(call, halves) -> None:
    archive, other = halves
    with Index.open(archive, writable=True):
        for command in (
            ("index", archive.with_name("first"), "-o", archive),
            ("remove", archive, "coins_0.jpg"),
            ("merge", archive, other),
            ("compact", archive),
            ("repair", archive),
        ):
            _one_line(call(*command, "-q"), 15, f"process {os.getpid()}")
        assert call("snapshot", archive, "now").code == 0
        assert call("info", archive).code == 0


@pytest.mark.parametrize("command", ["snapshot", "compact", "merge", "remove", "repair"])
def test_no_archive(call, photos: Path, tmp_path: Path, command: str) -> None:
    more = {"merge": [tmp_path], "remove": ["a"]}.get(command, [])
    for path in (photos, tmp_path / "none", photos / "coins_0.jpg"):
        _one_line(call(command, path, *more), 15, str(path), "is not an archive")
    assert not (photos / "LOCK").exists()
    assert call(command).code == 2


@pytest.mark.parametrize("pointer", [True, False])
def test_archive_of_a_newer_ctxdeploy_is_left_alone(call, archive: Path, pointer: bool) -> None:
    """What this version cannot read is not damaged: a repair would go back to an older state."""
    newest = max(archive.glob("manifest-*.json"))
    text = newest.read_bytes().replace(b'"format_version": 2', b'"format_version": 5')
    newest.write_bytes(text)
    (archive / "CURRENT").write_text(f"{newest.name} {hashlib.sha256(text).hexdigest()}\n" if pointer else "cut")
    files = (path for path in archive.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files if "lease" not in path.parts}
    for command in ("repair", "verify") if pointer else ("repair",):
        _one_line(call(command, archive), 15, "format_version 5", "upgrade it")
    assert {path: path.read_bytes() for path in before} == {**before, archive / "LOCK": (archive / "LOCK").read_bytes()}


def test_shard_of_a_newer_ctxdeploy_is_not_damaged(call, photos: Path, archive: Path, monkeypatch) -> None:
    monkeypatch.setattr("ctxdeploy.index.storage.shard.FORMAT_VERSIONS", (1,))
    for command in (("query", photos / "coins_0.jpg", "--index", archive), ("verify", archive), ("repair", archive)):
        result = call(*command)
        _one_line(result, 15, "format_version '2'", "upgrade it")
        assert "ctxdeploy repair" not in result.err
