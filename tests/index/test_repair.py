"""Repair: every kind of damage, what the report says, and that what was sound answers as before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index import Index, IndexConfig

COUNT = 12


@pytest.fixture(params=[False, True], ids=["", "idf"])
def archive(request: Any, make_photos: Any, make_archive: Any) -> Path:
    """Return three shards of 000..003, 004..007 and 008..011; 001 removed, 002 replaced (in a fourth), one failure."""
    photos = make_photos(COUNT)
    path: Path = make_archive(photos, IndexConfig(shard_images=4, idf=request.param))
    with Index.open(path, writable=True) as index:
        index.remove("001")
        index.add("002", photos[7], replace=True)
        index.record_failures([{"name": "bad", "reason": "cut"}])
        index.commit()
        index.collect_garbage()
    return path


def manifest(path: Path) -> dict[str, Any]:
    """Return the manifest in force."""
    data: dict[str, Any] = json.loads((path / (path / "CURRENT").read_text().split()[0]).read_text())
    return data


def flip(path: Path) -> None:
    """Flip a bit in the last quarter of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 8
    path.write_bytes(data)


def truncate(path: Path) -> None:
    """Cut a byte off."""
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: list[Callable[[Path], Any]] = [flip, truncate, Path.unlink, lambda path: path.write_bytes(b"")]
LIVE = ["000", "002", *(f"{number:03d}" for number in range(3, COUNT))]


def answers(path: Path, photos: Any) -> dict[tuple[int, str], float]:
    """Return all scores without idf."""
    with Index.open(path) as index:
        found = index.search_batch(photos, 100, idf=False)
    return {(number, hit.name): hit.score for number, hits in enumerate(found) for hit in hits}


def check(path: Path, photos: Any, before: dict[Any, float], lost: list[str], unnamed: int = 0) -> Any:
    """Repair, and compare what is left with what was there; a second repair changes nothing."""
    report = Index.repair(path)
    assert sorted(report.lost) == sorted(lost) and report.unnamed == unnamed and report.problems
    listed = [] if report.list is None else [json.loads(line)["name"] for line in report.list.read_text().splitlines()]
    assert sorted(listed) == sorted(lost) and (report.list is None) == (not lost)
    with Index.open(path) as index:
        assert index.verify() == [] and index.info()["manifest"] == report.manifest
        names = set(index.names())
        assert names.isdisjoint(lost) and len(names) == len(index)
    after = answers(path, photos)
    same = {key: score for key, score in after.items() if key in before}
    assert same == {key: score for key, score in before.items() if key[1] in names}
    assert {key[1] for key in after.keys() - before.keys()} <= set(report.returned)
    state = contents(path)
    again = Index.repair(path)
    assert again.problems == () and again.lost == () and again.list is None and again.manifest == report.manifest
    assert contents(path) == state
    with Index.open(path, writable=True) as index:
        for name in lost:
            index.add(name, photos[0])
        index.commit()
        index.collect_garbage()
        assert index.verify() == [] and set(lost) <= set(index.names())
    assert json.dumps(report.metadata())
    return report


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "truncated", "missing", "empty"])
@pytest.mark.parametrize(
    ("shard", "lost"),
    [(0, ["000", "003"]), (1, ["004", "005", "006", "007"]), (3, ["002"])],
    ids=["removed", "whole", "new"],
)
def test_a_damaged_shard(archive: Path, make_photos: Any, damage: Any, shard: int, lost: list[str]) -> None:
    photos = make_photos(COUNT)
    before = answers(archive, photos)
    file = archive / manifest(archive)["shards"][shard]["file"]
    damage(file)
    report = check(archive, photos, before, lost)
    assert any(file.name in problem for problem in report.problems) and not report.returned


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "truncated", "missing", "empty"])
def test_a_damaged_list_of_names(archive: Path, make_photos: Any, damage: Any) -> None:
    photos = make_photos(COUNT)
    before = answers(archive, photos)
    damage(archive / manifest(archive)["shards"][1]["names"]["file"])
    check(archive, photos, before, [])
    assert sorted(Index.open(archive).names()) == LIVE


