"""A flipped bit anywhere is found, by opening or by verification."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import piece_bytes
from ctxdeploy.index import Index, IndexConfig
from ctxdeploy.index.storage.format import decode, encode


@pytest.fixture
def archive(make_photos: Any, make_archive: Any) -> Path:
    path: Path = make_archive(make_photos(9, 100), IndexConfig(shard_images=5))
    with Index.open(path, writable=True) as index:
        index.record_failures([{"name": "x", "reason": "y"}])
    return path


def problems(path: Path) -> list[str]:
    """Return what opening or verifying says."""
    try:
        return Index.open(path).verify()
    except ArchiveError as error:
        return [str(error)]


def test_a_flipped_bit_in_any_file_is_found(archive: Path) -> None:
    assert problems(archive) == []
    opened = Index.open(archive)
    current = json.loads((archive / "manifest-000002.json").read_text())
    files = [current["codebook"], current["failures"], *current["shards"]]
    names = [file["file"] for file in files] + ["CURRENT", "manifest-000002.json"]
    assert len(names) == 6
    for name in names:
        original = (archive / name).read_bytes()
        for place in {*range(0, len(original), max(1, len(original) // 25)), len(original) - 1}:
            damaged = bytearray(original)
            damaged[place] ^= 4
            (archive / name).write_bytes(damaged)
            found = problems(archive)
            assert found and opened.verify(), (name, place)
            assert all(str(archive) in problem for problem in found)
        (archive / name).write_bytes(original)
    assert problems(archive) == []


def test_missing_and_truncated_files_are_found(archive: Path) -> None:
    opened = Index.open(archive)
    for file in [*sorted(archive.rglob("*.safetensors")), archive / "failures-000002.jsonl"]:
        data = file.read_bytes()
        file.write_bytes(data[:-1])
        assert any(f"{len(data) - 1} bytes instead of {len(data)}" in problem for problem in opened.verify())
        file.unlink()
        assert any("cannot be read" in problem for problem in opened.verify())
        file.write_bytes(data)
    assert opened.verify() == []


@pytest.mark.parametrize(
    ("tensor", "place", "value", "text"),
    [
        ("images", 0, 5, "images holds 5, but there are 5 photos"),
        ("images", slice(None, None, -1), None, "not rising|counts"),
        ("counts", 0, 999, "counts are not"),
        ("codes", (-1, 0), 1 << 63, "bits set beyond the dimension"),
        ("names", slice(None), 48, "a name occurs twice"),
    ],
)
def test_content_that_is_wrong_though_its_hash_is_right(
    archive: Path, tensor: str, place: Any, value: Any, text: str
) -> None:
    manifest = json.loads((archive / "manifest-000002.json").read_text())
    entry = manifest["shards"][0]
    arrays, metadata = decode((archive / entry["file"]).read_bytes(), "x")
    changed = arrays[tensor].copy()
    changed[place] = value if value is not None else arrays[tensor]
    data = b"".join(piece_bytes(piece) for piece in encode({**arrays, tensor: changed}, metadata))
    entry.update(sha256=hashlib.sha256(data).hexdigest(), file=f"shards/{hashlib.sha256(data).hexdigest()}.safetensors")
    (archive / entry["file"]).write_bytes(data)
    replace_manifest(archive, manifest)
    found = [problem for problem in Index.open(archive).verify() if any(part in problem for part in text.split("|"))]
    assert found and entry["file"] in found[0]


def replace_manifest(archive: Path, manifest: dict[str, Any]) -> None:
    manifest.pop("checksum")
    manifest["checksum"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    text = json.dumps(manifest).encode()
    (archive / "manifest-000002.json").write_bytes(text)
    (archive / "CURRENT").write_text(f"manifest-000002.json {hashlib.sha256(text).hexdigest()}\n")


def test_float_codes_that_are_not_finite(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(3)
    path = make_archive(photos, IndexConfig(binary=False), "floats")
    index = Index.open(path)
    assert index.verify() == []
    shard = next((path / "shards").iterdir())
    arrays, metadata = decode(shard.read_bytes(), "x")
    arrays["codes"] = np.full_like(arrays["codes"], np.nan)
    shard.write_bytes(b"".join(piece_bytes(piece) for piece in encode(arrays, metadata)))
    assert any("NaN" in problem for problem in index.verify())
    assert Index.open(path).search(photos[0]) == []
