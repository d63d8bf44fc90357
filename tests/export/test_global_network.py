"""Networks with a global descriptor: pooling against golden numbers, sizes of the pyramid, checkpoints, the graph."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.types import Precision
from ctxdeploy.export import load_checkpoint, save_checkpoint
from ctxdeploy.export.graph.mixed import emulated, to_mixed
from ctxdeploy.export.graph.mixed_plan import FLOAT, graph_types
from ctxdeploy.export.int8.calibration import calibrate
from ctxdeploy.export.int8.layers import find_trunk
from ctxdeploy.export.int8.qdq import quantise
from ctxdeploy.export.int8.search import sensitivities
from ctxdeploy.export.networks import (
    Architecture,
    GlobalHead,
    LocalGlobalNetwork,
    NetworkConfig,
    Pooling,
    Smoothing,
    build,
    l2_attention,
)
from ctxdeploy.export.networks.network import cell_centres, scale_ratio, scaled_by, scaled_size
from ctxdeploy.export.networks.pooling import GeM, pool_of, unit
from ctxdeploy.export.networks.trunks import trunk_of
from ctxdeploy.export.tensorrt.limits import graph_problems

ROOT2 = math.sqrt(2)
# cirtorch's two pyramids, the second as it writes it.
SCALES = (1.0, ROOT2, 1.0 / math.sqrt(2))
GOLDEN = Path(__file__).parents[2] / "../shared/data/golden/global.json"


def gem(**pooling: Any) -> NetworkConfig:
    return NetworkConfig(
        family="gem",
        architecture=Architecture.RESNET18_HALF,
        dim=None,
        smoothing=Smoothing(kind="none"),
        pooling=Pooling(**pooling),
    )


def fitted(config: NetworkConfig, scales: tuple[float, ...] = SCALES) -> Extraction:
    return config.fitted(Extraction(global_dim=1, global_scales=scales))


def ruled(shape: tuple[int, ...]) -> torch.Tensor:
    """Return the golden numbers' input."""
    i = np.arange(math.prod(shape), dtype=np.float64)
    return torch.from_numpy((np.sin(0.37 * i) ** 2 + 0.1 * np.cos(0.011 * i)).astype(np.float32).reshape(shape))


def parameters(shape: tuple[int, ...], j: int) -> torch.Tensor:
    i = np.arange(math.prod(shape), dtype=np.float64)
    return torch.from_numpy((0.2 * np.sin(0.013 * i + j)).astype(np.float32).reshape(shape))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if not GOLDEN.exists():
        pytest.skip("the golden numbers of the authors' modules are not here (../shared/data/golden)")
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def test_poolings_are_those_of_the_authors(golden: dict[str, Any]) -> None:
    x = ruled((1, 6, 7, 11))
    for p in (3.0, 2.9135):
        trained = GeM()
        trained.p.data.fill_(p)
        for module in (trained, GeM(p)):
            assert np.allclose(module(x)[0].detach(), golden[f"gem p={p:g}"], atol=2e-6)
    assert np.allclose(pool_of(Pooling(kind="mac"), 6)(x)[0], golden["mac"], atol=2e-6)
    assert np.allclose(pool_of(Pooling(kind="spoc"), 6)(x)[0], x[0].mean(dim=(1, 2)), atol=1e-6)


def test_a_whitened_vector_is_that_of_the_authors(golden: dict[str, Any]) -> None:
    head = GlobalHead(6, Pooling(dim=6))
    with torch.no_grad():
        head.whitening.weight.copy_(parameters((6, 6), 0))
        head.whitening.bias.copy_(parameters((6,), 1))
        found = head.describe(ruled((1, 6, 7, 11)))
    assert np.allclose(found[0], golden["gem -> l2n -> whiten -> l2n"], atol=2e-5)


def test_vectors_of_scales_are_combined_as_the_authors_do(golden: dict[str, Any]) -> None:
    wanted = golden["dirtorch multi-scale gem p=3 of 3 vectors v_j[i]=normalise(sin(1.3 i + j))"]
    levels = [unit(torch.sin(1.3 * torch.arange(len(wanted), dtype=torch.float32) + j)[None]) for j in range(3)]
    found = GlobalHead(6, Pooling(norm="floored", over_scales="signed", dim=6)).combine(levels)
    assert np.allclose(found[0].detach(), unit(torch.tensor(wanted)[None])[0], atol=2e-6)
    # cirtorch's power mean is that of GeM; of one scale both are the vector itself.
    positive = [level.abs() for level in levels]
    mean = (torch.stack(positive) ** 3).mean(dim=0) ** (1 / 3)
    head = GlobalHead(6, Pooling(over_scales="gem"))
    assert torch.allclose(head.combine(positive), mean / mean.norm(), atol=1e-6)
    assert torch.allclose(head.combine(positive[:1]), positive[0], atol=1e-6)


