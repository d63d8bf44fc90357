"""The shard file: what is written, exactly; and that no damage gets past opening, or harms a search if it does."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.files import piece_bytes, write_file
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Codebook, Index, IndexConfig
from ctxdeploy.index.codebook.aggregation import Aggregated
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.storage.format import decode, encode
from ctxdeploy.index.storage.layout import Layout
from ctxdeploy.index.storage.manifest import Manifest, ShardEntry
from ctxdeploy.index.storage.names import decode_name, encode_name
from ctxdeploy.index.storage.pending import Pending, shard_tensors
from ctxdeploy.index.storage.pins import pin_current
from ctxdeploy.index.storage.shard import open_shard, write_shard
from ctxdeploy.index.storage.state import State, open_state

SCORING = {idf: IndexConfig().scoring(idf=idf) for idf in (False, True)}

ALL = [HealthCheck.function_scoped_fixture]


def opened(path: Path) -> State:
    """Open the state in force."""
    return open_state(path, pin_current(path))


def test_exact_bytes(tmp_path: Path) -> None:
    """Two photos over 3 words of 4 dimensions: "a" has words 0 and 2, "é" has word 2."""
    first = Aggregated(words=np.array([0, 2], np.int32), codes=np.array([[1], [2]], np.uint64))
    second = Aggregated(words=np.array([2], np.int32), codes=np.array([[9]], np.uint64))
    photos = [Pending(name="a", photo=first, file=FileState(size=100, mtime_ns=5)), Pending(name="é", photo=second)]
    layout = Layout(words=3, dim=4, binary=True, codebook_id="c")
    entry = write_shard(tmp_path, layout, shard_tensors(layout, photos))
    data = (tmp_path / entry.file).read_bytes()
    assert entry.bytes == len(data) and entry.postings == 3 and entry.images == 2
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 64 == 0 and length == 632
    assert header == {
        "__metadata__": {
            "codebook_id": "c",
            "dim": "4",
            "format": "ctxdeploy-shard",
            "format_version": "2",
            "kind": "binary",
            "words": "3",
        },
        "codes": {"dtype": "U64", "shape": [1, 3], "data_offsets": [0, 24]},
        "mtimes": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
        "sizes": {"dtype": "I64", "shape": [2], "data_offsets": [40, 56]},
        "counts": {"dtype": "U32", "shape": [2], "data_offsets": [56, 64]},
        "name_offsets": {"dtype": "U32", "shape": [3], "data_offsets": [64, 76]},
        "word_offsets": {"dtype": "U32", "shape": [4], "data_offsets": [76, 92]},
        "images": {"dtype": "U16", "shape": [3], "data_offsets": [92, 98]},
        "names": {"dtype": "U8", "shape": [3], "data_offsets": [98, 101]},
    }
    body = np.array([1, 2, 9], "<u8").tobytes() + np.array([5, -1, 100, -1], "<i8").tobytes()
    body += np.array([2, 1, 0, 1, 3, 0, 1, 1, 3], "<u4").tobytes() + np.array([0, 0, 1], "<u2").tobytes()
    assert data[8 + length :] == body + b"a\xc3\xa9"


@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.binary(max_size=6)), min_size=1, max_size=8), st.booleans())
def test_round_trip(photos: list[tuple[set[int], bytes]], binary: bool) -> None:
    layout = Layout(words=10, dim=70, binary=binary, codebook_id="c")
    pending = []
    rng = np.random.default_rng(0)
    stored: dict[tuple[int, int], Any] = {}
    for number, (words, name) in enumerate(photos):
        codes = rng.integers(0, 99, (len(words), 2 if binary else 70)).astype(np.uint64 if binary else np.float32)
        ordered = np.array(sorted(words), np.int32)
        aggregated = Aggregated(words=ordered, codes=codes)
        pending.append(Pending(name=decode_name(name), photo=aggregated, file=FileState(size=number, mtime_ns=-1)))
        stored |= {(word, number): code for word, code in zip(ordered.tolist(), codes, strict=True)}
    arrays = shard_tensors(layout, pending)
    offsets, codes = arrays["word_offsets"], arrays["codes"].T if binary else arrays["codes"]
    words = np.repeat(np.arange(10), np.diff(offsets))
    pairs = list(zip(words.tolist(), arrays["images"].tolist(), strict=True))
    assert pairs == sorted(stored)
    assert all(np.array_equal(codes[i], stored[pair]) for i, pair in enumerate(pairs))
    assert arrays["counts"].tolist() == [len(words) for words, _ in photos]
    ends = arrays["name_offsets"]
    assert [arrays["names"][a:b].tobytes() for a, b in pairwise(ends)] == [n for _, n in photos]


@given(st.binary(max_size=20))
def test_names_of_any_bytes_survive(data: bytes) -> None:
    assert encode_name(decode_name(data)) == data


@pytest.mark.parametrize("name", ["\ud800", "\udcc3\udca9"])
def test_names_that_would_come_back_as_others_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="surrogates"):
        encode_name(name)


@pytest.fixture
def archive(make_photos: Any, make_archive: Any) -> tuple[Path, Manifest, bytes]:
    """Return a folder, its manifest and the bytes of its one shard of 12 photos, 16 words and 100 dimensions."""
    codebook = Codebook.from_centroids(np.random.default_rng(0).normal(size=(16, 100)).astype(np.float32))
    path = make_archive(make_photos(12, 100), codebook=codebook)
    manifest = opened(path).manifest
    return path, manifest, (path / manifest.shards[0].file).read_bytes()


def reopened(path: Path, manifest: Manifest, data: bytes) -> State:
    """Replace the shard's bytes and open it."""
    entry = manifest.shards[0]
    write_file(path / entry.file, [data])
    return State(manifest, Index.open(path).codebook, (open_shard(path, entry, manifest),))


