"""The trunk of VGG-16: torchvision's names and sizes, its values in a plain form, photos of any size."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks import Architecture, NetworkConfig
from ctxdeploy.export.networks.vgg import STAGES, VggTrunk

PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def test_state_is_torchvisions() -> None:
    with torch.device("meta"):
        trunk = VggTrunk()
    channels = [3, *(c for stage in STAGES for c in stage)]
    wanted = {}
    for place, before, after in zip(PLACES, channels, channels[1:], strict=False):
        wanted |= {f"{place}.weight": (after, before, 3, 3), f"{place}.bias": (after,)}
    assert {name: tuple(tensor.shape) for name, tensor in trunk.state_dict().items()} == wanted
    assert sum(p.numel() for p in trunk.parameters()) == 14_714_688


def test_values_are_those_of_convolutions_and_halvings() -> None:
    torch.manual_seed(0)
    trunk = VggTrunk().double()
    x = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    with torch.inference_mode():
        found = trunk(x)
        for number, names in enumerate(trunk.stages):
            x = functional.max_pool2d(x, 2) if number else x
            for name in names:
                layer = trunk.get_submodule(name)
                x = functional.conv2d(x, layer.weight, layer.bias, padding=1).clamp(min=0)
    assert x.std() > 0
    np.testing.assert_array_equal(found.numpy(), x.numpy())


def test_output_is_the_input_divided_by_16_rounded_down() -> None:
    trunk = VggTrunk().eval()
    for height, width in ((1, 1), (15, 33), (31, 16), (64, 65)):
        with torch.inference_mode():
            assert trunk(torch.rand(1, 3, height, width)).shape == (1, 512, max(height // 16, 1), max(width // 16, 1))


def test_configuration() -> None:
    config = NetworkConfig(family="how", architecture=Architecture.VGG16)
    assert (config.channels, config.stride) == (512, 16)
    assert NetworkConfig.parse(config.metadata()) == config
    with pytest.raises(ConfigError, match="skip_layer 1 of vgg16: it has no layers to leave out, use 0"):
        NetworkConfig(family="how", architecture=Architecture.VGG16, skip_layer=1)
