"""Checkpoints in the forms of cirtorch, SOLAR and dirtorch: values of the authors' forward, choices, refusals."""

import math
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctxdeploy.cli.info import _gist
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.export import ExportConfig, export_bundle, load_checkpoint
from ctxdeploy.export.forms import Whitening
from ctxdeploy.export.networks import Architecture
from ctxdeploy.export.networks.resnet import ResNetTrunk
from ctxdeploy.export.networks.vgg import VggTrunk
from ctxdeploy.export.parity import ParityPhotos
from ctxdeploy.runtime.backends import BackendConfig, open_backend

WITHIN = (1.0, math.sqrt(2), 1 / math.sqrt(2))
MEAN, STD = [0.48, 0.45, 0.4], [0.23, 0.22, 0.21]
CIRTORCH = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
SOLAR = {"conv1": "conv1.0", "bn1": "conv1.1", "layer1": "conv2_x.2"} | {
    f"layer{n}": f"conv{n + 1}_x" for n in (2, 3, 4)
}
PHOTO: NDArray[np.uint8] = np.ascontiguousarray(sample_photo("coffee")[100:200, 200:340])


def features(child: str) -> str:
    return f"features.{CIRTORCH[child]}"


def solar(child: str) -> str:
    return f"features.{SOLAR[child]}"


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], Any]) -> Any:
    return load_reference("networks_global")


@pytest.fixture(scope="module")
def trunk() -> dict[str, torch.Tensor]:
    """Return a ResNet-18 of half the width with random weights by torchvision's names; activations stay moderate."""
    torch.manual_seed(0)
    module = ResNetTrunk(Architecture.RESNET18_HALF, 0)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
            torch.nn.init.uniform_(layer.bias, -0.1, 0.2)
    return {name: t for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def named(trunk: Mapping[str, torch.Tensor], name: Callable[[str], str]) -> dict[str, torch.Tensor]:
    return {f"{name(n.partition('.')[0])}.{n.partition('.')[2]}": tensor for n, tensor in trunk.items()}


def linear(rows: int, columns: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(rows, columns, generator=generator) / columns**0.5,
        "bias": 0.02 * torch.randn(rows, generator=generator),
    }


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def getter(state: Mapping[str, torch.Tensor]) -> Callable[[str], Any]:
    return lambda name: state[name].double() if name in state else None


def cirtorch_file(path: Path, state: Mapping[str, torch.Tensor], **meta: Any) -> Path:
    described = {"architecture": "resnet18-half", "pooling": "gem", "mean": MEAN, "std": STD, "outputdim": 256, **meta}
    torch.save({"meta": described, "state_dict": dict(state), "epoch": 3}, path)
    return path


def vector_of(path: Path, whitening: Whitening | None = None) -> tuple[Any, NDArray[np.float32]]:
    loaded = load_checkpoint(path, whitening=whitening)
    with torch.inference_mode():
        (found,) = loaded.network()(torch.from_numpy(PHOTO)[None])
    return loaded, found[0].numpy()


def close(found: NDArray[np.float32], wanted: NDArray[np.float64]) -> None:
    assert abs(float(np.linalg.norm(wanted)) - 1) < 1e-5
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()) + 2e-6)


