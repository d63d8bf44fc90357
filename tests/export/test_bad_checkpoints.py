"""Files that are refused, each with a message that says why; none of them runs code."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.export import load_checkpoint, save_checkpoint
from ctxdeploy.export.networks import Architecture, NetworkConfig, Refinement, Smoothing, build

Content = dict[str, Any]


class Malicious:
    """Unpickled by an ordinary ``pickle.load``, it makes a folder."""

    def __init__(self, path: Path, call: Any) -> None:
        self.path = path
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.call, (str(self.path),))


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ctx checkpoint that loads."""
    config = NetworkConfig(
        family="ctx",
        architecture=Architecture.RESNET18,
        skip_layer=1,
        dim=16,
        smoothing=Smoothing(kind="gaussian"),
        refinement=Refinement(blocks=1),
    )
    path = tmp_path_factory.mktemp("good") / "good.pth"
    save_checkpoint(build(config, Extraction(scales=(1.0,), top_k=9, dim=16)), path)
    load_checkpoint(path).network()
    return path


@pytest.fixture
def edited(good_file: Path, tmp_path: Path) -> Callable[[Callable[[Content], Any]], Path]:
    """Return a function that saves the good checkpoint after a change to its content."""

    def edit(change: Callable[[Content], Any]) -> Path:
        content = torch.load(good_file, weights_only=True)
        change(content)
        path = tmp_path / "edited.pth"
        torch.save(content, path)
        return path

    return edit


def put(name: str, tensor: Any) -> Callable[[Content], None]:
    return lambda content: content["state_dict"].update({name: tensor})


def drop(name: str) -> Callable[[Content], None]:
    return lambda content: content["state_dict"].pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("features.6.0.conv1.weight"), "missing: features.6.0.conv1.weight$"),
        (drop("smoothing.predict.bias"), "missing: smoothing.predict.bias$"),
        (drop("refinement.blocks.0.threshold"), "missing: refinement.blocks.0.threshold$"),
        (put("features.7.0.conv1.weight", torch.ones(1)), "unexpected: features.7.0.conv1.weight$"),
        (put("backbone.conv9.weight", torch.ones(1)), "unexpected: backbone.conv9.weight$"),
        (put("fc.weight", torch.ones(1)), "unexpected: fc.weight$"),
        (put("features.1.bias", torch.ones(3)), r"of another shape: features.1.bias \(3,\) instead of \(64,\)$"),
        (put("features.1.bias", torch.full((64,), torch.nan)), "not finite: features.1.bias$"),
        (put("features.1.bias", torch.full((64,), -torch.inf)), "not finite: features.1.bias$"),
        (put("features.1.bias", [0.0] * 64), "not tensors of real numbers: features.1.bias$"),
        (
            put("features.1.bias", torch.ones(64, dtype=torch.complex64)),
            "not tensors of real numbers: features.1.bias$",
        ),
        (put("features.1.bias", torch.eye(8).to_sparse()), "not tensors of real numbers: features.1.bias$"),
        (put(7, torch.ones(1)), "not tensors of real numbers: 7$"),
    ],
)
def test_tensors_that_do_not_fit_are_named(edited: Any, change: Callable[[Content], Any], message: str) -> None:
    path = edited(change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path).network()
    assert str(path) in str(caught.value)


def test_many_missing_tensors_are_counted(edited: Any) -> None:
    path = edited(lambda content: content.update(state_dict={}))
    with pytest.raises(CheckpointError, match=r"missing: features.0.weight, .* and \d\d more$"):
        load_checkpoint(path).network()


def option(name: str, value: Any) -> Callable[[Content], None]:
    return lambda content: content["net_params"].update({name: value})


