"""The safetensors reader: exact bytes, agreement with the `safetensors` package, and nothing but `ArchiveError`."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import piece_bytes
from ctxdeploy.index import Codebook, Index
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.format import decode, encode, map_file

DTYPES = ("u1", "i1", "<u2", "<u4", "<u8", "<i4", "<i8", "<f4")


def joined(tensors: Any, metadata: Any = None) -> bytes:
    return b"".join(piece_bytes(piece) for piece in encode(tensors, metadata or {}))


def raw(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 8)
    return len(text).to_bytes(8, "little") + text + data


def test_exact_bytes() -> None:
    tensors = {"b": np.array([1, 2], "<u2"), "a": np.array([3], "<u2"), "z": np.array([[5]], "<u8")}
    header = (
        b'{"__metadata__":{"k":"v"},"z":{"dtype":"U64","shape":[1,1],"data_offsets":[0,8]},'
        b'"a":{"dtype":"U16","shape":[1],"data_offsets":[8,10]},"b":{"dtype":"U16","shape":[2],"data_offsets":[10,14]}}'
    )
    header += b" " * (248 - len(header))
    data = bytes([5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0, 2, 0])
    assert joined(tensors, {"k": "v"}) == (248).to_bytes(8, "little") + header + data


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), max_size=6))
def test_round_trip_also_through_the_safetensors_package(shapes: list[tuple[str, list[int]]]) -> None:
    from safetensors.numpy import load

    rng = np.random.default_rng(0)
    tensors = {f"t{i}": rng.integers(0, 99, shape).astype(dtype) for i, (dtype, shape) in enumerate(shapes)}
    data = joined(tensors, {"a": "b"})
    arrays, metadata = decode(data, "here")
    assert metadata == {"a": "b"}
    for found in (arrays, load(data)):
        assert set(found) == set(tensors)
        for name, array in tensors.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


ENTRY = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "too few"),
        (b"1234567", "too few"),
        ((1 << 63).to_bytes(8, "little"), "header length"),
        ((9).to_bytes(8, "little") + b"{}", "header length"),
        (raw(b"\xff\xfe"), "JSON"),
        (raw(b"{"), "JSON"),
        (raw(b"[" * 90_000), "JSON"),
        (raw(b'{"a":' + b"9" * 5000 + b"}"), "JSON"),
        (raw([]), "not an object"),
        (raw(b'{"a":{},"a":{}}'), "twice"),
        (raw({"__metadata__": {"a": 1}}), "__metadata__"),
        (raw({"__metadata__": []}), "__metadata__"),
        (raw({"a": 1}), "'a' is damaged"),
        (raw({"a": {**ENTRY, "more": 1}}), "'a' is damaged"),
        (raw({"a": {**ENTRY, "dtype": "F4"}}, b"1234"), "dtype"),
        (raw({"a": {**ENTRY, "dtype": []}}, b"1234"), "dtype"),
        (raw({"a": {**ENTRY, "shape": [-4]}}, b"1234"), "sizes"),
        (raw({"a": {**ENTRY, "shape": [4.0]}}, b"1234"), "sizes"),
        (raw({"a": {**ENTRY, "shape": [True]}}, b"1234"), "sizes"),
        (raw({"a": {**ENTRY, "shape": "4"}}, b"1234"), "list"),
        (raw({"a": {**ENTRY, "shape": [1] * 9}}, b"1234"), "list"),
        (raw({"a": {**ENTRY, "shape": [1 << 61, 1 << 61]}}, b"1234"), "shape needs"),
        (raw({"a": {**ENTRY, "shape": [0, 1 << 61, 1 << 61], "data_offsets": [0, 0]}}), "shape"),
        (raw({"a": {**ENTRY, "data_offsets": [0, 4, 4]}}, b"1234"), "list"),
        (raw({"a": {**ENTRY, "data_offsets": [4, 0]}}, b"1234"), "span"),
        (raw({"a": {**ENTRY, "data_offsets": [1, 5]}}, b"12345"), "begins at 1"),
        (raw({"a": ENTRY}, b"123"), "in 3 bytes"),
        (raw({"a": ENTRY}, b"12345"), "in 5 bytes"),
        (raw({"a": ENTRY, "b": ENTRY}, b"12345678"), "begins at 0"),
        (raw({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 12]}}, b"123456789012"), "begins at 8"),
    ],
)
def test_refused(data: bytes, text: str) -> None:
    with pytest.raises(ArchiveError, match=text) as caught:
        decode(data, "some.file")
    assert "some.file" in str(caught.value)


def test_tensors_that_are_not_aligned_are_refused() -> None:
    entries = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "U16", "shape": [1], "data_offsets": [1, 3]},
    }
    with pytest.raises(ArchiveError, match="aligned"):
        decode(raw(entries, b"123"), "x")


def test_an_empty_file(tmp_path: Any) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ArchiveError, match="cannot be read"):
        map_file(tmp_path / "x")


VALID = joined({"a": np.arange(6, dtype="<u4"), "b": np.zeros((2, 3), "<f4"), "c": np.ones(5, "u1")}, {"format": "x"})


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(VALID) + 20),
)
def test_mutated_bytes_raise_nothing_but_archive_errors(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(VALID)
    for place, value in changes:
        data[place] = value
    data = (data + bytes(20))[:length]
    try:
        arrays, _ = decode(bytes(data), "x")
    except ArchiveError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(data)


@given(st.binary(max_size=200))
def test_any_header_raises_nothing_but_archive_errors(text: bytes) -> None:
    with pytest.raises(ArchiveError):
        decode(len(text).to_bytes(8, "little") + b"{" + text, "x")


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_maps_no_files(
    make_photos: Any, make_archive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    photos = make_photos(3)
    path = make_archive(photos)

    def failing(*arguments: Any, **named: Any) -> None:
        raise OSError(code, os.strerror(code))

    with Index.open(path) as index:
        expected = [(hit.name, hit.score) for hit in index.search(photos[0])]
    monkeypatch.setattr(file_format.mmap, "mmap", failing)
    with Index.open(path, writable=True) as index:
        assert [(hit.name, hit.score) for hit in index.search(photos[0])] == expected
        index.add("another", photos[1])
    with Index.open(path) as index:
        assert index.verify() == [] and len(index) == 4
    with Index.create(tmp_path / "other", Codebook.load(path / "codebook.safetensors")) as other:
        other.merge(path)
    assert Index.problems(tmp_path / "other") == []
