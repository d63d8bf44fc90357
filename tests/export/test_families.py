"""Families: one table, and every family on every trunk."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.export import export_bundle, load_checkpoint, save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, Delf, Lit, NetworkConfig, Pooling, Refinement, Smoothing, build
from ctxdeploy.export.networks.families import FAMILIES, family
from ctxdeploy.export.parity import ParityPhotos

NONE = Smoothing(kind="none")
SMALL_LIT = Lit(steps=2, templates=6, dim=32)
PARTS = {
    "how": {},
    "ctx": {"smoothing": Smoothing(kind="gaussian"), "refinement": Refinement(blocks=1)},
    "fire": {"smoothing": Smoothing(kind="none"), "lit": SMALL_LIT},
}


def fire(**options: Any) -> NetworkConfig:
    settings = {"architecture": Architecture.RESNET18, "skip_layer": 1, "dim": 16, **PARTS["fire"], **options}
    return NetworkConfig(family="fire", **settings)


DEEP = [
    pytest.param(a, marks=pytest.mark.slow)
    for a in (Architecture.RESNET34, Architecture.RESNET50, Architecture.RESNET101)
]


@pytest.mark.parametrize("skip_layer", [0, 1])
@pytest.mark.parametrize("architecture", [Architecture.RESNET18, *DEEP], ids=lambda a: a.label)
@pytest.mark.parametrize("label", list(PARTS))
def test_every_family_on_every_trunk(label: str, architecture: Architecture, skip_layer: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(family=label, architecture=architecture, skip_layer=skip_layer, dim=16, **PARTS[label])
    extraction = Extraction(scales=(1.0, 0.5), top_k=30, dim=16)
    network = build(config, extraction)
    assert network.config.channels == (2048 if architecture.bottleneck else 512) // (2 if skip_layer else 1)
    save_checkpoint(network, tmp_path / "network.pth")
    loaded = load_checkpoint(tmp_path / "network.pth")
    assert (loaded.config, loaded.extraction) == (config, extraction)
    image = torch.randint(0, 256, (1, 50, 70, 3), dtype=torch.uint8)
    with torch.inference_mode():
        found = network(image)
        again = loaded.network()(image)
    assert [tuple(a.shape) for a in found] == [(1, 30, 16), (1, 30), (1, 30, 2), (1, 30)]
    cells = sum(-(-h // config.stride) * -(-w // config.stride) for h, w in ((50, 70), (25, 35)))
    assert int((found[1] > 0).sum()) == min(30, 2 * SMALL_LIT.templates if config.lit else cells)
    assert all(torch.isfinite(a).all() for a in found)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("name", ["solar", "delf", "delg", "delg-keras"])
def test_parts_besides_the_trunk_are_one_network_with_it(name: str, tmp_path: Path) -> None:
    """The tensors of an attention have a trunk's names in them: they are no second network of a file."""
    beside = Pooling(fixed_p=3.0, dim=16, norm_pooled=False, norm="floored", beside_local=True)
    if name == "solar":
        pooling = Pooling(dim=16, second_order=(3, 4))
        config = NetworkConfig(
            family="gem", architecture=Architecture.RESNET18_HALF, dim=None, smoothing=NONE, pooling=pooling
        )
    else:
        delf = Delf(strides=(2,) if name == "delf" else (2, 1), trunk="keras" if "keras" in name else "slim")
        config = NetworkConfig(
            family=name.removesuffix("-keras"),
            architecture=Architecture.RESNET50,
            skip_layer=1,
            dim=16,
            smoothing=NONE,
            delf=delf,
            pooling=None if name == "delf" else beside,
        )
    settings = config.fitted(Extraction(scales=(1.0,), top_k=9, global_dim=1, global_scales=(1.0,)))
    save_checkpoint(build(config, settings), tmp_path / "network.pth", image_size=160)
    found = load_checkpoint(tmp_path / "network.pth")
    assert found.config == config and found.extraction.global_scales == settings.global_scales
    assert len(found.network().state_dict()) == len(build(config, settings).state_dict())


def test_an_untrained_network_on_resnet34_is_exported(samples: Mapping[str, NDArray[np.uint8]], tmp_path: Path) -> None:
    config = NetworkConfig(family="how", architecture=Architecture.RESNET34, skip_layer=1, dim=32)
    network = untrained_network(config, Extraction(scales=(1.0, 0.5), top_k=60, dim=32), list(samples.values()))
    save_checkpoint(network, tmp_path / "network.pth", image_size=160)
    photos = ParityPhotos(
        parity={"coffee": samples["coffee"][:96, :140], "rocket": samples["rocket"][:90, :81]}, retrieval={}
    )
    exported = export_bundle(tmp_path / "network.pth", tmp_path / "bundle", retrieval=None, photos=photos)
    bundle = exported.check()
    assert bundle.network["architecture"] == "resnet34"
    assert bundle.artefact().parity["verdict"] == "passed"