def test_a_damaged_shard_whose_list_of_names_is_damaged_too(archive: Path, make_photos: Any) -> None:
    photos = make_photos(COUNT)
    before = answers(archive, photos)
    entry = manifest(archive)["shards"][0]
    flip(archive / entry["file"])
    (archive / entry["names"]["file"]).unlink()
    check(archive, photos, before, [], unnamed=2)
    assert sorted(Index.open(archive).names()) == [name for name in LIVE if name not in ("000", "003")]


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "truncated", "missing", "empty"])
def test_damaged_tombstones(archive: Path, make_photos: Any, damage: Any) -> None:
    """The removed photo returns, though which of its shard it is nothing says; the replaced one has a successor."""
    photos = make_photos(COUNT)
    before = answers(archive, photos)
    damage(archive / manifest(archive)["shards"][0]["tombstones"]["file"])
    report = check(archive, photos, before, [])
    assert report.back == 1 and report.returned == ("000", "001", "003")
    with Index.open(archive) as index:
        assert sorted(index.names()) == sorted([*LIVE, "001"])


def test_damaged_tombstones_of_two_shards_leave_the_newest_photo(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(8)
    path = make_archive(photos[:3], IndexConfig(shard_images=3))
    with Index.open(path, writable=True) as index:
        for round_, number in enumerate((5, 6)):
            index.add("001", photos[number], replace=True)
            index.add(f"more{round_}", photos[0])
            index.commit()
        index.remove("001")
    for entry in manifest(path)["shards"]:
        (path / entry["tombstones"]["file"]).unlink()
    report = Index.repair(path)
    assert report.back == 1 and report.returned == ("001", "more1") and len(report.problems) == 3
    with Index.open(path) as index:
        assert sorted(index.names()) == ["000", "001", "002", "more0", "more1"] and index.verify() == []
        assert index.search(photos[6], 1)[0].name == "001"


def test_tombstones_of_replaced_photos_alone_bring_nothing_back(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(6)
    path = make_archive(photos[:3])
    with Index.open(path, writable=True) as index:
        index.add("001", photos[5], replace=True)
    before = answers(path, photos)
    flip(path / manifest(path)["shards"][0]["tombstones"]["file"])
    report = check(path, photos, before, [])
    assert report.back == 0 and report.returned == () and answers(path, photos).keys() >= before.keys()


def test_shard_and_tombstones_damaged(archive: Path) -> None:
    """Which photos of a lost shard were removed is not known any more: all are lost, but those that are elsewhere."""
    entry = manifest(archive)["shards"][0]
    flip(archive / entry["file"])
    flip(archive / entry["tombstones"]["file"])
    report = Index.repair(archive)
    assert report.lost == ("000", "001", "003") and report.back == 0
    with Index.open(archive) as index:
        assert index.verify() == [] and "002" in index


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "truncated", "missing", "empty"])
def test_damaged_failures(archive: Path, make_photos: Any, damage: Any) -> None:
    photos = make_photos(COUNT)
    before = answers(archive, photos)
    damage(archive / manifest(archive)["failures"]["file"])
    check(archive, photos, before, [])
    assert Index.open(archive).failures() == []


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "truncated", "missing", "empty"])
def test_damaged_statistics(archive: Path, make_photos: Any, damage: Any) -> None:
    photos = make_photos(COUNT)
    if manifest(archive)["statistics"] is None:
        pytest.skip("only archives with idf have statistics")
    before, hits = answers(archive, photos), Index.open(archive).search(photos[0], 9)
    damage(archive / manifest(archive)["statistics"]["file"])
    check(archive, photos, before, [])
    assert Index.open(archive).search(photos[0], 9) == hits


@pytest.mark.parametrize(
    "content", [None, b"", b"manifest-000001.json", b"\xff" * 90, b"manifest-000009.json " + b"0" * 64]
)
def test_current_missing_or_garbage(archive: Path, make_photos: Any, content: bytes | None) -> None:
    photos = make_photos(COUNT)
    before = answers(archive, photos)
    (archive / "CURRENT").unlink()
    if content is not None:
        (archive / "CURRENT").write_bytes(content)
    with pytest.raises(ArchiveError):
        Index.open(archive)
    check(archive, photos, before, [])
    assert sorted(Index.open(archive).names()) == LIVE


def test_the_newest_manifest_is_damaged(archive: Path, make_photos: Any) -> None:
    """The one before it is in force again."""
    photos = make_photos(COUNT)
    before = answers(archive, photos)
    with Index.open(archive, writable=True) as index:
        index.add("new", photos[3])
    flip(archive / (archive / "CURRENT").read_text().split()[0])
    report = check(archive, photos, before, [])
    assert len(report.problems) == 2 and sorted(Index.open(archive).names()) == LIVE


