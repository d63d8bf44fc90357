"""Files that are given for checkpoints: what each is said to be, and those that ask for more than they hold."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.export import load_checkpoint, save_checkpoint
from ctxdeploy.export.networks import Architecture, NetworkConfig, build

Content = dict[str, Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint that loads."""
    torch.manual_seed(0)
    config = NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF, skip_layer=1, dim=16)
    path = tmp_path_factory.mktemp("good") / "good.pth"
    save_checkpoint(build(config, Extraction(scales=(1.0,), top_k=9, dim=16)), path)
    load_checkpoint(path).network()
    return path


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("good.pth")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(*names: str, data: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + bytes(100_000))
    return buffer.getvalue()


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 45123456\n"
Make = Callable[[bytes], bytes]
KINDS: dict[str, tuple[Make, str]] = {
    "empty": (lambda _: b"", "it is empty: copy or fetch it again"),
    "LFS": (lambda _: LFS, "it is a pointer of Git LFS, not the checkpoint itself: run  git lfs pull  beside it"),
    "annex": (lambda _: b"/annex/objects/SHA256E-s4--ab.pth\n", "a pointer of git-annex or DVC"),
    "DVC": (lambda _: b"outs:\n- md5: ab\n  size: 4\n", "a pointer of git-annex or DVC"),
    "page": (lambda _: b"\n<!DOCTYPE html><html><title>Sign in", "it is a web page (.*Sign in …): the link leads"),
    "page in Latin-1": (lambda _: b"<html><title>Zur\xfcck", "it is a web page"),
    "page in Windows' text": (lambda _: b"\xef\xbb\xbf<html>", "it is a web page"),
    "S3's answer": (lambda _: b'<?xml version="1.0"?><Error><Code>AccessDenied', "it is a web page"),
    "JSON": (lambda _: b'{"message": "Not Found"}', 'it is JSON ({"message": "Not Found"} …)'),
    "text": (lambda _: b"hello\n", "it is text (hello …)"),
    "terminal's escape": (lambda _: b"hello \x1b[31m\n", r"it is text (hello \x1b[31m …)"),
    "gzip": (lambda data: gzip.compress(data[:99]), "it is compressed with gzip: unpack it"),
    "bzip2": (lambda data: bz2.compress(data[:99]), "it is compressed with bzip2: unpack it"),
    "xz": (lambda data: lzma.compress(data[:99]), "it is compressed with xz: unpack it"),
    "tar": (tarred, "it is a tar archive: unpack it"),
    "zip with it": (
        lambda data: zipped("how/good.pth", data=data),
        "it is a zip archive of other things (how/good.pth)",
    ),
    "npz": (lambda _: zipped("a.npy", "b.npy"), "it is a zip archive of other things (a.npy, b.npy)"),
    "TorchScript": (lambda _: scripted(), "it is a program of TorchScript or torch.export"),
    "packed once more": (deflated, "its parts are larger than the file: it was compressed after torch.save"),
    "ONNX": (lambda _: b"\x08\x0a\x12\x07pytorch" + bytes(range(200)), "it is an ONNX graph: export takes the"),
    "engine": (lambda _: b"ftrt" + bytes(100), "it is an engine of TensorRT"),
    "Keras": (lambda _: b"\x89HDF\r\n\x1a\n" + bytes(100), "it is an HDF5 file"),
    "numpy": (lambda _: array(), "it is a numpy array"),
    "zeros": (lambda _: bytes(5000), "its first 4096 bytes are all 0"),
    "noise": (lambda _: bytes(range(128, 256)) * 9, "it begins with the bytes 80 81 82 83|breaks off"),
    "other bytes": (lambda _: bytes(range(250, 0, -1)), "it begins with the bytes fa f9 f8"),
    "pickle": (lambda _: pickle.dumps({"a": 1}, protocol=2), "it is a pickle that torch.save did not write"),
    "protocol 4": (
        lambda _: saved({"state_dict": {}}, pickle_protocol=4),
        r"was saved with pickle protocol 4, of which FRAME is not read: .* save it again with  torch.save",
    ),
    "protocol 5": (lambda _: saved({"a": torch.ones(1)}, pickle_protocol=5), "was saved with pickle protocol 5"),
    "old and protocol 4": (
        lambda _: saved({"a": 1}, pickle_protocol=4, _use_new_zipfile_serialization=False),
        "was saved with pickle protocol 4",
    ),
    "protocol 0": (lambda _: saved({"a": torch.ones(1)}, pickle_protocol=0), "was saved with pickle protocol 0"),
    "cut at a tenth": (lambda data: data[: len(data) // 10], "its end, with the table of its parts, is missing after"),
    "cut at the end": (lambda data: data[:-30], "its end, with the table of its parts, is missing after"),
    "a byte changed": (flipped, "its part good/data/[0-9]+ is not what was written|its part .* is not what"),
    "whole network": (
        lambda _: saved(torch.nn.Linear(2, 2)),
        "holds more than tensors and numbers (torch.nn.modules.*",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_said_to_be_what_it_is(
    name: str, good: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    make, message = KINDS[name]
    path = tmp_path / "file.pth"
    path.write_bytes(make(good.read_bytes()))
    pattern = message.replace("(", r"\(").replace(")", r"\)").replace("\\x1b[", r"\\x1b\[").replace("{", r"\{")
    with pytest.raises(CheckpointError, match=pattern) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).isprintable()
    assert not [w for w in recwarn if "pickle" in str(w.message)], "PyTorch's warnings are not for our users"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("at", [0.02, 0.3, 0.97])
def test_a_file_that_was_cut(at: float, zipped: bool, good: Path, tmp_path: Path) -> None:
    data = saved(torch.load(good, weights_only=True), _use_new_zipfile_serialization=zipped)
    (tmp_path / "cut.pth").write_bytes(data[: int(len(data) * at)])
    with pytest.raises(
        CheckpointError, match=r"is not a PyTorch checkpoint, or is damaged: .*; copy or fetch it again"
    ):
        load_checkpoint(tmp_path / "cut.pth")


def test_links_and_folders(tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"is a link to .*gone, which does not exist"):
        load_checkpoint(tmp_path / "link.pth")
    with pytest.raises(CheckpointError, match="it is a folder; give the file in it"):
        load_checkpoint(tmp_path)


Change = Callable[[Content], Any]


def put(name: Any, tensor: Any) -> Change:
    return lambda state: state.update({name: tensor})


def quantised() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8)


HUGE = 10**11
TENSORS: dict[str, tuple[Change, str]] = {
    "one number, 10^11 times": (put("more", torch.ones(1).expand(HUGE)), "unexpected: more$"),
    "in place of one": (
        put("features.1.bias", torch.ones(1).expand(HUGE)),
        r"of another shape: features.1.bias \(100000000000,\) instead of \(32,\)$",
    ),
    "half, 10^11 times": (put("more", torch.ones(1).half().expand(10, HUGE)), "unexpected: more$"),
    "sparse": (
        put("more", torch.sparse_coo_tensor([[5]], [1.0], (HUGE,))),
        "entries that are not tensors of real numbers: more$",
    ),
    "quantised": (put("features.1.bias", quantised()), "not tensors of real numbers: features.1.bias$"),
    "of no numbers": (put("features.1.bias", torch.ones(HUGE, device="meta")), "not tensors of real numbers"),
    "integer key": (put(7, torch.ones(1).expand(HUGE)), "not tensors of real numbers: 7$"),
    "tuple key": (put((1, 2), torch.ones(1)), r"not tensors of real numbers: \(1, 2\)$"),
    "float8": (
        lambda state: state.update({"features.1.bias": state["features.1.bias"].to(torch.float8_e4m3fn)}),
        r"weights must be float32, .* but these are not: features.1.bias \(float8_e4m3fn\); save",
    ),
    "integers": (put("features.1.bias", torch.ones(32, dtype=torch.int64)), r"are not: features.1.bias \(int64\)"),
    "truth": (put("features.1.bias", torch.ones(32, dtype=torch.bool)), r"are not: features.1.bias \(bool\)"),
    "all integers": (
        lambda state: state.update({n: t.to(torch.int8) for n, t in state.items()}),
        r"are not: features.0.weight \(int8\), .* more; save",
    ),
    "zeros": (
        lambda state: state.update({n: torch.zeros_like(t) for n, t in state.items()}),
        "all zero: features.0.weight, dim_reduction.weight$",
    ),
    "no whitening": (put("dim_reduction.weight", torch.zeros(16, 128, 1, 1)), "all zero: dim_reduction.weight$"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_no_weights_are_refused_before_they_are_read(name: str, good: Path, tmp_path: Path) -> None:
    change, message = TENSORS[name]
    content = torch.load(good, weights_only=True)
    change(content["state_dict"])
    path = tmp_path / "changed.pth"
    torch.save(content, path)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path).network()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_storage_larger_than_the_file_is_refused(good: Path, tmp_path: Path) -> None:
    # The pickle says how many numbers a part holds, and PyTorch believes it.
    content, path = torch.load(good, weights_only=True), tmp_path / "claims.pth"
    content["state_dict"]["features.1.bias"] = torch.ones(32_323_232)[:32]
    data = saved(content)
    small = torch.ones(32).numpy().tobytes()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, small if len(part) == 4 * 32_323_232 else part)
    with pytest.raises(CheckpointError, match=r"names more numbers than it holds: it is damaged|does not fit together"):
        load_checkpoint(path)
