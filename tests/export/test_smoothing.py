"""Smoothing against loops in float64, in PyTorch and through the ONNX function."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxdeploy.export.networks import Architecture, GaussianSmoothing, NetworkConfig, Smoothing
from ctxdeploy.export.networks.smoothing import AverageSmoothing, gaussian_smoothing, ring_kernels

CHANNELS = 256
SHAPES = [(1, 1), (1, 9), (7, 1), (2, 2), (5, 8), (11, 6)]
# Bandwidth and confidence: usual ones, a window that is only its centre, a centre that rejects itself, both at once.
REGIMES = {"usual": (1.0, 0.5), "narrow": (60.0, 0.5), "rejecting": (0.7, 1e-12), "flat": (1e-6, 0.999)}


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], Any]) -> Any:
    return load_reference("networks_how")


@pytest.fixture(scope="module", params=[3, 5, 7])
def by_function(request: pytest.FixtureRequest, function_session: Any) -> tuple[int, Any]:
    """Return a kernel size and the operator in ONNX Runtime."""
    size = request.param
    smoothing = Smoothing(kind="gaussian", kernel_size=size)
    # Without a whitening it is the C features that are smoothed.
    trunk = Architecture.RESNET18
    config = NetworkConfig(family="ctx", architecture=trunk, skip_layer=1, smoothing=smoothing, dim=None)
    return size, function_session(config, {"x": 4, "b": 4, "c": 4}, {"kernel_size": size})


def inputs(shape: tuple[int, int], regime: str, batch: int = 2) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(sum(shape))
    b, c = REGIMES[regime]
    x = rng.normal(size=(batch, CHANNELS, *shape))
    bandwidth = b * rng.uniform(0.5, 1.5, size=(batch, 1, *shape))
    confidence = np.minimum(c * rng.uniform(0.5, 1.5, size=(batch, 1, *shape)), 1)
    return [a.astype(np.float32) for a in (x, bandwidth, confidence)]


def expected(reference: Any, arrays: list[NDArray[np.float32]], size: int) -> NDArray[np.float64]:
    x, b, c = (a.astype(np.float64) for a in arrays)
    return np.stack([reference.gaussian_smoothing(x[i], b[i, 0], c[i, 0], size) for i in range(len(x))])


@pytest.mark.parametrize("size", [1, 3, 5, 11])
@pytest.mark.parametrize("shape", SHAPES)
def test_average_is_the_mean_of_the_cells_inside(reference: Any, shape: tuple[int, int], size: int) -> None:
    x = inputs(shape, "usual", batch=1)[0]
    found = AverageSmoothing(size)(torch.from_numpy(x)).numpy()
    assert found.shape == x.shape
    np.testing.assert_allclose(found[0], reference.average_smoothing(x[0].astype(np.float64), size), atol=1e-6)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [3, 5, 7])
def test_gaussian_in_pytorch(reference: Any, shape: tuple[int, int], size: int, regime: str) -> None:
    arrays = inputs(shape, regime)
    found = gaussian_smoothing(*(torch.from_numpy(a) for a in arrays), size).numpy()
    np.testing.assert_allclose(found, expected(reference, arrays, size), rtol=0, atol=1e-5)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_in_onnx_runtime(
    reference: Any, by_function: tuple[int, Any], shape: tuple[int, int], regime: str
) -> None:
    size, run = by_function
    arrays = inputs(shape, regime)
    np.testing.assert_allclose(run(*arrays), expected(reference, arrays, size), rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    bandwidth=st.floats(1e-3, 60),
    confidence=st.floats(1e-6, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_in_onnx_runtime(
    reference: Any,
    by_function: tuple[int, Any],
    shape: tuple[int, int, int],
    bandwidth: float,
    confidence: float,
    seed: int,
) -> None:
    size, run = by_function
    rng = np.random.default_rng(seed)
    batch, *sides = shape
    x = rng.normal(size=(batch, CHANNELS, *sides))
    maps = [value * rng.uniform(0.5, 1, size=(batch, 1, *sides)) for value in (bandwidth, confidence)]
    arrays = [array.astype(np.float32) for array in (x, *maps)]
    np.testing.assert_allclose(run(*arrays), expected(reference, arrays, size), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("bandwidth", "confidence"), [(1e4, 0.0), (200.0, 1e-38), (0.0, 0.0)])
def test_no_nan_when_the_denominator_underflows(
    by_function: tuple[int, Any], bandwidth: float, confidence: float
) -> None:
    size, run = by_function
    x, b, c = inputs((3, 4), "usual")
    b[:], c[:] = bandwidth, confidence
    for found in (run(x, b, c), gaussian_smoothing(*(torch.from_numpy(a) for a in (x, b, c)), size).numpy()):
        assert np.isfinite(found).all()
        # A weighted mean never leaves the range of what it averages.
        assert np.abs(found).max() <= np.abs(x).max() * 1.00001


def test_module_predicts_by_softplus_and_sigmoid(reference: Any) -> None:
    module = GaussianSmoothing(CHANNELS, 5)
    torch.nn.init.normal_(module.predict.weight, std=0.1)
    torch.nn.init.constant_(module.predict.bias, 0.3)
    x = inputs((4, 6), "usual", batch=1)[0]
    found = module(torch.from_numpy(x)).detach().numpy()[0]
    weight, bias = (p.detach().numpy().astype(np.float64) for p in (module.predict.weight, module.predict.bias))
    maps = np.einsum("oc,chw->ohw", weight[:, :, 0, 0], x[0].astype(np.float64)) + bias[:, None, None]
    wanted = reference.gaussian_smoothing(
        x[0].astype(np.float64), np.log1p(np.exp(maps[0])), 1 / (1 + np.exp(-maps[1])), 5
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_wider_bandwidth_narrows_the_filter() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    confidence = torch.full((1, 1, 5, 5), 0.5)
    kept = [gaussian_smoothing(x, torch.full_like(confidence, b), confidence, 5)[0, 0, 2, 2] for b in (0.1, 1.0, 10.0)]
    assert kept[0] < kept[1] < kept[2]


def test_rings_are_those_of_the_design() -> None:
    assert [r for r, _ in ring_kernels(3)] == [1, 2]
    assert [r for r, _ in ring_kernels(5)] == [1, 2, 4, 5, 8]
    assert [r for r, _ in ring_kernels(7)] == [1, 2, 4, 5, 8, 9, 10, 13, 18]
    for size in (3, 5, 7):
        cells = np.sum([mask for _, mask in ring_kernels(size)], axis=0)
        assert cells[size // 2, size // 2] == 0
        assert cells.sum() == size * size - 1 and cells.max() == 1