def test_no_sound_manifest(archive: Path) -> None:
    for file in archive.glob("manifest-*.json"):
        flip(file)
    with pytest.raises(ArchiveError, match="has no sound manifest"):
        Index.repair(archive)


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "truncated", "missing", "empty"])
def test_a_damaged_codebook_has_to_be_restored(archive: Path, damage: Any) -> None:
    copy = (archive / "codebook.safetensors").read_bytes()
    damage(archive / "codebook.safetensors")
    files = sorted(contents(archive))
    with pytest.raises(ArchiveError, match=r"codebook\.safetensors .*put a copy of it in its place"):
        Index.repair(archive)
    assert sorted(contents(archive)) == files
    (archive / "codebook.safetensors").write_bytes(copy)
    assert Index.repair(archive).problems == () and Index.open(archive).verify() == []


def contents(archive: Path) -> dict[Path, bytes]:
    """Return every file of an archive but those of its writer."""
    files = (file for file in sorted(archive.rglob("*")) if file.is_file())
    return {file: file.read_bytes() for file in files if not {"LOCK", "lease"}.intersection(file.parts)}


def test_a_sound_archive_is_left_as_it_is(archive: Path) -> None:
    state = contents(archive)
    report = Index.repair(archive)
    assert (report.problems, report.lost, report.unnamed, report.returned, report.list) == ((), (), 0, (), None)
    assert report.manifest == Index.open(archive).info()["manifest"]
    assert state == contents(archive)


def test_everything_lost(archive: Path, make_photos: Any) -> None:
    shutil.rmtree(archive / "shards")
    report = Index.repair(archive)
    assert sorted(report.lost) == LIVE and len(report.problems) == 4
    with Index.open(archive, writable=True) as index:
        assert len(index) == 0 and index.verify() == [] and index.search(make_photos(1)[0]) == []
        index.add("000", make_photos(1)[0])
    assert len(Index.open(archive)) == 1


def test_a_snapshot_that_needs_a_damaged_shard_is_named_until_it_is_removed(archive: Path, make_photos: Any) -> None:
    with Index.open(archive) as index:
        index.snapshot("kept")
    flip(archive / manifest(archive)["shards"][1]["file"])
    Index.repair(archive)
    with Index.open(archive, writable=True) as index:
        assert index.verify() and all(problem.startswith("snapshot kept: ") for problem in index.verify())
        index.remove_snapshot("kept")
        index.collect_garbage()
        assert index.verify() == []


def test_repair_needs_the_lock(archive: Path, tmp_path: Path) -> None:
    with Index.open(archive, writable=True), pytest.raises(ArchiveError, match="is being written by process"):
        Index.repair(archive)
    with pytest.raises(ArchiveError, match="is not an archive"):
        Index.repair(tmp_path)


@pytest.mark.parametrize("kind", ["shards/", "tombstones/", "statistics-", "codebook", "manifest"])
def test_what_a_newer_version_wrote_is_not_damaged(archive: Path, load_child: Any, kind: str) -> None:
    mutants = load_child("mutants")
    files = mutants.read_all(archive)
    names = [name for name in files if name.startswith(kind)]
    if not names:
        pytest.skip("only archives with idf have statistics")
    name = names[0]
    if kind == "manifest":
        data = json.loads(files[name])
        data["format_version"] = 9
        text = mutants.seal(data)
        changed = {name: text, "CURRENT": f"{name} {mutants.hash_of(text)}\n".encode()}
    else:
        header, body = mutants.parse(files[name])
        header["__metadata__"]["format_version"] = "9"
        changed = mutants.consistent(files, name, mutants.build(header, body))
    for path, data in changed.items():
        (archive / path).write_bytes(data)
    before = mutants.read_all(archive)
    with pytest.raises(ArchiveError, match=r"format_version '?9'?, this ctxdeploy reads"):
        Index.open(archive)
    with pytest.raises(ArchiveError, match=r"format_version '?9'?, this ctxdeploy reads"):
        Index.repair(archive)
    assert mutants.read_all(archive) == before


@pytest.mark.parametrize("kind", ["names/", "statistics-"])
def test_wrong_content_of_what_follows_from_the_shards_is_written_again(
    archive: Path, make_photos: Any, load_child: Any, kind: str
) -> None:
    """Though every hash is right."""
    mutants, photos = load_child("mutants"), make_photos(COUNT)
    before, files = answers(archive, photos), mutants.read_all(archive)
    for name in [name for name in files if name.startswith(kind)][:1]:
        header, body = mutants.parse(files[name])
        where = header["names" if kind == "names/" else "norms"]["data_offsets"][1] - 1
        changed = mutants.build(header, body[:where] + bytes([body[where] ^ 1]) + body[where + 1 :])
        for path, data in mutants.consistent(files, name, changed).items():
            (archive / path).write_bytes(data)
        assert Index.open(archive).verify()
        check(archive, photos, before, [])
