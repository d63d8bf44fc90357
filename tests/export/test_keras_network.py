"""DELF and DELG with the layers of the authors' Keras code: TensorFlow's own numbers, and plain formulas in float64.

``fixtures/keras_delg.npz`` was made by TensorFlow 2.21 with Keras 2 (tf_keras 2.21) of networks with the attributes of
that code, and random weights by the rule of ``weights_of``: the graph of objects of the SavedModel, and under which
name it stored each variable; block3, block4 and encoded features (16 channels), attention and the global descriptor
before its normalisation, of photos of three sizes at strides 2 and 1 of the third block.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.export.checkpoint import Checkpoint, load_checkpoint
from ctxdeploy.export.crc32c import crc32c
from ctxdeploy.export.export import ExportConfig, export_bundle
from ctxdeploy.export.object_graph import GRAPH, ObjectGraph
from ctxdeploy.export.parity.parity_run import ParityPhotos
from ctxdeploy.export.saved_model import graph_facts
from ctxdeploy.export.tensor_bundle import TensorBundle

SIZES, UNITS = ((65, 97), (64, 96), (70, 101)), (3, 4, 6, 3)
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(Path(__file__).parent / "fixtures" / "keras_delg.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def writer(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    return load_reference("tensor_bundle")


def weights_of(golden: dict[str, Any]) -> tuple[Arrays, list[NDArray[np.uint8]]]:
    """Return the variables by their path of attributes, and the photos."""
    random, found = np.random.RandomState(0), Arrays()
    for path, shape in zip(golden["paths"].tolist(), golden["shapes"].tolist(), strict=True):
        sides, kind = tuple(map(int, shape.decode().split("x"))), path.decode().rpartition("/")[2]
        if kind == "moving_variance":
            value = random.rand(*sides) + 0.5
        elif kind == "gamma":
            value = random.rand(*sides) * 0.6 + 0.2
        elif kind == "kernel":
            value = random.randn(*sides) * np.sqrt(2 / np.prod(sides[:-1]))
        else:
            value = random.randn(*sides) * 0.1
        found[path.decode()] = value.astype(np.float32)
    return found, [random.randint(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def weights(golden: dict[str, Any]) -> Arrays:
    return weights_of(golden)[0]


@pytest.fixture(scope="module")
def saved_model(
    writer: ModuleType, golden: dict[str, Any], weights: Arrays, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A SavedModel's variables as TensorFlow named them, such as ``_model/attention/variables/3``."""
    folder = tmp_path_factory.mktemp("keras") / "r50delg_gld_20200814"
    stored: dict[str, Any] = {
        key.decode(): weights[path.decode()]
        for path, key in zip(golden["paths"].tolist(), golden["keys"].tolist(), strict=True)
    }
    writer.write(folder / "variables" / "variables", {**stored, GRAPH: golden["object_graph"].tobytes()}, crc32c=crc32c)
    return folder


@pytest.fixture(scope="module")
def delg(saved_model: Path) -> Checkpoint:
    return load_checkpoint(saved_model, threshold=0)


def graph(writer: ModuleType, *, leaves_out: bool) -> bytes:
    """Return a ``saved_model.pb`` with poolings of 3×3 and, if asked, of 1×1, and a resize."""

    def numbers(name: str, *values: int) -> bytes:
        packed = writer.field(1, writer.field(3, bytes(values)))
        return bytes(writer.field(5, writer.field(1, name.encode()) + writer.field(2, packed)))

    nodes = b""
    for side in (3, 1) if leaves_out else (3,):
        attributes = numbers("ksize", 1, side, side, 1) + numbers("strides", 1, 2, 2, 1)
        name = f"pool{side}".encode()
        nodes += writer.field(3, writer.field(1, name) + writer.field(2, b"MaxPool") + attributes)
    half = writer.field(5, writer.field(1, b"half_pixel_centers") + writer.field(2, writer.field(5, 1)))
    resize = writer.field(1, writer.field(1, b"resize") + writer.field(2, b"ResizeBilinear") + half)
    definition = resize + writer.field(2, writer.field(1, nodes))
    return bytes(writer.field(1, 1) + writer.field(2, writer.field(2, definition)))