@given(
    changes=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.integers(0, 40),
)
@settings(suppress_health_check=ALL)
def test_mutated_shards_raise_archive_errors_or_are_safe_to_search(
    archive: Any, make_photos: Any, changes: list[tuple[int, int]], cut: int
) -> None:
    path, manifest, original = archive
    data = bytearray(original)
    for place, value in changes:
        data[place % len(data)] = value
    entry = manifest.shards[0]
    write_file(path / entry.file, [bytes(data[: len(data) - max(0, cut - 20)])])
    try:
        shard = open_shard(path, entry, manifest)
    except ArchiveError as error:
        assert entry.file in str(error)
        return
    query = Aggregated(words=np.arange(16, dtype=np.int32), codes=np.zeros((16, 2), np.uint64))
    state = State(manifest, None, (shard,))  # type: ignore[arg-type]
    for idf in (False, True):
        for hit in Searcher(state).search([query], 99, scoring=SCORING[idf])[0]:
            assert hit.score > 0


@pytest.mark.parametrize("binary", [True, False])
def test_hostile_numbers_and_codes_do_not_leave_the_arrays(make_photos: Any, make_archive: Any, binary: bool) -> None:
    path = make_archive(make_photos(6, 96), IndexConfig(binary=binary))
    state = opened(path)
    arrays, metadata = decode((path / state.manifest.shards[0].file).read_bytes(), "x")
    arrays["images"] = np.full_like(arrays["images"], 65535)
    arrays["codes"] = np.full_like(arrays["codes"], np.nan if not binary else (1 << 64) - 1)
    data = b"".join(piece_bytes(piece) for piece in encode(arrays, metadata))
    shards = reopened(path, state.manifest, data).shards
    codes = np.zeros((64, 2), np.uint64) if binary else np.ones((64, 96), np.float32)
    query = Aggregated(words=np.arange(64, dtype=np.int32), codes=codes)
    for idf in (False, True):
        searcher = Searcher(State(state.manifest, state.codebook, shards))
        assert searcher.search([query], 10, scoring=SCORING[idf]) == [[]]


@pytest.mark.parametrize(
    ("tensor", "change", "text"),
    [
        ("word_offsets", lambda a: a[::-1].copy(), "word_offsets"),
        ("word_offsets", lambda a: a + np.uint32(1), "word_offsets"),
        ("word_offsets", lambda a: a[:-1], "word_offsets"),
        ("name_offsets", lambda a: np.where(a == 3, 30, a).astype(np.uint32), "name_offsets"),
        ("names", lambda a: a[:-1], "name_offsets"),
        ("images", lambda a: a[:-1], "images"),
        ("images", lambda a: a.astype(np.uint32), "images"),
        ("codes", lambda a: a[:1], "codes"),
        ("counts", lambda a: a[:-1], "counts"),
        ("sizes", lambda a: a.astype(np.float32), "sizes"),
        ("mtimes", None, "tensors are"),
    ],
)
def test_damaged_tensors_are_named(archive: Any, tensor: str, change: Any, text: str) -> None:
    path, manifest, data = archive
    arrays, metadata = decode(data, "x")
    if change is None:
        del arrays[tensor]
    else:
        arrays[tensor] = np.ascontiguousarray(change(arrays[tensor]))
    with pytest.raises(ArchiveError, match=text) as caught:
        reopened(path, manifest, b"".join(piece_bytes(piece) for piece in encode(arrays, metadata)))
    assert manifest.shards[0].file in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("format", "x", "format is 'x'"),
        ("format_version", "4", "format_version '4', this ctxdeploy reads 1 or 2 or 3: upgrade"),
        ("kind", "float", "kind"),
        ("dim", "128", "dim"),
        ("words", "17", "words"),
        ("codebook_id", "0", "codebook_id"),
    ],
)
def test_wrong_metadata_is_named(archive: Any, field: str, value: str, text: str) -> None:
    path, manifest, data = archive
    arrays, metadata = decode(data, "x")
    changed = encode(arrays, {**metadata, field: value})
    with pytest.raises(ArchiveError, match=text):
        reopened(path, manifest, b"".join(piece_bytes(piece) for piece in changed))


def test_more_images_than_sixteen_bits_are_refused(archive: Any) -> None:
    path, manifest, _ = archive
    entry: ShardEntry = replace(manifest.shards[0], images=65537)
    with pytest.raises(ArchiveError, match="65537 images"):
        open_shard(path, entry, manifest)
