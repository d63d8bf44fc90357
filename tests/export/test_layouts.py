"""What training programs write around a network's tensors: found, taken off, and said."""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.export import load_checkpoint, save_checkpoint
from ctxdeploy.export.networks import Architecture, Edges, Lit, NetworkConfig, Refinement, Smoothing, build

Content = dict[str, Any]
HALF = Architecture.RESNET18_HALF.label


def network_of(**options: Any) -> Any:
    torch.manual_seed(5)
    settings = {"family": "how", "architecture": Architecture.RESNET18_HALF, "skip_layer": 1, "dim": 16, **options}
    network = build(NetworkConfig(**settings), Extraction(scales=(1.0, 0.5), top_k=40, dim=16))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, str]:
    """Return the content of a checkpoint on the trunk of half the width, and the hash of its weights."""
    path = tmp_path_factory.mktemp("plain") / "plain.pth"
    save_checkpoint(network_of(), path)
    return torch.load(path, weights_only=True), load_checkpoint(path).weights_sha256()


def prefixed(state: Content, prefix: str) -> Content:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def within(state: Content, before: str, after: str) -> Content:
    return {name.replace(before, after, 1): tensor for name, tensor in state.items()}


Change = Callable[[Content], Content]
DESCRIBED: dict[str, tuple[Change, str]] = {
    "DataParallel": (lambda c: {**c, "state_dict": prefixed(c["state_dict"], "module.")}, "'module.' of DataParallel"),
    "torch.compile": (lambda c: {**c, "state_dict": prefixed(c["state_dict"], "_orig_mod.")}, "'_orig_mod.' of torch"),
    "both": (lambda c: {**c, "state_dict": prefixed(c["state_dict"], "_orig_mod.module.")}, "'_orig_mod.' of torch"),
    "of the trunk alone": (
        lambda c: {**c, "state_dict": within(c["state_dict"], "features.", "features.module.")},
        "'module.' of DataParallel",
    ),
    "Lightning": (lambda c: {**c, "state_dict": prefixed(c["state_dict"], "model.")}, "'model.' is taken off"),
    "Lightning's options": (
        lambda c: {
            "hyper_parameters": {"net_params": c["net_params"]},
            "state_dict": prefixed(c["state_dict"], "net."),
        },
        "'net.' is taken off",
    ),
    "any attribute": (lambda c: {**c, "state_dict": prefixed(c["state_dict"], "a.b.")}, "'a.b.' is taken off"),
    "AveragedModel": (
        lambda c: {**c, "state_dict": {"n_averaged": torch.tensor(7), **prefixed(c["state_dict"], "module.")}},
        "'module.' of DataParallel",
    ),
    "nested": (lambda c: {"epoch": 3, "model": c}, ""),
    "of another key": (lambda c: {**{k: v for k, v in c.items() if k != "state_dict"}, "model": c["state_dict"]}, ""),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_described_network_is_the_same_in_any_wrapping(name: str, saved: tuple[Content, str], tmp_path: Path) -> None:
    change, remark = DESCRIBED[name]
    torch.save(change(saved[0]), tmp_path / "wrapped.pth")
    loaded = load_checkpoint(tmp_path / "wrapped.pth")
    assert loaded.weights_sha256() == saved[1]
    assert remark in "; ".join(loaded.remarks)
    assert bool(remark) == bool(loaded.remarks)
    loaded.network()


def options() -> argparse.Namespace:
    return argparse.Namespace(lr=0.1, out=Path("runs"), scale=np.float64(2.0), mean=np.ones(3))


BARE: dict[str, tuple[Change, str]] = {
    "state dict": (lambda s: s, ""),
    "our own names": (lambda s: {n.replace("features.0.", "backbone.conv1."): t for n, t in s.items()}, ""),
    "HOW of 2020": (lambda s: within(s, "dim_reduction.", "whiten."), ""),
    "state_dict": (lambda s: {"state_dict": s, "optimizer": {"state": {}}}, "under 'state_dict'"),
    "mast3r": (lambda s: {"args": options(), "model": s, "epoch": 3}, "under 'model'"),
    "twice nested": (lambda s: {"model": {"state_dict": s}}, "under 'model.state_dict'"),
    "net": (lambda s: {"net": prefixed(s, "module."), "acc": 93.1}, "under 'net'"),
    "with an average": (lambda s: {"state_dict": s, "state_dict_ema": s}, "under 'state_dict_ema' is left out"),
    "an average alone": (lambda s: {"ema": {"decay": torch.tensor(0.9), **s}}, "under 'ema'"),
    "parameters": (lambda s: {n: torch.nn.Parameter(t, t.is_floating_point() and False) for n, t in s.items()}, ""),
}


@pytest.mark.parametrize("name", BARE)
def test_a_bare_network_is_told_by_its_tensors(name: str, saved: tuple[Content, str], tmp_path: Path) -> None:
    change, remark = BARE[name]
    path = tmp_path / "bare.pth"
    torch.save(change(saved[0]["state_dict"]), path)
    with pytest.raises(CheckpointError, match=r"is a bare state dict .*--architecture resnet18, "):
        load_checkpoint(path)
    loaded = load_checkpoint(path, architecture=HALF)
    assert loaded.config == network_of().config
    assert loaded.weights_sha256() == saved[1]
    assert remark in "; ".join(loaded.remarks)
    assert "taken for granted: average smoothing of 3×3 cells, ImageNet's mean" in loaded.remarks[-1]
    loaded.network()


def test_safetensors_are_a_bare_state_dict(saved: tuple[Content, str], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_file(prefixed(saved[0]["state_dict"], "module."), path)
    assert load_checkpoint(path, architecture=HALF).weights_sha256() == saved[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is a safetensors file that is cut short or damaged"):
        load_checkpoint(path, architecture=HALF)


@pytest.mark.parametrize(
    "options",
    [
        {"dim": None},
        {"skip_layer": 0},
        {"family": "ctx", "smoothing": Smoothing(kind="gaussian")},
        {"family": "ctx", "refinement": Refinement(blocks=3)},
        {"family": "ctx", "refinement": Refinement(edges=Edges.SOFTMAX)},
        {"family": "ctx", "refinement": Refinement(edges=Edges.TOPK)},
        {"family": "ctx", "refinement": Refinement(edges=Edges.ATTENTION, dim=12)},
        {"family": "fire", "smoothing": Smoothing(kind="none"), "lit": Lit(templates=8, dim=32)},
        {"architecture": Architecture.EFFICIENTNET_LITE0, "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3},
        {
            "architecture": Architecture.EFFICIENTNET_LITE0,
            "block": 6,
            "mean": (127 / 255,) * 3,
            "std": (128 / 255,) * 3,
        },
    ],
    ids=[
        "no whitening",
        "stride 32",
        "gaussian",
        "threshold",
        "softmax",
        "topk",
        "attention",
        "fire",
        "lite",
        "lite, cut",
    ],
)
def test_every_part_of_a_network_is_told_by_its_tensors(options: dict[str, Any], tmp_path: Path) -> None:
    network = network_of(**options)
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    loaded = load_checkpoint(tmp_path / "bare.pth", architecture=network.config.architecture.label)
    assert loaded.config == network.config
    loaded.network()


def test_torchvisions_names_are_a_trunk(tmp_path: Path) -> None:
    trunk = network_of(skip_layer=0).backbone.state_dict()
    torch.save({**trunk, "fc.weight": torch.ones(5, 256), "fc.bias": torch.ones(5)}, tmp_path / "resnet.pth")
    loaded = load_checkpoint(tmp_path / "resnet.pth", architecture=HALF)
    assert (loaded.config.dim, loaded.config.skip_layer) == (None, 0)
    assert "its classifier, 2 tensors, is left out" in loaded.remarks
    loaded.network()


def test_what_is_not_the_network_is_refused(saved: tuple[Content, str], tmp_path: Path) -> None:
    state, path = saved[0]["state_dict"], tmp_path / "other.pth"

    def refused(content: Content, message: str, architecture: str | None = HALF) -> None:
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path, architecture=architecture)

    refused(state, "of a trunk are not those of resnet50", "resnet50")
    refused(saved[0], "is of a resnet18-half, not of a resnet18$", "resnet18")
    refused(
        {**prefixed(state, "student."), **prefixed(state, "teacher.")}, "several networks, .*'student.', 'teacher.'"
    )
    refused({**state, **prefixed(state, "module.")}, "holds features.0.weight twice")
    refused({**state, "criterion.weight": torch.ones(3)}, "unexpected: criterion.weight$")
    refused({"epoch": 3, "optimizer": {}}, "neither '_version' nor 'meta', but epoch, optimizer$")