def test_the_table_names_each_family() -> None:
    assert set(FAMILIES) >= {*PARTS, "gem"}
    assert all(known.label == label and known.description for label, known in FAMILIES.items())
    with pytest.raises(ConfigError, match="network family 'unheard-of' is not one of fire, delf, delg, gem, how, ctx"):
        family("unheard-of")


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("how", {"smoothing": Smoothing(kind="gaussian")}),
        ("how", {"refinement": Refinement()}),
        ("how", PARTS["fire"]),
        ("ctx", PARTS["fire"]),
        ("fire", {}),
        ("fire", {"smoothing": Smoothing(kind="none")}),
    ],
)
def test_parts_of_another_family_are_refused(label: str, parts: dict[str, Any]) -> None:
    config = NetworkConfig(family=label, architecture=Architecture.RESNET18, dim=16, **parts)
    with pytest.raises(ConfigError, match=f"a network of the family {label} cannot have all the parts of"):
        build(config, Extraction(dim=16))


@pytest.mark.parametrize("parts", [{"smoothing": Smoothing()}, {"refinement": Refinement()}])
def test_super_features_are_neither_smoothed_nor_refined(parts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="take neither smoothing nor refinement: give smoothing 'none'"):
        fire(**parts)


@pytest.mark.parametrize("label", list(PARTS))
def test_metadata_round_trip(label: str) -> None:
    config = NetworkConfig(family=label, architecture=Architecture.RESNET50, dim=16, **PARTS[label])
    assert NetworkConfig.parse(config.metadata()) == config
    assert ("lit" in config.metadata()) == (label == "fire")


def test_metadata_of_networks_without_lit_stays_what_it_was() -> None:
    config = NetworkConfig(family="how", architecture=Architecture.RESNET18)
    assert list(config.metadata()) == [
        "family",
        "architecture",
        "skip_layer",
        "dim",
        "smoothing",
        "refinement",
        "mean",
        "std",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T": 0, "N": 6, "dim": 32}, r"lit with 0 steps \(T\): use 1 to 64"),
        ({"T": 2, "N": 100_000, "dim": 32}, r"lit with 100000 templates \(N\): use 1 to 4096"),
        ({"T": 2, "N": 6, "dim": 8192}, "lit with 8192 dimensions: use 1 to 4096"),
        ({"T": 2, "N": 6, "dim": 31}, "lit with 31 dimensions: use an even number"),
        ({"T": 2.0, "N": 6, "dim": 32}, r"lit: the number of steps \(T\) 2.0 is not a whole number"),
        ({"T": 2, "N": 6, "dim": 32, "heads": 4}, "'lit' has unknown options: heads"),
        ({"T": 2, "N": 6}, "net_params lacks 'dim'"),
        ({"T": 2, "N": 6, "dim": 64}, r"lit.templates_init \(1, 6, 32\) instead of \(1, 6, 64\)"),
        ({"T": 2, "N": 7, "dim": 32}, r"lit.templates_init \(1, 6, 32\) instead of \(1, 7, 32\)"),
    ],
)
def test_impossible_lit_is_refused(options: dict[str, Any], message: str, changed: Callable[..., Path]) -> None:
    path = changed(lambda content: content["net_params"].update(lit=options))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path).network()


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Return a function that saves a FIRe checkpoint after a change to its content."""

    def change(edit: Callable[[dict[str, Any]], Any]) -> Path:
        torch.manual_seed(0)
        path = tmp_path / "fire.pth"
        save_checkpoint(build(fire(), Extraction(scales=(1.0,), top_k=9, dim=16)), path)
        content = torch.load(path, weights_only=True)
        edit(content)
        torch.save(content, path)
        return path

    return change


def test_fire_form_and_its_classifier(changed: Callable[..., Path]) -> None:
    plain = load_checkpoint(changed(lambda content: None))
    assert plain.form == "fire"

    def as_published(content: dict[str, Any]) -> None:
        assert set(content["net_params"]["lit"]) == {"T", "N", "dim"}
        assert "smoothing" not in content["net_params"]
        del content["_version"]
        content["state_dict"].update({"fc.weight": torch.ones(1000, 8), "fc.bias": torch.ones(1000)})

    loaded = load_checkpoint(changed(as_published))
    assert (loaded.form, loaded.config) == ("fire", plain.config)
    assert loaded.weights_sha256() == plain.weights_sha256(), "the classifier is no part of the network"
    loaded.network()


def test_names_in_a_fire_checkpoint(changed: Callable[..., Path]) -> None:
    names = set(load_checkpoint(changed(lambda content: None)).state)
    norms = {f"lit.norm_{part}.{what}" for part in ("inputs", "templates", "mlp") for what in ("weight", "bias")}
    mlp = {f"lit.mlp.{layer}.{what}" for layer in (0, 2) for what in ("weight", "bias")}
    projections = {f"lit.project_{part}.weight" for part in "qkv"}
    assert {name for name in names if name.startswith("lit.")} == norms | mlp | projections | {"lit.templates_init"}


def test_an_unknown_tensor_is_named(changed: Callable[..., Path]) -> None:
    path = changed(lambda content: content["state_dict"].update({"lit.project_z.weight": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"fire network resnet18 .* unexpected: lit.project_z.weight$"):
        load_checkpoint(path).network()
