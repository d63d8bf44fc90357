"""Local feature integration against loops in float64, in PyTorch and through the ONNX function."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctxdeploy.export.networks import Architecture, Lit, NetworkConfig, Smoothing
from ctxdeploy.export.networks.lit import FoldedIntegration, LocalFeatureIntegration

# Channels of a ResNet-18 without its last layer.
CHANNELS = 256
LIT = Lit(steps=3, templates=12, dim=64)
COUNTS = [1, 2, 5, 12, 13, 40]


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], Any]) -> Any:
    return load_reference("networks_fire")


def module_of(config: Lit, channels: int, seed: int, sharpness: float = 1.0) -> LocalFeatureIntegration:
    """Return a module with random weights; with a sharpness of 4 most templates are chosen by few positions."""
    torch.manual_seed(seed)
    module = LocalFeatureIntegration(channels, config).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("norm") and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 1:
                parameter.normal_(std=0.1)
            elif name == "templates_init":
                parameter.normal_()
            else:
                parameter.normal_(std=parameter.shape[1] ** -0.5 * (sharpness if name == "project_q.weight" else 1))
    return module


def nodes(count: int, channels: int, batch: int = 2) -> NDArray[np.float32]:
    """Return features as a ReLU leaves them."""
    return np.maximum(np.random.default_rng(count).normal(size=(batch, count, channels)), 0).astype(np.float32)


def expected(reference: Any, module: LocalFeatureIntegration, x: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in module.state_dict().items()}
    pairs = [reference.integrate(one.astype(np.float64), state, module.config.steps) for one in x]
    return [np.stack(arrays) for arrays in zip(*pairs, strict=True)]


@pytest.fixture(scope="module")
def by_function(function_session: Any) -> Callable[..., NDArray[np.float32]]:
    """Return a function from a module and positions to super-features, run by the operator in ONNX Runtime."""
    config = NetworkConfig(
        family="fire",
        architecture=Architecture.RESNET18,
        skip_layer=1,
        dim=32,
        smoothing=Smoothing(kind="none"),
        lit=LIT,
    )
    folded = FoldedIntegration(module_of(LIT, CHANNELS, 0))
    ranks = {"x": 3, **{f"w{i}": constant.ndim for i, constant in enumerate(folded.constants)}}
    run = function_session(config, ranks, {"steps": LIT.steps})

    def call(module: LocalFeatureIntegration, x: NDArray[np.float32]) -> NDArray[np.float32]:
        constants = [constant.detach().numpy() for constant in FoldedIntegration(module).constants]
        result: NDArray[np.float32] = run(x, *constants)
        return result

    return call


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
@pytest.mark.parametrize("count", COUNTS)
def test_equals_the_loops(reference: Any, by_function: Any, count: int, sharpness: float) -> None:
    module, x = module_of(LIT, CHANNELS, count, sharpness), nodes(count, CHANNELS)
    wanted, attention = expected(reference, module, x)
    assert np.abs(wanted - module.templates_init.detach().numpy()).max() > 0.5, "the steps must do something"
    with torch.inference_mode():
        found, weights = (a.numpy() for a in module(torch.from_numpy(x)))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(weights, attention, rtol=0, atol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(by_function(module, x), wanted, rtol=0, atol=1e-5 * scale)