def without(name: str) -> Callable[[Content], None]:
    return lambda content: content["net_params"].pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (option("lit", {"T": 6, "N": 256, "dim": 1024}), "'lit' and 'smoothing': a FIRe network has no smoothing"),
        (option("whiten_twice", True), "unknown options: whiten_twice"),
        (option("architecture", "vgg19"), "architecture 'vgg19' is not one of resnet18, resnet34, resnet50, resnet101"),
        (option("skip_layer", 2), "skip_layer 2: use 0 or 1"),
        (option("skip_layer", "one"), "skip_layer .one. is not a whole number"),
        (option("dim_reduction", {"dim": 100_000}), r"dimension 100000 is outside 1..256"),
        (option("dim_reduction", {}), "unexpected: dim_reduction.weight, dim_reduction.bias$"),
        (option("smoothing", {"kind": "median", "kernel_size": 3}), "smoothing 'median' is not one of"),
        (option("smoothing", {"kind": "gaussian", "kernel_size": 4}), r"kernel size 4: use one of \(3, 5, 7\)"),
        (option("smoothing", {"kind": "gaussian", "kernel_size": 3, "sigma": 1}), "sigma"),
        (option("refinement", {"kind": "transformer"}), "refinement of kind 'transformer': only 'graph' is known"),
        (option("refinement", {"kind": "graph", "blocks": 99, "edges": "topk"}), "with 99 blocks: use 1 to 16"),
        (option("refinement", {"kind": "graph", "edges": "nearest"}), "'nearest' is not a valid Edges"),
        (without("architecture"), "net_params lacks 'architecture'"),
        (without("runtime"), "net_params lacks 'runtime'"),
        (option("runtime", {"mean_std": [[0.5] * 3, [0.0] * 3]}), "std positive"),
        (option("runtime", {"mean_std": [[0.5] * 2, [1.0] * 3]}), "not enough values"),
        (option("runtime", {"mean_std": [[0.5] * 3, [1.0] * 3], "scales": [9.0]}), "scale 9.0 is not a number from"),
        (option("runtime", [1, 2]), "edited.pth: "),
        (option("runtime", {"mean_std": [[0.5] * 3, [float("nan")] * 3]}), "must be three"),
        (lambda content: content.pop("net_params"), "has no dictionary 'net_params' or 'state_dict'"),
        (lambda content: content.update(state_dict=[1]), "has no dictionary 'net_params' or 'state_dict'"),
        (lambda content: content.pop("_version"), "has neither '_version' nor 'meta', but net_params, state_dict"),
    ],
)
def test_descriptions_of_no_known_network(edited: Any, change: Callable[[Content], Any], message: str) -> None:
    path = edited(change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path).network()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("meta", [{}, [], "resnet18", {"architecture": "resnet18"}])
def test_meta_of_no_release(meta: Any, tmp_path: Path) -> None:
    path = tmp_path / "meta.pth"
    torch.save({"meta": meta, "state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="'meta' is not that of a HOW checkpoint of 2020"):
        load_checkpoint(path)


def write_text(path: Path) -> None:
    path.write_text("not a checkpoint\n")


def write_jpeg(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, format="JPEG")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text, "is not a PyTorch checkpoint: "),
        (lambda path: path.touch(), "is not a PyTorch checkpoint: "),
        (write_jpeg, "is not a PyTorch checkpoint: "),
        (write_zip, "is not a PyTorch checkpoint: "),
        (lambda path: path.mkdir(), "is not a PyTorch checkpoint: "),
        (lambda path: None, "does not exist"),
        (lambda path: torch.save([1, 2], path), "holds a list instead of a dictionary"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor instead of a dictionary"),
        (
            lambda path: torch.save({"conv1.weight": torch.ones(3)}, path),
            r"is a bare state dict \(1 tensor: conv1.weight …\), which does not say .* --architecture resnet18, ",
        ),
        (lambda path: torch.save({}, path), "neither '_version' nor 'meta'"),
    ],
    ids=["text", "empty", "jpeg", "zip", "folder", "missing", "list", "tensor", "bare state_dict", "empty dict"],
)
def test_no_checkpoint_at_all(write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "no advice to run the file's code"


@pytest.mark.parametrize("at", [0.1, 0.5, 0.999])
def test_a_truncated_file(at: float, good_file: Path, tmp_path: Path) -> None:
    data = good_file.read_bytes()
    path = tmp_path / "short.pth"
    path.write_bytes(data[: int(len(data) * at)])
    with pytest.raises(CheckpointError, match="is not a PyTorch checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("call", [os.mkdir, os.makedirs], ids=["posix", "os"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_checkpoint_is_not_run(form: str, call: Any, tmp_path: Path) -> None:
    path, made = tmp_path / "evil.pth", tmp_path / "made-by-the-checkpoint"
    content = {"_version": "how/2020", "net_params": Malicious(made, call), "state_dict": {}}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"more than tensors and numbers \((posix|os)\..*\); it is not loaded"):
        load_checkpoint(path)
    assert not made.exists()
    # The same file does run code where it is trusted: the test would notice.
    if form == "pickle":
        pickle.loads(path.read_bytes())  # noqa: S301
    else:
        torch.load(path, weights_only=False)
    assert made.exists()
