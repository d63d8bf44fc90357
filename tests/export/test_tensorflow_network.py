"""DELF and DELG from checkpoints in TensorFlow's form with random weights, against their formulas."""

from collections.abc import Callable, Mapping
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

from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.export.checkpoint import Checkpoint, load_checkpoint
from ctxdeploy.export.crc32c import crc32c
from ctxdeploy.export.export import ExportConfig, export_bundle
from ctxdeploy.export.networks.delf_network import resize_from_corners, round_scaled
from ctxdeploy.export.parity.parity_run import ParityPhotos
from ctxdeploy.export.saved_model import graph_facts

UNITS = {"resnet_v1_50": (3, 4, 6, 3), "resnet_v1_101": (3, 4, 23, 3)}
ATTENTION = "attention_block/attention/compute/"
Arrays = dict[str, NDArray[np.float32]]


def convolution(random: np.random.Generator, name: str, size: int, given: int, made: int) -> Arrays:
    weights = random.standard_normal((size, size, given, made)) * np.sqrt(2 / (size * size * given))
    return {f"{name}/weights": weights.astype(np.float32)}


def normed(random: np.random.Generator, name: str, size: int, given: int, made: int) -> Arrays:
    """Return a convolution with batch normalisation, slim's way."""
    norms = {
        "gamma": random.random(made) * 0.6 + 0.2,
        "beta": random.standard_normal(made) * 0.1,
        "moving_mean": random.standard_normal(made) * 0.1,
        "moving_variance": random.random(made) + 0.5,
    }
    found = convolution(random, name, size, given, made)
    return {**found, **{f"{name}/BatchNorm/{kind}": value.astype(np.float32) for kind, value in norms.items()}}


def delf_tensors(blocks: int, root: str = "resnet_v1_50") -> Arrays:
    """Return the tensors of a ResNet of some blocks and of DELF's attention, with random weights."""
    random = np.random.default_rng(blocks)
    found = normed(random, f"{root}/conv1", 7, 3, 64)
    channels = 64
    for block in range(blocks):
        width = 64 << block
        for unit in range(UNITS[root][block]):
            place = f"{root}/block{block + 1}/unit_{unit + 1}/bottleneck_v1"
            if unit == 0:
                found |= normed(random, f"{place}/shortcut", 1, channels, 4 * width)
            found |= normed(random, f"{place}/conv1", 1, channels, width)
            found |= normed(random, f"{place}/conv2", 3, width, width)
            found |= normed(random, f"{place}/conv3", 1, width, 4 * width)
            channels = 4 * width
    found |= normed(random, f"{ATTENTION}conv1", 1, 1024, 512)
    found |= convolution(random, f"{ATTENTION}conv2", 1, 512, 1)
    found[f"{ATTENTION}conv2/biases"] = np.array([0.3], np.float32)
    found[f"{root}/conv1/weights/Momentum"] = np.zeros((7, 7, 3, 64), np.float32)
    found["global_step"] = np.int64(12)  # type: ignore[assignment]
    return found


def delg_tensors() -> Arrays:
    random = np.random.default_rng(9)
    found = delf_tensors(4)
    for name, given, made in (("encoder", 1024, 128), ("decoder", 128, 1024)):
        found |= convolution(random, f"autoencoder/{name}", 1, given, made)
        found[f"autoencoder/{name}/biases"] = (random.standard_normal(made) * 0.1).astype(np.float32)
    found["whiten/weights"] = (random.standard_normal((2048, 96)) / 45).astype(np.float32)
    found["whiten/biases"] = (random.standard_normal(96) * 0.1).astype(np.float32)
    found["logits/weights"] = np.zeros((2048, 9000), np.float32)
    return found


