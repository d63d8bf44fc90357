"""Archives of every format version, stored in `fixtures/`, are opened, searched and changed by today's code."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.files import piece_bytes
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Codebook, Hit, Index

FIXTURES = Path(__file__).parent / "fixtures"
V1 = [("archive-v1", 100), ("archive-v1-float", 20)]
V2 = [("archive-v2", 100), ("archive-v2-float", 20)]
V3 = [("archive-v3", 100), ("archive-v3-codes", 20)]


def script(name: str) -> Any:
    """Return a script that made fixtures."""
    spec = importlib.util.spec_from_file_location(name, FIXTURES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker() -> Any:
    """Return the script that made the fixtures of version 1."""
    return script("make_archive_v1")


@pytest.fixture(scope="module")
def maker_2() -> Any:
    """Return the script that made those of version 2."""
    return script("make_archive_v2")


@pytest.fixture(scope="module")
def maker_3() -> Any:
    """Return the script that made those of version 3."""
    return script("make_archive_v3")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a fixture."""

    def copy(name: str) -> Path:
        shutil.copytree(FIXTURES / name, tmp_path / name)
        return tmp_path / name

    return copy


def check(index: Index, queries: Any, expected: Any) -> None:
    """Compare hits with those stored."""
    for query, hits in zip(queries, expected, strict=True):
        assert index.search(query) == [Hit(found, pytest.approx(score, rel=1e-6)) for found, score in hits]


@pytest.mark.parametrize(("name", "dim"), V1)
def test_version_1(copied: Any, maker: Any, name: str, dim: int) -> None:
    expected = json.loads((FIXTURES / f"{name}.json").read_text())
    with Index.open(FIXTURES / name) as index:
        assert index.verify() == [] and list(index.names()) == maker.NAMES
        assert index.known()["a.jpg"] == FileState(size=1000, mtime_ns=10**18)
        assert index.known()["f.jpg"] == FileState(size=1005, mtime_ns=-1)
        assert index.failures() == [{"name": "bad.jpg", "reason": "truncated", "stage": "decode"}]
        index.check_source(model="m" * 64, preprocessing="p" * 64)
        check(index, maker.photos(dim), expected)
    path = copied(name)
    with Index.open(path, writable=True) as index:
        index.add("new", maker.photos(dim)[0])
    assert len(Index.open(path)) == 7


@pytest.mark.parametrize(("name", "dim"), V1)
def test_version_1_changes(copied: Any, maker: Any, name: str, dim: int) -> None:
    """Removed, replaced, compacted, kept as a snapshot, collected: as if it were new."""
    path, photos = copied(name), maker.photos(dim)
    expected = json.loads((FIXTURES / f"{name}.json").read_text())
    with Index.open(path, writable=True) as index:
        index.snapshot("before")
        index.remove("a.jpg")
        index.add("f.jpg", photos[0], replace=True)
        index.commit()
        assert index.verify() == [] and len(index) == 5 and index.search(photos[0], 1)[0].name == "f.jpg"
        hits = index.search_batch(photos)
        index.compact(purge=True)
        index.collect_garbage()
        assert index.search_batch(photos) == hits and index.verify() == [] and index.info()["removed"] == 0
    with Index.open(path, at="before") as index:
        check(index, photos, expected)
    with Index.open(path, writable=True) as index:
        index.remove_snapshot("before")
        index.collect_garbage()
        assert index.verify() == [] and index.search_batch(photos) == hits


@pytest.mark.parametrize(("name", "dim"), V1)
def test_version_1_merges(copied: Any, maker: Any, name: str, dim: int) -> None:
    path, other = copied(name), FIXTURES / name
    expected = json.loads((FIXTURES / f"{name}.json").read_text())
    with Index.open(path, writable=True) as index:
        assert index.merge(other, conflicts="keep").kept == 6
        assert index.merge(other, conflicts="replace").replaced == 6
        index.remove(maker.NAMES)
        assert index.merge(other).added == 6
        index.commit()
        index.collect_garbage()
        assert index.verify() == []
        check(index, maker.photos(dim), expected)


