"""Checkpoints that load: HOW current and of 2020, ctx in every combination."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.export import load_checkpoint, save_checkpoint
from ctxdeploy.export.networks import Architecture, Edges, NetworkConfig, Refinement, Smoothing, build

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


def random_network(skip_layer: int = 1, **options: Any) -> Any:
    torch.manual_seed(3)
    settings = {"family": "how", "architecture": Architecture.RESNET18, "skip_layer": skip_layer, "dim": 16, **options}
    config = NetworkConfig(**settings)
    network = build(config, Extraction(scales=(1.0, 0.5), top_k=40, dim=config.descriptor_dim))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


def how_state(network: Any, whitening: str) -> dict[str, torch.Tensor]:
    """Return a network's tensors under HOW's names: children of the ResNet by number."""
    state = {}
    for name, tensor in network.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "backbone":
            child, _, rest = rest.partition(".")
            name = f"features.{CHILDREN[child]}.{rest}"
        elif part == "dim_reduction":
            name = f"{whitening}.{rest}"
        state[name] = tensor.clone()
    return state


def how_current(network: Any) -> dict[str, Any]:
    """Return a checkpoint as HOW's training writes it."""
    scores: Any = defaultdict(list)
    scores["val_eccv20"].append((1, {"medium": {"map": np.float64(0.74), "ap": [0.1, np.float64(0.2)]}}))
    scores["train_loss"] = [np.float64(0.3), 0.2]
    return {
        "_version": "how/2020",
        "net_params": {
            "architecture": "resnet18",
            "pretrained": True,
            "skip_layer": network.config.skip_layer,
            "dim_reduction": {"dim": 16},
            "smoothing": {"kernel_size": 3},
            "runtime": {
                "mean_std": [MEAN, STD],
                "image_size": 768,
                "features_num": 1500,
                "scales": [2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25],
                "training_scales": [1],
            },
        },
        "state_dict": how_state(network, "dim_reduction"),
        "epoch": 4,
        "meta": {"type": "CirNet", "outputdim": 16},
        "optimizer": {
            "state": {0: {"step": 3, "exp_avg": torch.ones(2)}},
            "param_groups": [{"lr": 5e-6, "params": [0]}],
        },
        "scores": scores,
        "best_score": np.float64(0.741),
    }


def how_2020(network: Any) -> dict[str, Any]:
    """Return a checkpoint as published in 2020."""
    return {
        "meta": {
            "architecture": "resnet18",
            "mean": MEAN,
            "std": STD,
            "skip_layer": network.config.skip_layer,
            "dim": 16,
            "feat_pool_k": 3,
            "outputdim": 16,
            "backbone_dim": 256,
        },
        "state_dict": how_state(network, "whiten"),
    }


