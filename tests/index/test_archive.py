"""The archive's front door: create, open, add, commit, what it knows, and every refusal."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError, ConfigError, MismatchError, StorageError
from ctxdeploy.core.types import FileState, LocalDescriptors
from ctxdeploy.index import DescriptorSource, Index, IndexConfig


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_added_committed_reopened(tmp_path: Path, make_codebook: Any, make_photos: Any) -> None:
    photos = make_photos(10)
    with Index.create(tmp_path / "a", make_codebook(), config=IndexConfig(shard_images=4)) as index:
        for number, vectors in enumerate(photos):
            index.add(f"{number}.jpg", vectors, file=FileState(size=number, mtime_ns=10 * number))
        assert len(index) == 10 and "3.jpg" in index and list(index.names())[9] == "9.jpg"
        assert len(Index.open(tmp_path / "a")) == 0, "nothing is visible before the commit"
    with Index.open(tmp_path / "a") as index:
        assert list(index.names()) == [f"{number}.jpg" for number in range(10)]
        assert index.known()["7.jpg"] == FileState(size=7, mtime_ns=70) and "x" not in index and len(index) == 10
        info = index.info()
        assert (info["images"], info["shards"], info["manifest"]) == (10, 3, 1)
        assert info["bytes"] == sum(
            (index.path / name).stat().st_size for name in names_in(index.path) if "saf" in name
        )
        assert info["codebook"]["id"] == index.codebook.id and info["config"]["shard_images"] == 4
        assert index.verify() == []


def test_additions_of_several_sessions_continue(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(8)
    path = make_archive(photos[:5])
    before = Index.open(path)
    with Index.open(path, writable=True) as index:
        for number in (5, 6):
            index.add(f"{number:03d}", photos[number])
        index.commit()
        index.commit()
        index.add("007", photos[7])
    with Index.open(path) as index:
        assert index.info()["manifest"] == 3 and list(index.names()) == [f"{number:03d}" for number in range(8)]
        whole = Index.open(make_archive(photos, name="whole"))
        assert index.search(photos[6], 20) == whole.search(photos[6], 20)
    assert len(before) == 5 and before.search(photos[6]) != whole.search(photos[6])


def test_searching_commits(tmp_path: Path, make_codebook: Any, make_photos: Any) -> None:
    (photo,) = make_photos(1)
    with Index.create(tmp_path / "a", make_codebook()) as index:
        index.add("a", photo)
        assert [hit.name for hit in index.search(photo)] == ["a"]
        assert "a" in Index.open(tmp_path / "a")


def test_an_exception_in_the_block_commits_nothing(tmp_path: Path, make_codebook: Any, make_photos: Any) -> None:
    with pytest.raises(RuntimeError), Index.create(tmp_path / "a", make_codebook()) as index:
        index.add("a", make_photos(1)[0])
        raise RuntimeError
    with Index.open(tmp_path / "a", writable=True) as index:
        assert len(index) == 0
        index.add("a", make_photos(1)[0])


def test_any_name_survives(tmp_path: Path, make_codebook: Any, make_photos: Any) -> None:
    names = ["", "a\nb", "日本 🙂.jpg", os.fsdecode(b"caf\xe9/\xff\xfe.jpg"), "x" * 5000, "\x00"]
    (photo,) = make_photos(1)
    with Index.create(tmp_path / "a", make_codebook()) as index:
        for name in names:
            index.add(name, photo)
        index.record_failures([{"name": os.fsdecode(b"\xff"), "reason": "r", "stage": "decode"}])
        with pytest.raises(ConfigError, match="surrogates"):
            index.add("\ud800", photo)
    with Index.open(tmp_path / "a") as index:
        assert list(index.names()) == names
        assert [hit.name for hit in index.search(photo)] == sorted(names, key=os.fsencode)
        assert index.failures()[0]["name"] == os.fsdecode(b"\xff")


def test_refused_additions_leave_nothing(tmp_path: Path, make_codebook: Any, make_photos: Any) -> None:
    (photo,) = make_photos(1)
    with Index.create(tmp_path / "a", make_codebook()) as index:
        index.add("a", photo)
        for name, vectors, facts, text in (
            ("a", photo, {}, "in the archive already"),
            ("b", photo[:, :64], {}, "b: descriptors have dimension 64"),
            ("b", np.full((1, 128), np.inf), {}, "b: descriptor 0 holds NaN, infinity"),
            ("b", photo, {"file": FileState(size=-2, mtime_ns=0)}, "whole number in"),
            ("b", photo, {"file": FileState(size=1 << 63, mtime_ns=0)}, "whole number in"),
        ):
            with pytest.raises(ConfigError, match=text):
                index.add(name, vectors, **facts)
        assert list(index.names()) == ["a"]
    reader = Index.open(tmp_path / "a")
    for act in (
        lambda: reader.add("b", photo),
        reader.commit,
        reader.collect_garbage,
        lambda: reader.record_failures([]),
    ):
        with pytest.raises(ConfigError, match="writable=True"):
            act()


def test_descriptors_may_come_as_objects(tmp_path: Path, make_codebook: Any, make_photos: Any) -> None:
    (photo,) = make_photos(1)
    zeros = np.zeros(len(photo), np.float32)
    local = LocalDescriptors(
        vectors=photo, attention=zeros, positions=np.zeros((len(photo), 2), np.float32), scales=zeros
    )
    with Index.create(tmp_path / "a", make_codebook()) as index:
        index.add("a", local)
        index.add("b", SimpleNamespace(vectors=photo.astype(np.float64)))
        a, b = index.search(local)
    assert a.score == b.score and (a.name, b.name) == ("a", "b")


def test_failures_are_merged_and_drop_out_when_added(tmp_path: Path, make_codebook: Any, make_photos: Any) -> None:
    first = {"name": "a", "reason": "truncated", "stage": "decode"}
    with Index.create(tmp_path / "a", make_codebook()) as index:
        index.record_failures([first, {"name": "b", "reason": "gone"}])
        assert Index.open(tmp_path / "a").failures() == []
    with Index.open(tmp_path / "a", writable=True) as index:
        assert index.failures() == [first, {"name": "b", "reason": "gone", "stage": ""}]
        index.record_failures([{**first, "reason": "empty"}])
        index.add("b", make_photos(1)[0])
        with pytest.raises(ConfigError, match="failed photo"):
            index.record_failures([{"name": "c"}])
    with Index.open(tmp_path / "a", writable=True) as index:
        assert index.failures() == [{**first, "reason": "empty"}] and index.info()["failures"] == 1
        assert index.verify() == []
        index.add("a", make_photos(1)[0])
    assert Index.open(tmp_path / "a").failures() == []


def test_source(tmp_path: Path, make_codebook: Any) -> None:
    source = DescriptorSource(model="m1", preprocessing="p1", description="how.ctxbundle")
    Index.create(tmp_path / "a", make_codebook(), source=source).close()
    index = Index.open(tmp_path / "a")
    assert index.source == source and index.info()["source"]["description"] == "how.ctxbundle"
    index.check_source(model="m1", preprocessing="p1")
    for facts, text in (
        ({"model": "m2", "preprocessing": "p1"}, "m1.*m2"),
        ({"model": "m1", "preprocessing": "p2"}, "p1.*p2"),
    ):
        with pytest.raises(MismatchError, match=f"{text}.*--model.*ctxdeploy index"):
            index.check_source(**facts)
    Index.create(tmp_path / "b", make_codebook()).check_source(model="any", preprocessing="any")


@pytest.mark.parametrize(
    "facts",
    [
        {"binary": 1},
        {"assignment": 0},
        {"query_assignment": True},
        {"shard_images": 65537},
        {"alpha": -1.0},
        {"alpha": float("nan")},
        {"threshold": 1.5},
        {"threshold": -0.1, "alpha": 2.5},
        {"idf": "yes"},
    ],
)
def test_refused_settings(facts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(facts)) + "|alpha"):
        IndexConfig(**facts)


def test_folders_that_cannot_become_archives(
    tmp_path: Path, make_codebook: Any, make_archive: Any, make_photos: Any
) -> None:
    codebook, path = make_codebook(), make_archive(make_photos(1))
    with pytest.raises(ArchiveError, match="is an archive already: open it"):
        Index.create(path, codebook)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ArchiveError, match=r"thesis\.tex"):
        Index.create(tmp_path / "full", codebook)
    assert names_in(tmp_path / "full") == {"thesis.tex"}
    with pytest.raises(ArchiveError, match="is a file"):
        Index.create(tmp_path / "full" / "thesis.tex", codebook)
    for place in (tmp_path / "full" / "thesis.tex" / "a", Path("/proc/no/archive")):
        with pytest.raises(StorageError, match="cannot be written"):
            Index.create(place, codebook)
    (tmp_path / "new").mkdir()
    Index.create(tmp_path / "new", codebook).close()


def test_folders_that_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "none", tmp_path / "file"):
        for writable in (False, True):
            with pytest.raises(ArchiveError, match="is not an archive"):
                Index.open(place, writable=writable)
    assert names_in(tmp_path) == {"file"}


def test_garbage_is_collected(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(3))
    for name in (".tmp-1-CURRENT", "shards/.tmp-1-x", f"shards/{'0' * 64}.safetensors", "failures-000009.jsonl"):
        (path / name).write_text("x")
    (path / "notes.txt").write_text("not ours")
    with Index.open(path, writable=True) as index:
        removed = index.collect_garbage()
        assert len(removed) == 5 and "manifest-000000.json" in removed
        assert index.collect_garbage() == [] and index.verify() == []
    assert (path / "notes.txt").exists() and len(Index.open(path)) == 3


def test_importing_costs_nothing() -> None:
    code = (
        "import sys; import ctxdeploy.index; from ctxdeploy.index import Index, Codebook;"
        "print([m for m in ('numba', 'faiss', 'torch', 'onnx') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
