"""Manifest, CURRENT: whatever is wrong in them is an `ArchiveError` that names the file and the field."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index import DescriptorSource, Index
from ctxdeploy.index.storage.manifest import parse, read_pointer
from ctxdeploy.index.storage.pins import read_current


@pytest.fixture
def archive(make_photos: Any, make_archive: Any) -> Path:
    path: Path = make_archive(make_photos(6))
    return path


def with_checksum(data: dict[str, Any]) -> bytes:
    """Return the text of a manifest whose checksum is right."""
    data.pop("checksum", None)
    return json.dumps(
        data | {"checksum": hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()}
    ).encode()


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest in force and keep its hash right, as a writer of another version would."""
    name = (path / "CURRENT").read_text().split()[0]
    data = json.loads((path / name).read_text())
    change(data)
    text = with_checksum(data)
    (path / name).write_bytes(text)
    (path / "CURRENT").write_text(f"{name} {hashlib.sha256(text).hexdigest()}\n")


def test_what_is_written_is_read(tmp_path: Path, make_codebook: Any) -> None:
    source = DescriptorSource(model="m", preprocessing="p", description="d")
    Index.create(tmp_path / "a", make_codebook(), source=source).close()
    manifest = read_current(tmp_path / "a")
    assert parse(json.dumps(manifest.metadata()).encode(), "x") == manifest
    assert manifest.source == source and manifest.number == 0 and manifest.words == 64


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.update(format="tar"), "format is not"),
        (lambda m: m.update(format_version=5), "format_version 5, this ctxdeploy reads versions up to 4: upgrade"),
        (lambda m: m["config"].update(global_vectors="fp16", global_dim=8), "fp16. belongs to format_version 4"),
        (lambda m: m["config"].update(global_vectors="fp16"), "global_dim 0"),
        (
            lambda m: (m.update(format_version=4), m["config"].update(global_vectors="fp16", global_dim=8)),
            "global_vectors is .fp16., and vectors of .* contradict it",
        ),
        (
            lambda m: (m.update(format_version=4), m["shards"][0].update(vectors={**m["shards"][0]["names"]})),
            "vectors names the file .names",
        ),
        (lambda m: m.update(format_version=4, codebook=None), "without a codebook there are global vectors"),
        (lambda m: m["config"].update(geometry="codes"), "geometry .codes. belongs to format_version 3"),
        (lambda m: m["config"].update(geometry="all"), "geometry .all. is not one of none, positions"),
        (lambda m: m["shards"][0].update(removed=6), "removed 6 of .* is not below its images 6"),
        (lambda m: (m["shards"][0].update(removed=1), m.update(images=5)), "tombstones .* contradict"),
        (lambda m: m["shards"][0]["names"].update(file="names/x"), "names/x"),
        (lambda m: m.update(format_version=True), "format_version"),
        (lambda m: m.pop("config"), "'config' is missing"),
        (lambda m: m["config"].update(alpha=-3), "alpha"),
        (lambda m: m["config"].update(new=1), "new"),
        (lambda m: m.update(config=3), "config|mapping"),
        (lambda m: m.update(source={"model": 1, "preprocessing": "p"}), "model"),
        (lambda m: m.update(words=-1), "words"),
        (lambda m: m.update(words=63), "codebook"),
        (lambda m: m.update(dim="128"), "dim"),
        (lambda m: m.update(images=5), "images 5"),
        (lambda m: m.update(codebook_id="0"), "codebook_id"),
        (lambda m: m.update(shards=[4]), "shards"),
        (lambda m: m["shards"][0].update(file="../../etc/passwd"), "passwd"),
        (lambda m: m["codebook"].update(file="/etc/passwd"), "passwd"),
        (lambda m: m["shards"][0].update(sha256="xyz"), "sha256"),
        (lambda m: m["shards"][0].update(postings=1), "codes"),
        (lambda m: m["shards"][0].update(bytes=None), "bytes None"),
        (lambda m: (m["shards"][0].update(images=70000), m.update(images=70000)), "70000 images"),
        (lambda m: m.update(failures={"file": "failures-x", "bytes": 0, "sha256": "0" * 64}), "failures"),
    ],
)
def test_wrong_fields_are_named(archive: Path, change: Any, text: str) -> None:
    rewrite(archive, change)
    with pytest.raises(ArchiveError, match=text) as caught:
        Index.open(archive)
    assert str(archive) in str(caught.value)


def test_a_writer_checks_the_hash_of_the_codebook(archive: Path) -> None:
    rewrite(archive, lambda m: m["codebook"].update(sha256="0" * 64))
    with pytest.raises(ArchiveError, match=r"codebook\.safetensors is damaged: its sha256"):
        Index.open(archive, writable=True)
    assert any("codebook.safetensors" in problem for problem in Index.open(archive).verify())


@pytest.mark.parametrize(
    "content",
    [b"", b"manifest-000001.json", b"manifest-000001.json " + b"0" * 64 + b"\n", b"../x " + b"0" * 64, b"\xff"],
)
def test_damaged_current(archive: Path, content: bytes) -> None:
    (archive / "CURRENT").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"CURRENT|manifest-000001\.json"):
        Index.open(archive)


def test_missing_files_are_named(archive: Path) -> None:
    shard = next((archive / "shards").iterdir())
    for file in (shard, archive / "codebook.safetensors", archive / "manifest-000001.json"):
        data = file.read_bytes()
        file.unlink()
        with pytest.raises(ArchiveError, match=file.name):
            Index.open(archive)
        file.write_bytes(data)
    assert len(Index.open(archive)) == 6


def test_a_reader_that_is_overtaken_by_garbage_collection_opens_the_newer_state(
    archive: Path, monkeypatch: Any
) -> None:
    first = read_pointer(archive)
    with Index.open(archive, writable=True) as index:
        index.record_failures([{"name": "x", "reason": "y"}])
        index.commit()
        assert index.collect_garbage() == ["manifest-000000.json", "manifest-000001.json"]
    answers = iter([first])
    monkeypatch.setattr(
        "ctxdeploy.index.storage.pins.read_pointer", lambda folder: next(answers, None) or read_pointer(folder)
    )
    assert read_current(archive).number == 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    ["number", "config", "source", "codebook", "shards", "file", "bytes", "sha256", "images"]
                ),
                x,
            )
        ),
    )
)
def test_any_json_raises_nothing_but_archive_errors(value: Any) -> None:
    base = {"format": "ctxdeploy-archive", "format_version": 1}
    for data in (value, base | value if isinstance(value, dict) else value):
        with pytest.raises(ArchiveError):
            parse(json.dumps(data).encode(), "x")
    for text in (b"\xff", b"[" * 100_000, b"{"):
        with pytest.raises(ArchiveError, match="JSON"):
            parse(text, "x")
