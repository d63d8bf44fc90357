"""TensorFlow's checkpoints: what TensorFlow wrote, what a writer of the tests wrote, and both with bytes changed."""

import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.export.crc32c import crc32c
from ctxdeploy.export.tensor_bundle import TensorBundle

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden"
MUTATIONS = 5_000


@pytest.fixture(scope="module")
def writer(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    return load_reference("tensor_bundle")


@pytest.fixture(scope="module")
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip(f"the checkpoints that TensorFlow wrote are not at {GOLDEN}")
    return GOLDEN


def tensors() -> dict[str, Any]:
    random = np.random.default_rng(3)
    return {
        "a/weights": random.standard_normal((3, 3, 5, 7)).astype(np.float32),
        "a/BatchNorm/beta": random.standard_normal(7).astype(np.float32),
        "codebook": random.standard_normal((100, 6)).astype(np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "global_step": np.int64(-7),
        "half": random.standard_normal(9).astype(np.float16),
        "scalar": np.float64(0.125),
    }


@pytest.fixture(scope="module")
def written(writer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the prefix of a checkpoint of three data files, one of whose variables is partitioned."""
    prefix = tmp_path_factory.mktemp("bundle") / "model"
    writer.write(prefix, tensors(), shards=3, rows={"codebook": 33})
    return prefix


@given(data=st.one_of(st.binary(max_size=300), st.binary(min_size=1020, max_size=1300)))
def test_checksum(data: bytes, writer: ModuleType) -> None:
    assert crc32c(data) == writer.slow_crc32c(data)


def test_checksum_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


def test_checksum_of_many_bytes_is_that_of_its_parts(writer: ModuleType) -> None:
    """A CRC goes on where it stopped: bytes after a long row give what they give after its checksum."""
    data = np.random.default_rng(1).bytes((1 << 20) + 77)
    crc = crc32c(data[:-5]) ^ 0xFFFFFFFF
    for byte in data[-5:]:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF
    zeros = bytes(1 << 20)
    assert crc32c(zeros) == 0x14298C12


def test_every_tensor_is_the_one_that_was_written(written: Path) -> None:
    found = TensorBundle.open(written)
    assert sorted(found.entries) == sorted(tensors())
    for name, wanted in tensors().items():
        np.testing.assert_array_equal(found.read(name), wanted)
        assert found.read(name).dtype == np.asarray(wanted).dtype
        assert found.read(name).shape == np.shape(wanted)


def test_names_of_tensorflow_2_and_the_path_of_the_index(writer: ModuleType, tmp_path: Path) -> None:
    prefix = tmp_path / "variables" / "variables"
    writer.write(prefix, tensors(), suffix=writer.SUFFIX, rows={"codebook": 40})
    found = TensorBundle.open(f"{prefix}.index")
    assert sorted(found.entries) == sorted(tensors())
    np.testing.assert_array_equal(found.read("codebook"), tensors()["codebook"])


def test_what_tensorflow_1_wrote(golden: Path) -> None:
    found = TensorBundle.open(golden / "tfbundle" / "tf1" / "model")
    wanted = {
        "clusters": np.array([[0, 1], [2, 3], [4, 5], [10, 11], [12, 13], [14, 15]], np.float32),
        "global_step": np.int64(7),
        "half": np.array([1, 2, 0.5], np.float16),
        "resnet_v1_50/conv1/BatchNorm/beta": np.array([0.5, -1, 2, 4], np.float32),
        "resnet_v1_50/conv1/weights": (np.arange(48, dtype=np.float32) / 8).reshape(2, 2, 3, 4),
        "scalar": np.float32(1.25),
    }
    assert sorted(found.entries) == sorted(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found.read(name), value)


def test_what_tensorflow_2_wrote(golden: Path) -> None:
    found = TensorBundle.open(golden / "tfbundle" / "tf2" / "variables" / "variables.index")
    np.testing.assert_array_equal(found.read("w"), np.arange(6, dtype=np.float32).reshape(2, 3) / 4)
    np.testing.assert_array_equal(found.read("k/0"), np.float32(3.5))
    with pytest.raises(CheckpointError, match=r"_CHECKPOINTABLE_OBJECT_GRAPH is of TensorFlow's type 7: not numbers"):
        found.read("_CHECKPOINTABLE_OBJECT_GRAPH")


def test_the_index_of_a_whole_network(golden: Path) -> None:
    found = TensorBundle.open(golden / "slim_resnet50_attention.variables")
    assert len(found.entries) == 272  # and the graph of objects
    assert found.entries["resnet_v1_50/conv1/weights"].shape == (7, 7, 3, 64)
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001 cannot be read: No such file"):
        found.read("resnet_v1_50/conv1/weights")


def changed(prefix: Path, folder: Path, change: Callable[[bytearray], None], ending: str = ".index") -> Path:
    """Copy a checkpoint with one of its files changed."""
    for path in prefix.parent.iterdir():
        content = bytearray(path.read_bytes())
        if path.name.endswith(ending):
            change(content)
        (folder / path.name).write_bytes(content)
    return folder / prefix.name


def test_damage_is_named(written: Path, writer: ModuleType, tmp_path: Path) -> None:
    def cut(content: bytearray) -> None:
        del content[-1:]

    def flip(content: bytearray) -> None:
        content[10] ^= 1

    def refused(prefix: Path, name: str | None, match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            found = TensorBundle.open(prefix)
            found.read(name or "scalar")

    refused(tmp_path / "none", None, r"none\.index cannot be read: No such file")
    refused(changed(written, tmp_path, cut), None, r"damaged: its last bytes are not those of one; copy it again")
    refused(changed(written, tmp_path, flip), None, r"damaged: a checksum; copy it again")
    data = ".data-00000-of-00003"
    refused(changed(written, tmp_path, flip, data), "a/weights", r"a/weights is not what was written: copy the file")
    refused(
        changed(written, tmp_path, cut, data), "scalar", r"has [\d,]+ bytes, but scalar ends at [\d,]+: copy it again"
    )
    writer.write(tmp_path / "snappy", {"scalar": np.float32(1)}, compression=1)
    refused(tmp_path / "snappy", None, "compressed with Snappy")
    header = writer.field(1, 1) + writer.field(2, 1)
    writer.write(tmp_path / "big", {"scalar": np.float32(1)}, header=header)
    refused(tmp_path / "big", None, "puts the highest byte first")
    refused(written, "other", "has no tensor other")


def test_entries_that_do_not_fit_are_refused_before_anything_is_made(writer: ModuleType, tmp_path: Path) -> None:
    """Checksums that fit do not make an entry true."""

    def refused(entries: dict[bytes, bytes], match: str) -> None:
        table = {b"": writer.field(1, 1), **entries}
        writer.write_table(tmp_path / "model.index", sorted(table.items()))
        (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(64))
        with pytest.raises(CheckpointError, match=match):
            TensorBundle.open(tmp_path / "model").read("x")

    zeros = bytes(64)
    crc = writer.masked(writer.slow_crc32c(zeros))
    refused({b"x": writer.entry(1, (1 << 39, 4), 0, 0, zeros, crc)}, "x has 64 bytes, but its shape .* needs")
    refused({b"x": writer.entry(1, (0, 1 << 39, 1 << 39), 0, 0, b"", 1)}, "a tensor of more numbers than")
    refused({b"x": writer.entry(1, (16,), 0, 1, zeros, crc)}, "has 64 bytes, but x ends at 65")
    refused({b"x": writer.entry(1, (16,), 1, 0, zeros, crc)}, "a tensor in data file 1 of 1")
    refused({b"x": writer.entry(1, (1,) * 17, 0, 0, zeros, crc)}, "a tensor of 17 axes")
    both = writer.entry(1, (16,), 0, 0, zeros, crc)
    refused({b"x": both, b"x/.ATTRIBUTES/VARIABLE_VALUE": both}, "two tensors x")
    # Slices: one is missing, they overlap, one repeats.
    half = writer.entry(1, (8,), 0, 0, zeros[:32], writer.masked(writer.slow_crc32c(zeros[:32])))
    low, high, inner = ([(0, 8)], [(8, 8)], [(4, 8)])
    for slices, match in (
        ([low, high], "a slice of x is missing"),
        ([low, inner], "the slices of x overlap"),
        ([low, low], "a slice of x is missing or"),
        ([low], "do not make up"),
    ):
        parts = {writer.slice_key("x", extents): half for extents in (low, inner)}
        refused({b"x": writer.entry(1, (16,), 0, 0, b"", 0, slices), **parts}, match)


def test_keys_out_of_order_are_refused(writer: ModuleType, tmp_path: Path) -> None:
    entry = writer.entry(9, (), 0, 0, bytes(8), 1)
    writer.write_table(tmp_path / "model.index", [(b"", writer.field(1, 1)), (b"y", entry), (b"x", entry)])
    with pytest.raises(CheckpointError, match="its names are not in order"):
        TensorBundle.open(tmp_path / "model")


def resealed(index: bytes, writer: ModuleType) -> bytes:
    """Return an index of one data block with the checksum of that block made to fit."""
    footer = memoryview(index)[-48:]
    meta = int(footer[0]) + 128 * int(footer[1]) - 128 if footer[0] >= 128 else int(footer[0])
    crc = writer.masked(crc32c(index[: meta - 4]))
    return index[: meta - 4] + struct.pack("<I", crc) + index[meta:]


def mutated(content: bytes, random: np.random.Generator, *, within: int, in_place: bool) -> bytes:
    """Return bytes with one to three places of them changed, cut out or filled in."""
    made = bytearray(content)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(within))
        how = 0 if in_place else random.integers(3)
        if how == 0 and made[at:]:
            made[at] = random.integers(256)
        elif how == 1:
            del made[at : at + int(random.integers(1, 9))]
        else:
            made[at:at] = random.bytes(int(random.integers(1, 9)))
    return bytes(made)


@pytest.mark.slow
def test_changed_bytes_never_give_a_wrong_tensor(
    written: Path, writer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 checkpoints, each with a few bytes changed, cut out or put in, the block's checksum mended in half of them.

    Every one opens or is refused with a sentence. Where no checksum was mended, what is read is what was written.
    """
    wanted = {name: np.asarray(value) for name, value in tensors().items()}
    files = {path.name: path.read_bytes() for path in written.parent.iterdir()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    index = files.pop("model.index")
    given = [index]
    # The index is not written: a file takes a millisecond to make.
    monkeypatch.setattr("ctxdeploy.export.tensor_bundle.read_regular", lambda *_: given[0])
    random = np.random.default_rng(11)
    read = refused = wrong_entries = 0
    for number in range(MUTATIONS):
        mended, name = number % 2 == 1, ""
        given[0] = index
        if mended:
            given[0] = resealed(mutated(index, random, within=len(index) // 2, in_place=True), writer)
        elif number % 20:
            given[0] = mutated(index, random, within=len(index), in_place=False)
        else:
            name = [*files][random.integers(len(files))]
            content = mutated(files[name], random, within=len(files[name]), in_place=False)
            (tmp_path / name).write_bytes(content)
        try:
            found = TensorBundle.open(tmp_path / "model")
        except CheckpointError:
            refused += 1
            continue
        for known in found.entries if name else [*found.entries][number % 7 :: 7]:
            try:
                array = found.read(known)
            except CheckpointError:
                refused += 1
                continue
            read += 1
            if not mended:
                np.testing.assert_array_equal(array, wanted[known], strict=True)
            elif known not in wanted or array.shape != wanted[known].shape or (array != wanted[known]).any():
                wrong_entries += 1
        if name:
            (tmp_path / name).write_bytes(files[name])
    assert read > 1_000
    assert refused > 4_000
    # A checksum that was mended hides a changed name or shape; it hides none of a tensor's bytes.
    assert 0 < wrong_entries < read // 2