def test_norms_differ_in_their_epsilon() -> None:
    x = torch.full((1, 4), 1e-6)
    assert unit(x, "added").norm() == pytest.approx(2 / 3, rel=1e-5)
    assert unit(x, "floored").norm() == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(unit(torch.zeros(1, 4)), torch.zeros(1, 4))


@pytest.mark.parametrize("scale", [ROOT2, 1.0 / ROOT2, 2**-0.5, 0.5, 2 ** (1 / 3)])
def test_sizes_of_levels_are_those_of_the_authors(scale: float) -> None:
    a, b = scale_ratio(scale)
    sizes = np.arange(1, 16385)
    assert 16384 * a < 2**31
    assert np.array_equal(sizes * a // b, np.floor(sizes * scale))
    for size in (1, 7, 362, 1023, 1024, 2157):
        image = torch.zeros(1, 3, size, 2)
        if int(size * scale):
            level = torch.nn.functional.interpolate(image, scale_factor=(scale, 1.0), mode="bilinear")
            assert scaled_size(size, scale) == level.shape[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "attention"}, "kind 'attention' is not one of gem, mac, spoc, rmac"),
        ({"norm": "l2"}, "norm 'l2' is not one of added, floored"),
        ({"kind": "mac", "fixed_p": 3.0}, "only with kind 'gem'"),
        ({"fixed_p": 0.5}, "give 1 to 100"),
        ({"over_scales": "gem", "dim": 8}, "neither regional nor with a dim"),
        ({"dim": 0}, r"dim 0 is not a whole number in 1\.\.8192"),
        ({"regional": 1}, "regional 1 is neither true nor false"),
    ],
)
def test_poolings_that_there_are_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pooling(**options)


