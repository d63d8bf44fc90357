"""PCA whitening: variances, directions, and that a network uses it."""

import numpy as np
import pytest
import torch

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks import Architecture, NetworkConfig, build
from ctxdeploy.training.features import trainable
from ctxdeploy.training.whitening import pca_whitening, set_whitening


def correlated(count: int, dim: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((count, dim)) * np.linspace(3, 0.5, dim) @ rng.standard_normal((dim, dim)) + 4
    return torch.from_numpy(mixed.astype(np.float32))


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
def test_outputs_are_centred_uncorrelated_and_of_the_variance_that_shrinkage_leaves(shrinkage: float) -> None:
    x = correlated(5000, 8)
    projection, bias = pca_whitening(x, 5, shrinkage)
    y = (x @ projection.T + bias).double().numpy()
    variances = np.sort(np.linalg.eigvalsh(np.cov(x.double().numpy().T, bias=True)))[::-1][:5]
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(np.cov(y.T, bias=True), np.diag(variances ** (1 - shrinkage)), atol=2e-3 * variances[0])


def test_directions_without_variance_stay_finite_and_signs_are_fixed() -> None:
    x = correlated(100, 6)
    x[:, 2] = 1.0
    projection, bias = pca_whitening(x, 6, 1.0)
    assert bool(projection.isfinite().all()) and bool(bias.isfinite().all())
    turned, _ = pca_whitening(x.flip(0), 6, 1.0)
    torch.testing.assert_close(projection[:5], turned[:5], rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="whitening from 1 vectors"):
        pca_whitening(x[:1], 2, 1.0)


def test_the_networks_last_layer_is_the_whitening_and_frozen() -> None:
    config = NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF, skip_layer=1, dim=16)
    network = trainable(build(config, Extraction(scales=(1.0,), top_k=10, dim=16)))
    x = correlated(400, 128)
    projection, bias = pca_whitening(x, 16, 1.0)
    set_whitening(network, projection, bias)
    found = network.dim_reduction(x[:, :, None, None])[:, :, 0, 0]
    torch.testing.assert_close(found, x @ projection.T + bias, rtol=1e-3, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in network.dim_reduction.parameters())
    bare = NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF, skip_layer=1, dim=None)
    with pytest.raises(ConfigError, match="no whitening to set"):
        set_whitening(trainable(build(bare, Extraction(scales=(1.0,), top_k=10, dim=128))), projection, bias)