def apply(layer: Mapping[str, torch.Tensor], x: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = layer["weight"].double().numpy() @ x + layer["bias"].double().numpy()
    return out


POWER = {"pool.p": torch.tensor([2.7])}


@pytest.mark.parametrize(
    "kind", ["gem", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mac", "spoc", "rmac"))]
)
def test_cirtorch_without_a_layer(kind: str, reference: Any, trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = {**named(trunk, features), **(POWER if kind == "gem" else {})}
    loaded, found = vector_of(cirtorch_file(tmp_path / "net.pth", state, pooling=kind))
    scales = (1.0, 1 / math.sqrt(2), 0.5)
    assert (loaded.form, loaded.extraction.global_scales, loaded.image_size) == ("cirtorch", scales, 1024)
    power = float(POWER["pool.p"])
    pool = {
        "gem": lambda x: reference.gem(x, power),
        "mac": reference.mac,
        "spoc": reference.spoc,
        "rmac": reference.rmac,
    }
    vectors = []
    for level in reference.levels(PHOTO, MEAN, STD, scales):
        x = reference.resnet(level, getter(state), features)[0].numpy()
        vectors.append(reference.added(pool[kind](x)))
    close(found, reference.over_scales(vectors, power if kind == "gem" else 1))
    assert any("--whitening FILE" in remark for remark in loaded.remarks)
    assert any("Caffe" in remark for remark in loaded.remarks) == (kind == "rmac")


@pytest.mark.slow
@pytest.mark.parametrize("regional", [False, True])
def test_cirtorch_with_layers(regional: bool, reference: Any, trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    local, whiten, inner = linear(256, 256, 1), linear(256, 256, 2), linear(256, 256, 3)
    state = {**named(trunk, features), **under("lwhiten", local), **under("whiten", whiten)}
    state |= {"pool.rpool.p": POWER["pool.p"], **under("pool.whiten", inner)} if regional else POWER
    meta = {"local_whitening": True, "regional": regional, "whitening": True}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    loaded, found = vector_of(cirtorch_file(tmp_path / "net.pth", wrapped, **meta))
    scales = (1.0, math.sqrt(2), 1 / math.sqrt(2))
    assert loaded.extraction.global_scales == scales
    vectors = []
    for level in reference.levels(PHOTO, MEAN, STD, scales):
        x = reference.resnet(level, getter(state), features)[0].numpy()
        x = (
            np.einsum("oc,chw->ohw", local["weight"].double().numpy(), x)
            + local["bias"].double().numpy()[:, None, None]
        )
        if regional:
            pooled = np.zeros(256)
            for region in reference.regions(*x.shape[1:]):
                vector = reference.added(reference.gem(reference.cut(x, region), float(POWER["pool.p"])))
                pooled = pooled + reference.added(apply(inner, vector))
        else:
            pooled = reference.gem(x, float(POWER["pool.p"]))
        vectors.append(reference.added(apply(whiten, reference.added(pooled))))
    close(found, reference.over_scales(vectors, 1))


def whitenings() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        name: {kind: {"m": rng.normal(size=(256, 1)) / 30, "P": rng.normal(size=(256, 256))} for kind in ("ss", "ms")}
        for name in ("retrieval-SfM-30k", "retrieval-SfM-120k")
    }


@pytest.mark.slow
def test_learned_whitenings(reference: Any, trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state, sets = {**named(trunk, features), **POWER}, whitenings()
    path = cirtorch_file(tmp_path / "net.pth", state, Lw=sets)
    torch.save(sets["retrieval-SfM-30k"]["ss"], tmp_path / "net_whiten.pth")
    _, plain = vector_of(path, Whitening(source="none"))
    usual, file = None, str(tmp_path / "net_whiten.pth")
    for source, name, kind in (
        (usual, "retrieval-SfM-120k", "ms"),
        ("retrieval-SfM-120k/ss", "retrieval-SfM-120k", "ss"),
        ("retrieval-SfM-30k", "retrieval-SfM-30k", "ms"),
        (file, "retrieval-SfM-30k", "ss"),
    ):
        pair = sets[name][kind]
        loaded, found = vector_of(path, Whitening(source=source))
        wanted = pair["P"] @ (plain.astype(np.float64) - pair["m"][:, 0])
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), rtol=0, atol=2e-5)
        assert any(("net_whiten.pth" if source == file else f"{name}/{kind}") in remark for remark in loaded.remarks)
    with pytest.raises(CheckpointError, match=r"--whitening x is neither a file nor .*30k/ss, retrieval-SfM-30k/ms"):
        load_checkpoint(path, whitening=Whitening(source="x"))


def solar_file(path: Path, trunk: Mapping[str, torch.Tensor]) -> tuple[Path, dict[str, torch.Tensor]]:
    state = {**named(trunk, solar), **POWER, **under("whiten", linear(256, 256, 2))}
    for layer, channels, width in ((4, 128, 32), (5, 256, 128)):
        at = f"features.soa{layer}"
        for number, (branch, rows, columns) in enumerate(
            (("f.0", width, channels), ("g.0", width, channels), ("h", width, channels), ("v", channels, width))
        ):
            layers = linear(rows, columns, 10 * layer + number)
            state |= under(f"{at}.{branch}", {**layers, "weight": layers["weight"][:, :, None, None]})
        for branch in ("f.1", "g.1"):
            generator = torch.Generator().manual_seed(layer)
            parts = ("weight", "bias", "running_mean", "running_var")
            state |= {f"{at}.{branch}.{part}": torch.rand(width, generator=generator) + 0.2 for part in parts}
    return cirtorch_file(path, state, whitening=True, soa=True, soa_layers="45"), state


def solar_vector(
    reference: Any, state: Mapping[str, torch.Tensor], photo: NDArray[np.uint8], scales: tuple[float, ...] = WITHIN
) -> NDArray[np.float64]:
    """Return the vector of the authors' forward."""
    get = getter(state)
    whiten = {part: state[f"whiten.{part}"] for part in ("weight", "bias")}
    vectors = []
    for level in reference.levels(photo, MEAN, STD, scales):
        x = reference.resnet(
            level, get, solar, lambda y, n: reference.attention_block(y, get, f"features.soa{n + 1}") if n > 2 else y
        )
        pooled = reference.added(reference.gem(x[0].numpy(), float(POWER["pool.p"])))
        vectors.append(reference.added(apply(whiten, pooled)))
    found: NDArray[np.float64] = reference.over_scales(vectors, 1)
    return found


def test_solar(reference: Any, trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path, state = solar_file(tmp_path / "solar.pth", trunk)
    loaded, found = vector_of(path)
    assert (loaded.form, loaded.extraction.global_scales) == ("solar", WITHIN)
    close(found, solar_vector(reference, state, PHOTO))


@pytest.fixture
def pca(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a PCA that is saved as scikit-learn saves its own; the module is there while it is saved."""
    for name in ("sklearn", "sklearn.decomposition", "sklearn.decomposition._pca"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    kind = type("PCA", (), {"__module__": "sklearn.decomposition._pca"})
    sys.modules["sklearn.decomposition._pca"].PCA = kind  # type: ignore[attr-defined]
    rng = np.random.default_rng(2)
    found = kind()
    found.mean_, found.components_ = rng.normal(size=24) / 30, np.asfortranarray(rng.normal(size=(16, 24)))
    found.explained_variance_, found.whiten = np.linspace(2, 0.1, 16), True
    found.noise_variance_, found.n_components, found.svd_solver = np.float64(0.1), 16, "auto"
    return found


def dirtorch_file(path: Path, state: Mapping[str, torch.Tensor], pcas: Mapping[str, Any], **options: Any) -> Path:
    arguments = {"arch": "resnet18-half_rmac", "out_dim": 24, "pooling": "gem", "gemp": 3, "center_bias": 0, **options}
    content = {"model_options": arguments, "preprocess": {"mean": MEAN, "std": STD, "input_size": 224}}
    torch.save({**content, "state_dict": dict(state), "pca": dict(pcas)}, path)
    return path


@pytest.mark.parametrize("bias", [pytest.param(0, marks=pytest.mark.slow), 0.5])
def test_dirtorch(bias: float, reference: Any, trunk: dict[str, torch.Tensor], pca: Any, tmp_path: Path) -> None:
    fc = linear(24, 256, 4)
    state = {**trunk, "adpool.p": POWER["pool.p"], **under("fc", fc)}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    path = dirtorch_file(tmp_path / "ap.pt", wrapped, {"Landmarks_clean": pca, "Other": pca}, center_bias=bias)
    loaded, _ = vector_of(path)
    assert (loaded.form, loaded.extraction.global_scales) == ("dirtorch", (1.0,))
    assert any("Landmarks_clean" in remark and "0.25" in remark for remark in loaded.remarks)
    assert any("full size" in remark for remark in loaded.remarks)
    (level,) = reference.levels(PHOTO, MEAN, STD, (1,))
    x = reference.resnet(level, getter(state), lambda child: child)[0].numpy() * reference.centre(level.shape, bias)
    vector = reference.floored(apply(fc, reference.gem(x, float(POWER["pool.p"]))))
    plain = vector_of(path, Whitening(source="none"))[1]
    close(plain, vector)
    for power in (0.25, 0.5):
        rows = pca.components_ / (pca.explained_variance_**power)[:, None]
        wanted = reference.floored(rows @ (vector - pca.mean_))
        close(vector_of(path, Whitening(power=power))[1], wanted)
    with pytest.raises(
        CheckpointError, match="--whitening x is not a PCA of the file, which has Landmarks_clean, Other"
    ):
        load_checkpoint(path, whitening=Whitening(source="x"))


@pytest.mark.slow
def test_cirtorch_on_vgg(reference: Any, tmp_path: Path) -> None:
    """Names of ``features`` are those of the list of layers; odd sizes are rounded down at each halving."""
    torch.manual_seed(1)
    layers = VggTrunk()
    state = {**under("features", layers.state_dict()), **POWER}
    loaded, found = vector_of(cirtorch_file(tmp_path / "vgg.pth", state, architecture="vgg16"))
    assert loaded.config.architecture is Architecture.VGG16 and loaded.config.global_dim == 512
    vectors = []
    for level in reference.levels(PHOTO, MEAN, STD, loaded.extraction.global_scales):
        with torch.inference_mode():
            x = layers.double()(level)[0].numpy()  # compared with plain convolutions in test_vgg
        vectors.append(reference.added(reference.gem(x, float(POWER["pool.p"]))))
    close(found, reference.over_scales(vectors, float(POWER["pool.p"])))


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["state_dict"].pop(name)


def meta(**entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["meta"].update(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (meta(architecture="densenet161"), "meta: architecture 'densenet161' is not one of"),
        (meta(pooling="gemmp"), "meta has pooling 'gemmp', which is not one of gem, mac, spoc, rmac"),
        (meta(pooling="rmac", regional=True), "meta has pooling 'rmac' and 'regional'"),
        (meta(whitening=True), "meta has 'whitening', but its state_dict lacks whiten.weight, whiten.bias"),
        (meta(local_whitening=True), "meta has 'local_whitening', but its state_dict lacks lwhiten.weight"),
        (meta(regional=True), "meta has pooling 'gem', but its state_dict lacks pool.rpool.p"),
        (without("pool.p"), "meta has pooling 'gem', but its state_dict lacks pool.p"),
        (without("features.6.0.conv1.weight"), r"missing: features\.6\.0\.conv1\.weight"),
        (meta(mean=[1, 2]), "are not three numbers"),
        (
            meta(Lw={"a": {"ms": {"m": np.ones(3), "P": np.ones((3, 3))}}}),
            r"of \(3, 3\) and 3 numbers, but .* have 256",
        ),
        (meta(Lw={"a": {"ms": {"m": np.ones(3)}}}), "the learned whitening has no 'P', but m"),
        (meta(Lw={"a": {"ms": {"m": np.ones(256), "P": torch.ones(1).expand(10**11)}}}), "100,000,000,000 numbers"),
        (meta(Lw={"a": {"ms": {"m": np.ones(256), "P": "x"}}}), "'P' of the learned whitening is not an array"),
    ],
)
def test_refusals_of_cirtorch(
    change: Callable[..., Any], message: str, trunk: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = cirtorch_file(tmp_path / "net.pth", {**named(trunk, features), **POWER})
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "resnet101_fpn_rmac"}, "arch 'resnet101_fpn_rmac': networks with a feature pyramid are not known"),
        ({"arch": "resnet18"}, "arch 'resnet18', but only resnet…_rmac is known"),
        ({"pooling": "attention"}, "pooling 'attention', which is not one of gem, max, avg"),
        ({"center_bias": "x", "without_fc": True}, "center_bias 'x', which is not a number"),
        ({}, "model_options has no 'without_fc', but its state_dict lacks fc.weight, fc.bias"),
        ({"without_fc": True, "pooling": "max"}, "unexpected: adpool.p"),
    ],
)
def test_refusals_of_dirtorch(
    options: dict[str, Any], message: str, trunk: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = dirtorch_file(tmp_path / "ap.pt", {**trunk, "adpool.p": POWER["pool.p"]}, {}, **options)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_other_objects_of_scikit_learn_are_refused(pca: Any, trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    type(pca).__qualname__ = type(pca).__name__ = "IncrementalPCA"
    sys.modules["sklearn.decomposition._pca"].IncrementalPCA = type(pca)  # type: ignore[attr-defined]
    path = dirtorch_file(tmp_path / "ap.pt", trunk, {"Landmarks_clean": pca})
    with pytest.raises(CheckpointError, match=r"more than tensors .*sklearn\.decomposition\._pca\.IncrementalPCA"):
        load_checkpoint(path)


def test_a_choice_that_a_file_does_not_have(trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(dict(trunk), tmp_path / "bare.pth")
    with pytest.raises(ConfigError, match="--whitening and --whitening-power are for checkpoints of cirtorch, SOLAR"):
        load_checkpoint(tmp_path / "bare.pth", architecture="resnet18-half", whitening=Whitening(source="none"))
    with pytest.raises(ConfigError, match="--whitening-power 2: give 0"):
        Whitening(power=2)


def exported(checkpoint: Path, folder: Path, config: ExportConfig | None = None, said: tuple[str, ...] = ()) -> Any:
    """Return what runs the bundle of a checkpoint: a photo to its vector."""
    parity = {"coffee": PHOTO, "rocket": np.ascontiguousarray(sample_photo("rocket")[50:130, 300:401])}
    photos = ParityPhotos(parity=parity, retrieval={})
    bundle = export_bundle(checkpoint, folder, config, retrieval=None, photos=photos).check()
    assert bundle.artefact().parity["verdict"] == "passed"
    assert bundle.source.get("remarks", "") == "; ".join(load_checkpoint(checkpoint).remarks)
    assert all(word in "\n".join(_gist({**bundle.metadata(), "kind": "bundle", "path": "b"}, None)) for word in said)
    backend = open_backend(bundle, BackendConfig())
    return lambda photo: backend.run(np.ascontiguousarray(photo)[None]).global_vectors[0]


@pytest.mark.slow
def test_solar_from_checkpoint_to_vectors(reference: Any, trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path, state = solar_file(tmp_path / "solar.pth", trunk)
    scales = (1.0, 1 / math.sqrt(2))
    run = exported(path, tmp_path / "bundle", ExportConfig(global_scales=scales))
    for photo in (PHOTO, PHOTO[:65, :97]):
        close(run(photo), solar_vector(reference, state, photo, scales))


@pytest.mark.slow
def test_rmac_from_checkpoint_to_vectors(reference: Any, trunk: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Regions of every size of photo are those of the formula, in one graph."""
    state = {**named(trunk, features), **under("whiten", linear(256, 256, 2))}
    path = cirtorch_file(tmp_path / "net.pth", state, pooling="rmac", whitening=True)
    run = exported(path, tmp_path / "bundle", ExportConfig(global_scales=(1.0,)))
    whiten = {part: state[f"whiten.{part}"] for part in ("weight", "bias")}
    for photo in (PHOTO, PHOTO[:33, :140], PHOTO[:100, :20], PHOTO[:1, :1]):
        (level,) = reference.levels(photo, MEAN, STD, (1.0,))
        x = reference.resnet(level, getter(state), features)[0].numpy()
        wanted = reference.added(apply(whiten, reference.added(reference.rmac(x))))
        close(run(photo), wanted)


@pytest.mark.slow
def test_ap_gem_from_checkpoint_to_vectors(
    reference: Any, trunk: dict[str, torch.Tensor], pca: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fc = linear(24, 256, 4)
    state = {**trunk, "adpool.p": POWER["pool.p"], **under("fc", fc)}
    path = dirtorch_file(tmp_path / "ap.pt", state, {"Landmarks_clean": pca})
    monkeypatch.undo()  # the tracer looks for scikit-learn
    run = exported(path, tmp_path / "bundle", said=("dirtorch; its PCA of Landmarks_clean", "to the power of 0.25"))
    rows = pca.components_ / (pca.explained_variance_**0.25)[:, None]
    for photo in (PHOTO, PHOTO[:65, :97]):
        (level,) = reference.levels(photo, MEAN, STD, (1.0,))
        x = reference.resnet(level, getter(state), lambda child: child)[0].numpy()
        vector = reference.floored(apply(fc, reference.gem(x, float(POWER["pool.p"]))))
        close(run(photo), reference.floored(rows @ (vector - pca.mean_)))
