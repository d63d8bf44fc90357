"""TF-slim's ResNet v1: its numbers as TensorFlow computed them, and as loops over positions do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ctxdeploy.export.graph.graph import trace
from ctxdeploy.export.networks import Architecture
from ctxdeploy.export.networks.delf_network import Attention
from ctxdeploy.export.networks.operators import exporting
from ctxdeploy.export.networks.slim_names import slim_name
from ctxdeploy.export.networks.slim_resnet import SlimBottleneck, SlimMaxPool, SlimResNetTrunk

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden" / "slim_resnet50_golden.npz"
SIZES = ((65, 97), (64, 96), (70, 101), (100, 75))
STRIDES = (2, 2, 2, 1)


class Maps(nn.Module):
    """The outputs of the last two blocks, whose batch normalisation is not folded."""

    def __init__(self, trunk: SlimResNetTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.trunk.maps(x)
        return maps[2], maps[3]


@pytest.fixture(scope="module")
def golden() -> Any:
    if not GOLDEN.is_file():
        pytest.skip(f"what TensorFlow computed is not at {GOLDEN}")
    return np.load(GOLDEN)


@pytest.fixture(scope="module")
def weights_and_inputs(golden: Any) -> tuple[dict[str, NDArray[np.float32]], list[NDArray[np.float32]]]:
    random = np.random.RandomState(0)
    weights = {}
    for name, shape in zip(golden["order"], golden["shapes"], strict=True):
        sides = tuple(int(side) for side in shape) if not isinstance(shape, str) else tuple(map(int, shape.split(",")))
        if name.endswith("moving_variance"):
            value = random.rand(*sides) + 0.5
        elif name.endswith("gamma"):
            value = random.rand(*sides) * 0.6 + 0.2
        elif name.endswith("weights"):
            value = random.randn(*sides) * np.sqrt(2 / np.prod(sides[:-1]))
        else:
            value = random.randn(*sides) * 0.1
        weights[str(name)] = value.astype(np.float32)
    return weights, [random.rand(1, *size, 3).astype(np.float32) * 2 - 1 for size in SIZES]


def turned(value: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value))


@pytest.fixture(scope="module")
def trunk(weights_and_inputs: Any) -> SlimResNetTrunk:
    network = SlimResNetTrunk(Architecture.RESNET50, STRIDES)
    state = {
        name: turned(weights_and_inputs[0][f"resnet_v1_50/{slim_name(name)}"])
        for name in network.state_dict()
        if not name.endswith("num_batches_tracked")
    }
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert not unexpected
    return network.eval()


def relative(found: Any, wanted: NDArray[np.float32]) -> float:
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


@pytest.mark.slow
def test_maps_and_attention_are_tensorflows(golden: Any, trunk: SlimResNetTrunk, weights_and_inputs: Any) -> None:
    weights, inputs = weights_and_inputs
    attention = Attention(1024).eval()
    place = "attention_block/attention/compute/"
    names = {
        "conv1.weight": "conv1/weights",
        "bn1.weight": "conv1/BatchNorm/gamma",
        "bn1.bias": "conv1/BatchNorm/beta",
        "bn1.running_mean": "conv1/BatchNorm/moving_mean",
        "bn1.running_var": "conv1/BatchNorm/moving_variance",
        "conv2.weight": "conv2/weights",
        "conv2.bias": "conv2/biases",
    }
    attention.load_state_dict({name: turned(weights[place + path]) for name, path in names.items()}, strict=False)
    for (height, width), image in zip(SIZES, inputs, strict=True):
        with torch.no_grad():
            maps = trunk.maps(torch.from_numpy(image.transpose(0, 3, 1, 2)))
            strengths = attention(maps[2])
        for number, map_ in ((3, maps[2]), (4, maps[3])):
            wanted = golden[f"f{number}_{height}_{width}"]
            assert relative(map_.permute(0, 2, 3, 1), wanted) < 1e-6, (height, width, number)
        assert relative(strengths[..., None], golden[f"a_{height}_{width}"]) < 1e-6


@pytest.mark.slow
def test_the_graph_is_tensorflows(golden: Any, trunk: SlimResNetTrunk, weights_and_inputs: Any, tmp_path: Path) -> None:
    import onnx_ir
    import onnxruntime

    with exporting():
        model = trace(Maps(trunk).eval(), (torch.rand(2, 3, 65, 97),), ({0: "b", 2: "h", 3: "w"},), ("f3", "f4"))
    onnx_ir.save(model, tmp_path / "slim.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "slim.onnx")
    for (height, width), image in zip(SIZES, weights_and_inputs[1], strict=True):
        found = session.run(None, {model.graph.inputs[0].name: image.transpose(0, 3, 1, 2)})
        for number, map_ in zip((3, 4), found, strict=True):
            assert relative(map_.transpose(0, 2, 3, 1), golden[f"f{number}_{height}_{width}"]) < 1e-6


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (10, 7), (5, 5), (1, 2)])
def test_pooling_pads_as_tensorflow(size: tuple[int, int]) -> None:
    """Position by position: window i begins at 2i - ⌊total/2⌋, where total is what SAME adds."""
    x = np.random.default_rng(0).random((1, 2, *size))
    starts = []
    for side in size:
        total = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
        starts.append([2 * i - total // 2 for i in range(-(-side // 2))])
    rows, columns = starts
    maps = [[[m[max(r, 0) : r + 3, max(c, 0) : c + 3].max() for c in columns] for r in rows] for m in x[0]]
    np.testing.assert_array_equal(SlimMaxPool()(torch.from_numpy(x))[0], maps)


def test_a_strided_shortcut_leaves_positions_out() -> None:
    unit = SlimBottleneck(16, 4, 2).eval()
    assert unit.downsample is None
    torch.nn.init.zeros_(unit.bn3.weight)
    x = torch.rand(1, 16, 7, 6)
    assert torch.equal(unit(x), x[:, :, ::2, ::2])