@pytest.fixture(scope="module")
def writer(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    return load_reference("tensor_bundle")


def datum(writer: ModuleType, array: NDArray[np.float32]) -> bytes:
    shape = writer.field(1, b"".join(map(writer.varint, array.shape)))
    return bytes(writer.field(1, shape) + writer.field(2, writer.field(1, array.tobytes())))


def graph(writer: ModuleType, strides: Mapping[str, int], half_pixel: bool) -> bytes:
    """Return a ``saved_model.pb`` with a convolution of each name in a function, and a resize in the graph."""

    def node(name: str, operator: str, attributes: bytes) -> bytes:
        return bytes(writer.field(1, name.encode()) + writer.field(2, operator.encode()) + attributes)

    def attribute(name: str, value: bytes) -> bytes:
        return bytes(writer.field(5, writer.field(1, name.encode()) + writer.field(2, value)))

    functions = b""
    for name, stride in strides.items():
        packed = writer.field(1, writer.field(3, bytes([1, stride, stride, 1])))
        functions += writer.field(3, node(f"while/{name}/Conv2D", "Conv2D", attribute("strides", packed)))
    half = attribute("half_pixel_centers", writer.field(5, 1)) if half_pixel else b""
    resize = writer.field(1, node("resize", "ResizeBilinear", half))
    definition = resize + writer.field(2, writer.field(1, functions))
    return bytes(writer.field(1, 1) + writer.field(2, writer.field(2, definition)))


def last_units(*strides: int) -> dict[str, int]:
    units = {"block3/unit_5": 1, "block3/unit_6": strides[0]}
    if len(strides) > 1:
        units["block4/unit_3"] = strides[1]
    return {f"resnet_v1_50/{unit}/bottleneck_v1/conv2": stride for unit, stride in units.items()}


@pytest.fixture(scope="module")
def pca() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(4)
    mean = random.standard_normal(1024).astype(np.float32) * 0.01
    return mean, np.linalg.qr(random.standard_normal((1024, 200)))[0].T.astype(np.float32)


@pytest.fixture(scope="module")
def delf_folder(writer: ModuleType, pca: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as the authors publish it: model/ with a graph, pca/."""
    folder = tmp_path_factory.mktemp("tf") / "delf_gld_20190411"
    writer.write(folder / "model" / "variables" / "variables", delf_tensors(3), crc32c=crc32c)
    (folder / "model" / "saved_model.pb").write_bytes(graph(writer, last_units(2), half_pixel=False))
    (folder / "pca").mkdir()
    (folder / "pca" / "mean.datum").write_bytes(datum(writer, pca[0]))
    (folder / "pca" / "pca_proj_mat.datum").write_bytes(datum(writer, pca[1]))
    return folder


@pytest.fixture(scope="module")
def delg_prefix(writer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("tf") / "model.ckpt-100"
    writer.write(prefix, delg_tensors(), crc32c=crc32c, shards=2)
    return prefix


@pytest.fixture(scope="module")
def delf(delf_folder: Path) -> Checkpoint:
    return load_checkpoint(delf_folder, threshold=0.5)


@pytest.fixture(scope="module")
def delg(delg_prefix: Path) -> Checkpoint:
    return load_checkpoint(delg_prefix, threshold=0)


class Slim:
    """The formulas of TF-slim's ResNet and of the attention in float64, from TensorFlow's tensors."""

    def __init__(self, tensors: Arrays, strides: tuple[int, ...], root: str = "resnet_v1_50") -> None:
        self.root = root
        self.tensors = {name: torch.from_numpy(np.asarray(value, np.float64)) for name, value in tensors.items()}
        self.strides = strides

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weights = self.tensors[f"{name}/weights"].permute(3, 2, 0, 1)
        bias = self.tensors.get(f"{name}/biases")
        return functional.conv2d(x, weights, bias, stride, (weights.shape[2] - 1) // 2)

    def normed(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        gamma, beta, mean, variance = (
            self.tensors[f"{name}/BatchNorm/{kind}"][:, None, None]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (self.conv(x, name, stride) - mean) / torch.sqrt(variance + 1e-5) * gamma + beta

    def maps(self, x: Tensor) -> list[Tensor]:
        x = torch.relu(self.normed(x, f"{self.root}/conv1", 2))
        sides = []
        for size in x.shape[2:]:
            total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
            sides.append((total // 2, total - total // 2))
        x = functional.max_pool2d(functional.pad(x, (*sides[1], *sides[0]), value=-np.inf), 3, 2)
        found = []
        for block, stride in enumerate(self.strides):
            for unit in range(UNITS[self.root][block]):
                place = f"{self.root}/block{block + 1}/unit_{unit + 1}/bottleneck_v1"
                step = stride if unit == UNITS[self.root][block] - 1 else 1
                y = torch.relu(self.normed(x, f"{place}/conv1"))
                y = torch.relu(self.normed(y, f"{place}/conv2", step))
                y = self.normed(y, f"{place}/conv3")
                x = self.normed(x, f"{place}/shortcut") if unit == 0 else x[:, :, ::step, ::step]
                x = torch.relu(x + y)
            found.append(x)
        return found

    def attention(self, x: Tensor) -> Tensor:
        x = torch.relu(self.normed(x, f"{ATTENTION}conv1"))
        return torch.log1p(torch.exp(self.conv(x, f"{ATTENTION}conv2")))[:, 0]


def corners(image: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Return H×W×C resized as TensorFlow 1 did, position by position."""
    height, width = image.shape[:2]
    out = np.zeros((rows, columns, image.shape[2]))
    for i in range(rows):
        for j in range(columns):
            y, x = i * height / rows, j * width / columns
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            top = image[y0, x0] + (image[y0, x1] - image[y0, x0]) * (x - x0)
            low = image[y1, x0] + (image[y1, x1] - image[y1, x0]) * (x - x0)
            out[i, j] = top + (low - top) * (y - y0)
    return out


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("scale", [0.25, 0.3536, 0.5, 0.7071, 1.4142])
def test_sides_are_rounded_as_tensorflow_rounds(scale: float) -> None:
    for size in range(1, 2049):
        wanted = max(int(np.rint(np.float32(size) * np.float32(scale))), 1)
        assert round_scaled(size, scale) == wanted, size


def test_the_first_resize_of_tensorflow() -> None:
    image = np.random.default_rng(0).random((13, 9, 3))
    for rows, columns in ((7, 5), (18, 13), (26, 18), (3, 2)):
        found = resize_from_corners(torch.from_numpy(image).permute(2, 0, 1)[None], rows, columns)
        np.testing.assert_allclose(found[0].permute(1, 2, 0), corners(image, rows, columns), atol=1e-12)


def test_what_the_graph_says(writer: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "saved_model.pb"
    path.write_bytes(graph(writer, last_units(1, 2), half_pixel=True))
    facts = graph_facts(path)
    assert (facts.strides, facts.half_pixel) == ({3: 1, 4: 2}, True)
    whole = path.read_bytes()
    random = np.random.default_rng(2)
    for _ in range(300):
        content = bytearray(whole)
        content[random.integers(len(content))] = random.integers(256)
        path.write_bytes(content[: random.integers(1, len(content) + 1)])
        try:
            graph_facts(path)
        except CheckpointError as error:
            assert str(path) in str(error)


@pytest.mark.slow
def test_delf_says_what_it_took(delf: Checkpoint, delf_folder: Path) -> None:
    assert (delf.form, delf.config.family, delf.config.dim, delf.config.stride) == ("delf", "delf", 128, 32)
    assert delf.config.delf is not None and not delf.config.delf.half_pixel
    assert delf.extraction.scales == (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
    said = " ".join(delf.remarks)
    assert "DELF on resnet_v1_50, its attention attention_block/attention/compute/*" in said
    assert "stride of the third block is 2, and it resizes at their corners" in said
    assert "PCA to 128 dimensions" in said
    assert load_checkpoint(delf_folder / "model").weights_sha256() == delf.weights_sha256()
    usual = load_checkpoint(delf_folder).config.delf
    assert usual is not None and usual.threshold == 100


@pytest.mark.slow
def test_delf_computes_its_formulas(delf: Checkpoint, pca: Any) -> None:
    image = np.random.default_rng(1).integers(0, 256, (101, 140, 3), dtype=np.uint8)
    scales = (0.5, 1.0, 0.7071)
    with torch.no_grad():
        network = delf.network(replace(delf.extraction, scales=scales, top_k=60))
        found = [array[0].numpy() for array in network(torch.from_numpy(image)[None])]
    slim = Slim(delf_tensors(3), (2, 2, 2))
    rows = []
    for scale in scales:
        sides = tuple(int(np.rint(np.float32(side * np.float32(scale)))) for side in image.shape[:2])
        x = corners(image.astype(np.float64), *sides)
        block3 = slim.maps(torch.from_numpy((x - 128) / 128).permute(2, 0, 1)[None])[2]
        strengths = slim.attention(block3)[0].numpy()
        features = unit(block3)[0].numpy()
        for i, j in np.ndindex(*strengths.shape):
            vector = pca[1][:128].astype(np.float64) @ (features[:, i, j] - pca[0])
            if strengths[i, j] >= 0.5:
                place = (j * 32 / scale, i * 32 / scale)
                rows.append((strengths[i, j], vector / np.linalg.norm(vector), place, scale))
    rows.sort(key=lambda row: -row[0])
    count = int((found[1] > 0).sum())
    assert count == len(rows) > 8
    np.testing.assert_allclose(found[1][:count], [row[0] for row in rows], rtol=1e-4)
    np.testing.assert_allclose(found[2][:count], [row[2] for row in rows], atol=1e-3)
    np.testing.assert_allclose(found[3][:count], [row[3] for row in rows], rtol=1e-6)
    np.testing.assert_allclose(found[0][:count], np.array([row[1] for row in rows]), atol=2e-5)


@pytest.mark.slow
def test_resnet101_computes_its_formulas(writer: ModuleType, tmp_path: Path) -> None:
    tensors = delf_tensors(3, "resnet_v1_101")
    writer.write(tmp_path / "r101delf" / "variables", tensors, crc32c=crc32c)
    found = load_checkpoint(tmp_path / "r101delf" / "variables", threshold=0)
    assert found.config.architecture.label == "resnet101" and "DELF on resnet_v1_101" in found.remarks[0]
    network = found.network(replace(found.extraction, scales=(1.0,), top_k=20))
    image = np.random.default_rng(3).integers(0, 256, (64, 97, 3), dtype=np.uint8)
    slim = Slim(tensors, (2, 2, 2), "resnet_v1_101")
    wanted = slim.maps((torch.from_numpy(image).double().permute(2, 0, 1)[None] - 128) / 128)[2]
    with torch.no_grad():
        block3 = network.backbone(network.normalise(torch.from_numpy(image)[None]))
        strengths = network(torch.from_numpy(image)[None])[1][0]
    assert float((block3 - wanted).abs().max() / wanted.abs().max()) < 3e-6
    attention = torch.sort(slim.attention(wanted).flatten(), descending=True)[0]
    np.testing.assert_allclose(strengths[: len(attention)], attention[: len(strengths)], rtol=1e-4)


@pytest.mark.slow
def test_delg_computes_its_formulas(delg: Checkpoint) -> None:
    image = np.random.default_rng(1).integers(0, 256, (101, 140, 3), dtype=np.uint8)
    extraction = replace(delg.extraction, scales=(1.0, 0.5), top_k=60, global_scales=(1.0, 0.7071))
    assert extraction.outputs == ("descriptors", "attention", "positions", "scales", "global")
    with torch.no_grad():
        outputs = delg.network(extraction)(torch.from_numpy(image)[None])
    tensors = delg_tensors()
    slim = Slim(tensors, (2, 2, 2, 1))
    x = torch.from_numpy(image).double().permute(2, 0, 1)[None]
    whole, levels = torch.zeros(1, 96, dtype=torch.float64), []
    for scale in (1.0, 0.5, 0.7071):
        sides = tuple(int(np.rint(np.float32(side * np.float32(scale)))) for side in image.shape[:2])
        resized = functional.interpolate(x, size=sides, mode="bilinear", align_corners=False)
        maps = slim.maps((resized - 128) / 128)
        if scale != 0.7071:
            encoded = slim.conv(maps[2], "autoencoder/encoder")
            strengths = slim.attention(torch.relu(slim.conv(encoded, "autoencoder/decoder")))
            levels.append((strengths.flatten(), unit(encoded)[0].flatten(1).T))
        if scale != 0.5:
            pooled = maps[3].clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)
            whole += unit(pooled @ slim.tensors["whiten/weights"] + slim.tensors["whiten/biases"])
    strengths, vectors = (torch.cat(parts) for parts in zip(*levels, strict=True))
    order = torch.argsort(strengths, descending=True)
    count = int((outputs[1][0] > 0).sum())
    assert count == len(order)
    np.testing.assert_allclose(outputs[1][0][:count], strengths[order], rtol=1e-4)
    np.testing.assert_allclose(outputs[0][0][:count], vectors[order], atol=2e-5)
    np.testing.assert_allclose(outputs[4], unit(whole), atol=2e-6)


@pytest.mark.slow
def test_delg_says_which_layer_is_which(delg: Checkpoint, delg_prefix: Path) -> None:
    said = " ".join(delg.remarks)
    assert "by its shape the encoder is autoencoder/encoder/weights" in said
    assert "by its shape the linear layer is whiten/weights" in said
    assert "left out, as the network has none of them: logits/weights" in said
    assert "no graph lies beside it" in said
    assert (delg.form, delg.extraction.global_dim, delg.config.dim) == ("delg", 96, 128)
    usual = load_checkpoint(f"{delg_prefix}.index").config.delf
    assert usual is not None and usual.threshold == 175


@pytest.mark.slow
@pytest.mark.parametrize("form", ["delf", pytest.param("delg", marks=pytest.mark.long)])
def test_a_bundle_of_tensorflows_files_passes(
    form: str, delf_folder: Path, delg_prefix: Path, samples: Mapping[str, NDArray[np.uint8]], tmp_path: Path
) -> None:
    source = delf_folder if form == "delf" else delg_prefix
    config = ExportConfig(scales=(0.7071,), top_k=40, image_size=256, threshold=0, max_batch=2)
    photos = ParityPhotos(parity={"coffee": samples["coffee"][:150, :201]}, retrieval={})
    bundle = export_bundle(source, tmp_path / "bundle", config, retrieval=None, photos=photos).check()
    assert bundle.extraction.gives == (("local",) if form == "delf" else ("local", "global"))
    parity = bundle.artefact().parity
    assert parity["verdict"] == "passed" and parity["cosine_min"] > 0.9999
    assert bundle.source["format"] == form


@pytest.mark.slow
def test_tensors_that_do_not_fit_are_named(writer: ModuleType, tmp_path: Path) -> None:
    def refused(tensors: Arrays, match: str) -> None:
        writer.write(tmp_path / "model", tensors, crc32c=crc32c)
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(tmp_path / "model").network()

    found = delf_tensors(3)
    refused(
        {"dense/kernel": found[f"{ATTENTION}conv2/weights"]}, r"0 trunks .* It holds 1 tensor: dense/kernel \[1, 1,"
    )
    block4 = {"resnet_v1_50/block4/unit_1/bottleneck_v1/conv1/weights": np.zeros((1, 1, 1024, 512), np.float32)}
    whiten = {"whiten/weights": np.zeros((2048, 96), np.float32)}
    refused(
        {**found, **block4, **whiten}, "fourth block and whiten/weights, as DELG has, .* but no encoder and decoder"
    )
    writer.write(tmp_path / "model", {**found, **block4}, crc32c=crc32c)
    assert any("left out" in line and "block4" in line for line in load_checkpoint(tmp_path / "model").remarks)
    name = "resnet_v1_50/block2/unit_1/bottleneck_v1/conv2/weights"
    refused({key: value for key, value in found.items() if key != name}, f"missing: {name}")
    refused({**found, name: np.zeros((3, 3, 64, 128), np.float32)}, r"another shape: .* instead of \[3, 3, 128, 128\]")
    refused({**found, name: np.full((3, 3, 128, 128), np.nan, np.float32)}, "not finite")


def test_a_threshold_needs_attention(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="is not of DELF or DELG"):
        load_checkpoint(tmp_path / "a.pth", threshold=3)