class Keras:
    """The formulas of the authors' code in float64, from the variables by their paths."""

    def __init__(self, tensors: Arrays, stride: int) -> None:
        self.tensors = {name: torch.from_numpy(value.astype(np.float64)) for name, value in tensors.items()}
        self.stride = stride

    def conv(self, x: Tensor, path: str, stride: int = 1) -> Tensor:
        kernel = self.tensors[f"{path}/kernel"].permute(3, 2, 0, 1)
        sides = []
        for size in x.shape[2:]:
            total = max((-(-size // stride) - 1) * stride + kernel.shape[2] - size, 0)
            sides.append((total // 2, total - total // 2))
        x = functional.pad(x, (*sides[1], *sides[0]))
        return functional.conv2d(x, kernel, self.tensors[f"{path}/bias"], stride)

    def normed(self, x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        gamma, beta, mean, variance = (
            self.tensors[f"{norm}/{kind}"][:, None, None]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (self.conv(x, conv, stride) - mean) / torch.sqrt(variance + 1e-3) * gamma + beta

    def maps(self, image: NDArray[np.uint8]) -> list[Tensor]:
        x = (torch.from_numpy(image).double().permute(2, 0, 1)[None] - 128) / 128
        x = torch.relu(self.normed(x, "backbone/conv1", "backbone/bn_conv1", 2))
        x = x.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(4, 5))
        found = []
        for block, units in enumerate(UNITS):
            for unit in range(units):
                place = f"backbone/l{block + 2}{'abcdef'[unit]}"
                step = 2 if unit == 0 and (block in (1, 2) or (block == 3 and self.stride == 1)) else 1
                y = torch.relu(self.normed(x, f"{place}/conv2a", f"{place}/bn2a", step))
                y = torch.relu(self.normed(y, f"{place}/conv2b", f"{place}/bn2b"))
                y = self.normed(y, f"{place}/conv2c", f"{place}/bn2c")
                if unit == 0:
                    x = self.normed(x, f"{place}/conv_shortcut", f"{place}/bn_shortcut", step)
                x = torch.relu(x + y)
            if block == 2 and self.stride == 2:
                x = x[:, :, ::2, ::2]
            found.append(x)
        return found

    def attention(self, x: Tensor) -> Tensor:
        x = torch.relu(self.normed(x, "attention/conv1", "attention/bn_conv1"))
        return torch.log1p(torch.exp(self.conv(x, "attention/conv2")))[:, 0]


def relative(found: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(wanted)).max() / np.abs(np.asarray(wanted)).max())


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [2, 1])
def test_numbers_are_tensorflows_and_those_of_the_formulas(
    golden: dict[str, Any], weights: Arrays, delg: Checkpoint, stride: int
) -> None:
    assert delg.config.delf is not None
    delf = replace(delg.config.delf, strides=(2, 1) if stride == 2 else (1, 2))
    extraction = replace(delg.extraction, scales=(1.0,), top_k=60, global_scales=(1.0,))
    network = replace(delg, config=replace(delg.config, delf=delf)).network(extraction)
    keras = Keras(weights, stride)
    for size, image in zip(SIZES, weights_of(golden)[1], strict=True):
        end = f"{size[0]}_{size[1]}_{stride}"
        if f"block3_{end}" not in golden:
            continue
        with torch.no_grad():
            x = network.normalise(torch.from_numpy(image)[None])
            shared = network.shared_map(x)  # type: ignore[operator]
            encoded, strengths, _ = network.local_features(shared, *size)  # type: ignore[operator]
            last = network.global_map(shared)  # type: ignore[operator]
            whole = network(torch.from_numpy(image)[None])[4][0]
        for found, name in ((shared, "block3"), (last, "block4"), (encoded, "features")):
            assert relative(found[0, :16].permute(1, 2, 0), golden[f"{name}_{end}"][0]) < 3e-6, (name, end)
        assert relative(strengths, golden[f"att_{end}"][..., 0]) < 3e-6
        assert relative(whole, unit(golden[f"global_{end}"][0])) < 3e-6
        if size != SIZES[-1]:
            continue
        maps = keras.maps(image)
        assert relative(shared, maps[2]) < 3e-6 and relative(last, maps[3]) < 3e-6
        code = keras.conv(maps[2], "autoencoder/conv1")
        assert relative(encoded, code) < 3e-6
        wanted = keras.attention(torch.relu(keras.conv(code, "autoencoder/conv2")))
        assert relative(strengths, wanted) < 3e-6
        pooled = maps[3].clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)
        linear = pooled @ keras.tensors["backbone/embedding_layer/kernel"]
        linear = linear + keras.tensors["backbone/embedding_layer/bias"]
        assert relative(whole, unit(linear[0].numpy())) < 3e-6


@pytest.mark.slow
def test_what_is_said_and_taken_from_the_graph(
    writer: ModuleType, delg: Checkpoint, saved_model: Path, weights: Arrays, tmp_path: Path
) -> None:
    assert (delg.form, delg.config.family, delg.config.dim, delg.extraction.global_dim) == ("delg", "delg", 128, 96)
    assert delg.config.delf is not None and (delg.config.delf.trunk, delg.config.stride) == ("keras", 32)
    said = " ".join(delg.remarks)
    assert "DELG on the ResNet-50 of the authors' Keras code, found by the graph of objects" in said
    assert "no graph lies beside it" in said
    for leaves_out, strides in ((False, (1, 2)), (True, (2, 1))):
        (saved_model / "saved_model.pb").write_bytes(graph(writer, leaves_out=leaves_out))
        assert graph_facts(saved_model / "saved_model.pb").leaves_out == leaves_out
        found = load_checkpoint(saved_model)
        assert found.config.delf is not None and found.config.delf.strides == strides
        assert found.config.delf.threshold == 175
        assert f"the graph's stride of the third block is {strides[0]}" in " ".join(found.remarks)
    (saved_model / "saved_model.pb").unlink()
    named = {f"model/{path}": value for path, value in weights.items()}
    writer.write(tmp_path / "ckpt", named, crc32c=crc32c, suffix=SUFFIX)
    other = load_checkpoint(tmp_path / "ckpt", threshold=0)
    assert other.weights_sha256() == delg.weights_sha256() and "by the names of the tensors" in other.remarks[0]


@pytest.mark.slow
def test_networks_that_are_not_known_are_refused_by_name(writer: ModuleType, weights: Arrays, tmp_path: Path) -> None:
    def refused(tensors: Arrays, match: str) -> None:
        writer.write(tmp_path / "model", tensors, crc32c=crc32c, suffix=SUFFIX)
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(tmp_path / "model")

    keys = ("backbone/l2a/conv2a/kernel", "backbone/embedding_layer/kernel", "autoencoder/conv1/kernel")
    few = {name: weights[name] for name in keys}
    without = {name: value for name, value in weights.items() if not name.startswith("autoencoder")}
    refused(
        {key: few[key] for key in keys[:2]},
        "DELG without an autoencoder, whose local descriptors have 1024 dimensions, is not known here",
    )
    linear = "backbone/embedding_layer"
    refused({name: value for name, value in weights.items() if not name.startswith(linear)}, "DELF with an autoencoder")
    refused({**weights, "backbone/l4g/conv2a/kernel": np.zeros((1, 1, 1024, 256), np.float32)}, "more units")
    name = "backbone/l3b/bn2b/gamma"
    refused({key: value for key, value in weights.items() if key != name}, f"missing: {name}")
    refused({**weights, name: np.zeros(5, np.float32)}, r"of another shape: .*l3b/bn2b/gamma \[5\] instead of \[128\]")
    refused({**few, **{f"copy/{key}": value for key, value in few.items()}}, "holds 2 networks")
    alone = {key: value for key, value in without.items() if not key.startswith(linear)}
    writer.write(tmp_path / "model", alone, crc32c=crc32c, suffix=SUFFIX)
    assert load_checkpoint(tmp_path / "model").config.family == "delf"


@pytest.mark.slow
@pytest.mark.long
def test_a_bundle_of_it_passes(saved_model: Path, samples: Any, tmp_path: Path) -> None:
    config = ExportConfig(scales=(0.7071,), global_scales=(0.7071,), top_k=40, image_size=128, threshold=0, max_batch=2)
    photos = ParityPhotos(parity={"coffee": samples["coffee"][:90, :121]}, retrieval={})
    bundle = export_bundle(saved_model, tmp_path / "bundle", config, retrieval=None, photos=photos).check()
    assert bundle.extraction.gives == ("local", "global") and bundle.network["delf"]["trunk"] == "keras"
    parity = bundle.artefact().parity
    assert parity["verdict"] == "passed" and parity["cosine_min"] > 0.9999


def test_a_damaged_graph_of_objects_is_refused(writer: ModuleType, golden: dict[str, Any], tmp_path: Path) -> None:
    """100 mutated graphs give an error of ours or another graph, and never end otherwise."""
    whole = golden["object_graph"].tobytes()
    random = np.random.default_rng(1)
    few = {"a": np.zeros(1, np.float32)}
    for number in range(100):
        content = bytearray(whole[: random.integers(1, len(whole) + 1)] if number % 3 else whole)
        for _ in range(random.integers(1, 4)):
            content[random.integers(len(content))] = random.integers(256)
        writer.write(tmp_path / "model", {**few, GRAPH: bytes(content)}, crc32c=crc32c)
        bundle = TensorBundle.open(tmp_path / "model")
        try:
            found = ObjectGraph.of(bundle)
        except CheckpointError as error:
            assert "graph of objects is damaged" in str(error)
        else:
            assert found is not None
            for start in found.having(("backbone",)):
                found.tensor(start, "backbone/l2a/conv2a/kernel")
    data = tmp_path / "model.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[len(raw) // 2] ^= 1
    data.write_bytes(raw)
    with pytest.raises(CheckpointError, match="is not what was written"):
        ObjectGraph.of(TensorBundle.open(tmp_path / "model"))