def same_outputs(left: Any, right: Any) -> bool:
    image = torch.randint(0, 256, (1, 70, 83, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return all(torch.equal(a, b) for a, b in zip(left(image), right(image), strict=True))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(("make", "form"), [(how_current, "how"), (how_2020, "how-2020")])
def test_how_loads(make: Callable[[Any], dict[str, Any]], form: str, zipped: bool, tmp_path: Path) -> None:
    network = random_network()
    path = tmp_path / "how.pth"
    torch.save(make(network), path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(path)
    assert loaded.form == form
    assert loaded.config == network.config
    expected = (1500, 768) if form == "how" else (1000, 1024)
    assert (loaded.extraction.top_k, loaded.image_size) == expected
    assert loaded.extraction.scales == Extraction().scales
    assert loaded.extraction.dim == 16
    again = loaded.network(network.extraction)
    assert not again.training
    assert same_outputs(network, again)


COMBINATIONS = [
    {"smoothing": smoothing, "refinement": refinement, "dim": dim, "architecture": architecture}
    for architecture, smoothing, refinement, dim in [
        (Architecture.RESNET18, Smoothing(), None, 16),
        (Architecture.RESNET18, Smoothing(kind="average", kernel_size=5), None, None),
        (Architecture.RESNET18, Smoothing(kind="none"), Refinement(edges=Edges.TOPK, neighbours=9), 16),
        (Architecture.RESNET18, Smoothing(kind="gaussian", kernel_size=3), None, 16),
        (Architecture.RESNET18, Smoothing(kind="gaussian", kernel_size=5), Refinement(edges=Edges.SOFTMAX), 16),
        (Architecture.RESNET18, Smoothing(), Refinement(edges=Edges.ATTENTION, dim=24), 16),
        (Architecture.RESNET18, Smoothing(kind="gaussian", kernel_size=7), Refinement(blocks=3), 256),
        (Architecture.RESNET50, Smoothing(kind="gaussian", kernel_size=3), Refinement(blocks=1), 16),
    ]
]


@pytest.mark.parametrize("options", COMBINATIONS)
def test_ctx_round_trip(options: dict[str, Any], tmp_path: Path) -> None:
    plain = options["refinement"] is None and options["smoothing"].kind != "gaussian"
    network = random_network(family="how" if plain else "ctx", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), **options)
    path = tmp_path / "ctx.pth"
    save_checkpoint(network, path, image_size=640)
    loaded = load_checkpoint(path)
    assert (loaded.form, loaded.config, loaded.extraction) == ("ctx", network.config, network.extraction)
    assert loaded.image_size == 640
    assert same_outputs(network, loaded.network())


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_share_of_positions_stays_with_a_checkpoint(share: float, tmp_path: Path) -> None:
    network = random_network(family="how", **COMBINATIONS[0])
    network.extraction = replace(network.extraction, top_share=share)
    save_checkpoint(network, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth").extraction.top_share == share


def test_how_without_smoothing_or_whitening(tmp_path: Path) -> None:
    network = random_network(smoothing=Smoothing(kind="none"), dim=None)
    content = how_current(network)
    content["net_params"].update(dim_reduction=None, smoothing=None)
    torch.save(content, tmp_path / "bare.pth")
    loaded = load_checkpoint(tmp_path / "bare.pth")
    assert loaded.config == network.config
    assert same_outputs(network, loaded.network(network.extraction))


def test_tensors_without_step_counts_load(tmp_path: Path) -> None:
    network = random_network()
    content = how_2020(network)
    for name in [name for name in content["state_dict"] if name.endswith("num_batches_tracked")]:
        del content["state_dict"][name]
    torch.save(content, tmp_path / "old.pth")
    assert same_outputs(network, load_checkpoint(tmp_path / "old.pth").network(network.extraction))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    content = how_2020(random_network())
    content["state_dict"] = {n: t.to(dtype) if t.is_floating_point() else t for n, t in content["state_dict"].items()}
    torch.save(content, tmp_path / "other.pth")
    loaded = load_checkpoint(tmp_path / "other.pth")
    assert {t.dtype for t in loaded.network().state_dict().values()} == {torch.float32, torch.int64}
    assert len(loaded.weights_sha256()) == 64


def test_weights_sha256_is_that_of_the_weights_alone(tmp_path: Path) -> None:
    network = random_network()
    forms = {"current": how_current(network), "2020": how_2020(network)}
    hashes = {}
    for name, content in forms.items():
        for zipped in (True, False):
            path = tmp_path / f"{name}-{zipped}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            hashes[path.name] = load_checkpoint(path).weights_sha256()
    save_checkpoint(network, tmp_path / "ctx.pth")
    hashes["ctx"] = load_checkpoint(tmp_path / "ctx.pth").weights_sha256()
    assert len(set(hashes.values())) == 1, hashes
    for changed in ("features.4.0.bn1.running_var", "dim_reduction.bias"):
        content = how_current(network)
        content["state_dict"][changed][0] += 1e-3
        torch.save(content, tmp_path / "changed.pth")
        assert load_checkpoint(tmp_path / "changed.pth").weights_sha256() not in hashes.values()


def test_another_whitening_needs_another_dim(tmp_path: Path) -> None:
    content = how_current(random_network())
    content["net_params"]["dim_reduction"]["dim"] = 32
    torch.save(content, tmp_path / "dim.pth")
    with pytest.raises(CheckpointError, match=r"dim_reduction.weight \(16, 256, 1, 1\) instead of \(32, 256, 1, 1\)"):
        load_checkpoint(tmp_path / "dim.pth").network()