@pytest.mark.parametrize(("name", "dim"), V1)
def test_version_1_is_repaired(copied: Any, maker: Any, name: str, dim: int) -> None:
    """It has no lists of names: how many photos went with a shard is known, but not which."""
    path = copied(name)
    files = {file for file in path.rglob("*") if not {"LOCK", "lease"}.intersection(file.parts)}
    assert Index.repair(path).problems == ()
    assert {file for file in path.rglob("*") if not {"LOCK", "lease"}.intersection(file.parts)} == files
    shard = sorted((path / "shards").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with Index.open(FIXTURES / name) as index:
        count = len(index)
    report = Index.repair(path)
    assert report.lost == () and report.list is None and report.unnamed > 0
    with Index.open(path) as index:
        assert len(index) + report.unnamed == count and index.verify() == []
        names = list(index.names())
    assert Index.repair(path).problems == ()
    for shard in (path / "shards").iterdir():  # now it has lists of names
        shard.unlink()
    assert list(Index.repair(path).lost) == names


@pytest.mark.parametrize(("name", "dim"), V2)
def test_version_2(copied: Any, maker: Any, maker_2: Any, name: str, dim: int) -> None:
    expected = json.loads((FIXTURES / f"{name}.json").read_text())
    photos = maker.photos(dim)
    now = [maker.NAMES[2], "empty.jpg", "folder/e.jpg", "f.jpg", "a.jpg"]
    with Index.open(FIXTURES / name) as index:
        assert index.verify() == [] and sorted(index.names()) == sorted(now)
        assert index.known()["a.jpg"] == FileState(size=1007, mtime_ns=10**18 + 7)
        assert index.known()["f.jpg"] == FileState(size=1005, mtime_ns=-1)
        assert [record["name"] for record in index.failures()] == ["bad.jpg", "worse.jpg"]
        assert [(info.name, info.manifest) for info in index.snapshots()] == [("first", 1)]
        index.check_source(model="m" * 64, preprocessing="p" * 64)
        check(index, photos, expected["now"])
        geometry = index.features("a.jpg")
        if index.config.keeps("positions"):
            assert geometry is not None
            order = np.argsort(index.codebook.assign(photos[2])[:, 0], kind="stable")
            assert np.allclose(geometry.positions, maker_2.positions(len(order))[order], atol=0.02)
            assert (geometry.scales == 2.0).all()
    with Index.open(FIXTURES / name, at="first") as index:
        assert list(index.names()) == maker.NAMES[:4] and len(index.failures()) == 1
        check(index, photos, expected["first"])
    path = copied(name)
    with Index.open(path, writable=True) as index:
        index.add("new", photos[0], positions=maker_2.positions(len(photos[0])))
        index.compact(purge=True)
        index.remove("new")
        check(index, photos, expected["now"])
        index.collect_garbage()
        assert index.verify() == []
    assert Index.repair(path).problems == ()


@pytest.mark.parametrize(("name", "dim"), V3)
def test_version_3(copied: Any, maker: Any, maker_3: Any, name: str, dim: int) -> None:
    expected = json.loads((FIXTURES / f"{name}.json").read_text())
    photos, geometry = maker.photos(dim), maker_3.CONFIGS[name][1].geometry

    def check_state(index: Index, state: str) -> None:
        check(index, photos, expected[state]["hits"])
        assert index.config.geometry == geometry and index.verify() == []
        assert sorted(index.names()) == sorted(expected[state]["features"])
        for photo, wanted in expected[state]["features"].items():
            found = maker_3.features(index, photo)
            assert found["sums"] == (None if wanted["sums"] is None else pytest.approx(wanted["sums"], rel=1e-6))
            assert {**found, "sums": None} == {**wanted, "sums": None}

    for state, at in (("now", None), ("first", "first")):
        with Index.open(FIXTURES / name, at=at) as index:
            check_state(index, state)
            assert index.info()["format_version"] == 3
    path = copied(name)
    with Index.open(path, writable=True) as index:
        maker_3.add(index, "new", photos[0], 6)
        index.compact(purge=True)
        index.remove("new")
        check_state(index, "now")
        index.collect_garbage()
        assert index.merge(FIXTURES / name, conflicts="replace").replaced == 5
        index.commit()
        check_state(index, "now")
    assert Index.repair(path).problems == ()


@pytest.mark.parametrize(("name", "dim"), [("archive-v4", 100), ("archive-v4-alone", 0)])
def test_version_4(copied: Any, name: str, dim: int) -> None:
    made = script("make_archive_v4")
    expected = json.loads((FIXTURES / "archive-v4.json").read_text())[name]

    def close(found: Any, wanted: Any) -> None:
        for kind, several in wanted.items():
            for mine, theirs in zip(found[kind], several, strict=True):
                assert mine == [[photo, pytest.approx(score, rel=1e-6)] for photo, score in theirs]

    for state, at in (("now", None), ("first", "first")):
        close(made.found(FIXTURES / name, dim, at), expected[state])
    path = copied(name)
    with Index.open(path, writable=True) as index:
        assert index.info()["format_version"] == 4 and index.verify() == [] and index.keeps_local == (dim > 0)
        made.add(index, "new", 6, dim, photo=3)
        index.compact(purge=True)
        index.remove("new")
        index.commit()
        close(made.found(path, dim), expected["now"])
        assert index.merge(FIXTURES / name, conflicts="replace").replaced == 5
        index.commit()
        index.collect_garbage()
        close(made.found(path, dim), expected["now"])
    assert Index.repair(path).problems == ()


@pytest.mark.parametrize(
    ("version", "name"), [(2, "archive-v2"), (3, "archive-v3"), (4, "archive-v4"), (4, "archive-v4-alone")]
)
def test_a_version_is_still_written(tmp_path: Path, version: int, name: str) -> None:
    """Byte for byte, in the same files; but for when the snapshot was made."""
    made = script(f"make_archive_v{version}")
    made.make(tmp_path / name, *made.CONFIGS[name])
    contents = []
    for path in (FIXTURES / name, tmp_path / name):
        files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        files.pop("LOCK", None)
        snapshot = json.loads(files.pop("snapshots/first.json"))
        contents.append((files, {key: snapshot[key] for key in snapshot if key not in ("created", "checksum")}))
    assert contents[0] == contents[1]


def test_a_codebook_with_cells_of_version_2() -> None:
    made, expected = script("make_codebook_v2"), json.loads((FIXTURES / "codebook-v2.json").read_text())
    codebook = Codebook.load(FIXTURES / "codebook-v2.safetensors")
    codebook.check("codebook-v2.safetensors")
    assert codebook.id == expected["id"] and len(codebook) == made.WORDS
    assert np.array_equal(codebook.centroids, made.grid(made.WORDS, 5))
    assert codebook.assign(made.queries(), 3).tolist() == expected["words"]
    pieces = b"".join(bytes(piece_bytes(piece)) for piece in codebook.encode())
    assert pieces == (FIXTURES / "codebook-v2.safetensors").read_bytes()
