"""The trunks: torchvision's names, sizes and strides."""

import copy
from typing import Any

import pytest
import torch

from ctxdeploy.export.networks import Architecture
from ctxdeploy.export.networks.resnet import ResNetTrunk, fold_batch_norm

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in parts}, f"{name}.num_batches_tracked": ()}


def torchvision_state(blocks: tuple[int, ...], bottleneck: bool) -> Shapes:
    """Return names and shapes of torchvision's ResNet without ``fc``, by its rule."""
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    channels = 64
    for layer, count in enumerate(blocks):
        width = 64 * 2**layer
        out = width * 4 if bottleneck else width
        for i in range(count):
            name = f"layer{layer + 1}.{i}"
            if bottleneck:
                kernels = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            else:
                kernels = [(width, channels, 3), (width, width, 3)]
            for j, (rows, columns, size) in enumerate(kernels, start=1):
                shapes[f"{name}.conv{j}.weight"] = (rows, columns, size, size)
                shapes.update(norm(f"{name}.bn{j}", rows))
            if i == 0 and (layer > 0 or bottleneck):
                shapes[f"{name}.downsample.0.weight"] = (out, channels, 1, 1)
                shapes.update(norm(f"{name}.downsample.1", out))
            channels = out
    return shapes


@pytest.mark.parametrize(
    ("architecture", "blocks", "bottleneck", "parameters"),
    [
        # Parameters of torchvision's models less those of fc (512·1000 + 1000, 2048·1000 + 1000).
        (Architecture.RESNET18, (2, 2, 2, 2), False, 11_689_512 - 513_000),
        (Architecture.RESNET34, (3, 4, 6, 3), False, 21_797_672 - 513_000),
        (Architecture.RESNET50, (3, 4, 6, 3), True, 25_557_032 - 2_049_000),
        (Architecture.RESNET101, (3, 4, 23, 3), True, 44_549_160 - 2_049_000),
        (Architecture.RESNET152, (3, 8, 36, 3), True, 60_192_808 - 2_049_000),
    ],
)
def test_state_is_torchvisions(
    architecture: Architecture, blocks: tuple[int, ...], bottleneck: bool, parameters: int
) -> None:
    wanted = torchvision_state(blocks, bottleneck)
    with torch.device("meta"):
        whole, short = ResNetTrunk(architecture, 0), ResNetTrunk(architecture, 1)
    assert {name: tuple(tensor.shape) for name, tensor in whole.state_dict().items()} == wanted
    assert sum(p.numel() for p in whole.parameters()) == parameters
    without = {name: shape for name, shape in wanted.items() if not name.startswith("layer4")}
    assert {name: tuple(tensor.shape) for name, tensor in short.state_dict().items()} == without


def test_the_narrow_trunk_is_resnet18_with_half_the_channels() -> None:
    with torch.device("meta"):
        half, whole = (ResNetTrunk(a, 1).state_dict() for a in (Architecture.RESNET18_HALF, Architecture.RESNET18))
    assert list(half) == list(whole)
    for name, tensor in half.items():
        wanted = [n if (name, i) == ("conv1.weight", 1) or i > 1 else n // 2 for i, n in enumerate(whole[name].shape)]
        assert list(tensor.shape) == wanted, name


@pytest.mark.parametrize("skip_layer", [0, 1])
@pytest.mark.parametrize("architecture", [Architecture.RESNET18, Architecture.RESNET50, Architecture.RESNET18_HALF])
def test_output_is_the_input_divided_by_the_stride_rounded_up(architecture: Architecture, skip_layer: int) -> None:
    trunk = ResNetTrunk(architecture, skip_layer).eval()
    stride = 16 if skip_layer else 32
    for height, width in ((1, 1), (1, 97), (31, 33), (64, 65), (95, 129)):
        with torch.inference_mode():
            y = trunk(torch.rand(1, 3, height, width))
        assert y.shape == (1, architecture.channels(skip_layer), -(-height // stride), -(-width // stride))
        assert y.min() >= 0


@pytest.mark.parametrize("architecture", [Architecture.RESNET18, Architecture.RESNET50])
def test_a_bottleneck_strides_in_its_3x3_convolution(architecture: Architecture) -> None:
    trunk = ResNetTrunk(architecture, 0)
    strides = {name: m.stride for name, m in trunk.named_modules() if isinstance(m, torch.nn.Conv2d)}
    strided = {name for name, stride in strides.items() if stride == (2, 2)}
    which = "conv2" if architecture.bottleneck else "conv1"
    layers = (2, 3, 4)
    assert strided == {"conv1", *(f"layer{i}.0.{which}" for i in layers), *(f"layer{i}.0.downsample.0" for i in layers)}


@pytest.mark.parametrize("architecture", [Architecture.RESNET18, Architecture.RESNET50])
def test_folding_leaves_no_norm_and_the_same_function(architecture: Architecture) -> None:
    torch.manual_seed(0)
    trunk = ResNetTrunk(architecture, 1).eval()
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            _scramble(module)
    folded = copy.deepcopy(trunk)
    fold_batch_norm(folded)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    x = torch.rand(1, 3, 65, 50)
    with torch.inference_mode():
        wanted, found = trunk(x), folded(x)
    assert wanted.std() > 0
    assert (wanted - found).abs().max() <= 1e-5 * wanted.abs().max()


def _scramble(module: Any) -> None:
    torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    torch.nn.init.uniform_(module.running_var, 0.5, 2)
    torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    torch.nn.init.uniform_(module.bias, -0.2, 0.2)