def test_a_network_is_what_its_checkpoint_and_bundle_say(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = gem(dim=24, final_dim=16, local_whitening=True)
    assert NetworkConfig.parse(json.loads(json.dumps(config.metadata()))) == config
    assert (config.global_dim, config.descriptor_dim) == (16, 16)
    network = build(config, fitted(config))
    save_checkpoint(network, tmp_path / "gem.pth", image_size=320)
    loaded = load_checkpoint(tmp_path / "gem.pth")
    assert (loaded.config, loaded.image_size) == (config, 320)
    assert loaded.extraction == fitted(config) and loaded.extraction.gives == ("global",)
    image = torch.randint(0, 256, (2, 50, 70, 3), dtype=torch.uint8)
    with torch.inference_mode():
        (found,) = network(image)
        (again,) = loaded.network()(image)
    assert torch.equal(found, again) and found.shape == (2, 16)
    assert torch.allclose(found.norm(dim=1), torch.ones(2))


def test_a_checkpoint_without_its_power_is_refused(tmp_path: Path) -> None:
    content = {"_version": "ctx/1", "net_params": {}, "state_dict": {}}
    network = build(gem(), fitted(gem()))
    save_checkpoint(network, tmp_path / "gem.pth")
    content = torch.load(tmp_path / "gem.pth", weights_only=True)
    del content["state_dict"]["global_head.pool.p"]
    torch.save(content, tmp_path / "gem.pth")
    with pytest.raises(CheckpointError, match=r"missing: global_head\.pool\.p"):
        load_checkpoint(tmp_path / "gem.pth")


def test_a_global_network_has_no_parts_of_local_ones() -> None:
    with pytest.raises(ConfigError, match="a global descriptor alone has no dim"):
        NetworkConfig(family="gem", architecture=Architecture.RESNET18, dim=16, pooling=Pooling())
    beside = Pooling(beside_local=True)
    with pytest.raises(ConfigError, match="cannot have all the parts"):
        build(NetworkConfig(family="how", architecture=Architecture.RESNET18, pooling=beside), Extraction())


@pytest.mark.slow
def test_the_graph_computes_what_the_network_computes(
    samples: Mapping[str, NDArray[np.uint8]],
    network_of: Callable[[NetworkConfig, Extraction], Any],
    traced: Callable[[str, Any], Any],
) -> None:
    import onnxruntime

    config = gem(dim=128)
    network = network_of(config, fitted(config))
    graph = traced("gem", network)
    assert [(o.name, [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim]) for o in graph.graph.output]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for image in (samples["coffee"], samples["rocket"][:97, :33], samples["page"][:1, :1]):
        with torch.inference_mode():
            (wanted,) = network(torch.from_numpy(np.array(image))[None])
        (found,) = session.run(["global"], {"image": image[None]})
        assert found.shape == (1, 128) and float((found * wanted.numpy()).sum()) > 0.99999


class Divided(LocalGlobalNetwork):
    """Both kinds on a ResNet whose local descriptors are of its third layer."""

    relative_attention = True

    def resize(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        return scaled_by(x, scale)

    def shared_map(self, x: torch.Tensor) -> torch.Tensor:
        trunk = self.backbone
        x = trunk.maxpool(torch.relu(trunk.bn1(trunk.conv1(x))))
        return trunk.layer3(trunk.layer2(trunk.layer1(x)))

    def local_features(self, shared: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
        centres = cell_centres(shared.shape[2], shared.shape[3], height, width, shared.device)
        return shared, l2_attention(shared), centres

    def global_map(self, shared: torch.Tensor) -> torch.Tensor:
        return self.backbone.layer4(shared)


@pytest.fixture(scope="module")
def both(samples: Mapping[str, NDArray[np.uint8]]) -> Divided:
    torch.manual_seed(1)
    config = NetworkConfig(
        family="how",
        architecture=Architecture.RESNET18_HALF,
        skip_layer=1,
        dim=16,
        smoothing=Smoothing(kind="none"),
        pooling=Pooling(dim=32, fixed_p=3.0, norm_pooled=False, norm="floored", beside_local=True),
    )
    extraction = config.fitted(
        Extraction(scales=(0.7071, 1.0, 0.5), top_k=40, global_dim=1, global_scales=(1.0, 0.7071))
    )
    network = Divided(config, extraction)
    network.backbone = trunk_of(replace(config, skip_layer=0))
    return network.eval()


def test_both_kinds_come_from_one_pass(both: Divided) -> None:
    assert both.config.pooled_channels == 256 and both.config.channels == 128
    assert both.extraction.outputs == ("descriptors", "attention", "positions", "scales", "global")
    seen: list[tuple[int, ...]] = []
    image = torch.randint(0, 256, (2, 101, 140, 3), dtype=torch.uint8)
    with (
        torch.inference_mode(),
        both.backbone.conv1.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[2:])),
    ):
        found = both(image)
    # Three scales, two of them used twice and seen once.
    assert [tuple(size) for size in seen] == [(71, 98), (101, 140), (50, 70)]
    assert [tuple(array.shape) for array in found] == [(2, 40, 16), (2, 40), (2, 40, 2), (2, 40), (2, 32)]
    with torch.inference_mode():
        x = both.normalise(image)
        levels = [x, both.resize(x, 0.7071)]
        wanted = both.global_head.combine([both.global_head.describe(both.backbone(level)) for level in levels])
    assert torch.allclose(found[4], wanted, atol=1e-6)
    single = [both(image[i : i + 1])[4] for i in range(2)]
    assert torch.allclose(torch.cat(single), found[4], atol=1e-5)


def test_a_network_with_both_kinds_may_give_the_global_alone(both: Divided) -> None:
    extraction = both.config.fitted(replace(both.extraction, top_k=0))
    assert (extraction.outputs, extraction.dim) == (("global",), 32)
    alone = Divided(both.config, extraction)
    alone.backbone = both.backbone
    alone.global_head = both.global_head
    image = torch.randint(0, 256, (1, 60, 80, 3), dtype=torch.uint8)
    with torch.inference_mode():
        (found,) = alone.eval()(image)
        assert torch.allclose(found, both(image)[4], atol=1e-6)


@pytest.mark.slow
def test_a_graph_of_both_kinds_in_every_precision(
    both: Divided, samples: Mapping[str, NDArray[np.uint8]], traced: Callable[[str, Any], Any]
) -> None:
    import onnxruntime

    def run(proto: Any, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [output.name for output in proto.graph.output]
        return dict(zip(names, session.run(names, {"image": image[None]}), strict=True))

    graph = traced("both-kinds", both)
    assert graph_problems(graph) == [] == graph_problems(graph, "tensorrt-rtx")
    ranges = calibrate(graph, samples)
    trunk = find_trunk(graph)
    # The local head reads the third layer, the pooling the fourth, which is there at two of three scales.
    assert trunk.ends == ["backbone.layer3.1.conv2/sum/relu", "backbone.layer4.1.conv2/sum/relu6"]
    assert [len(row) for row in trunk.by_scale(trunk.ends)] == [2, 2, 1]
    noise = sensitivities(graph, ranges, {"coffee": samples["coffee"]})
    assert set(noise) == set(trunk.layers) and min(noise.values()) > 0
    image = samples["rocket"]
    with torch.inference_mode():
        wanted = dict(zip(both.extraction.outputs, both(torch.from_numpy(np.array(image))[None]), strict=True))
    least = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.99999, "int8": 0.98}
    graphs = {
        "fp32": graph,
        "bf16": emulated(to_mixed(graph, Precision.BF16)),
        "fp16": emulated(to_mixed(graph, Precision.FP16)),
        "int8": quantise(graph, ranges),
    }
    for precision, proto in graphs.items():
        found = run(proto, image)
        assert list(found) == list(both.extraction.outputs)
        vector = found["global"][0]
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
        assert float(vector @ wanted["global"][0].numpy()) > least[precision], precision
        assert found["descriptors"].shape == (1, 40, 16)
    lows = [node for node in to_mixed(graph, Precision.BF16).graph.node if node.op_type == "Pow"]
    kinds = graph_types(to_mixed(graph, Precision.BF16))
    assert lows and all(kinds[name] == FLOAT for node in lows for name in (*node.input, *node.output))
