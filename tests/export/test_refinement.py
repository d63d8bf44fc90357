"""Graph convolution against loops in float64, in PyTorch and through the ONNX function."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks import Edges, GraphConvolution, NetworkConfig, Refinement
from ctxdeploy.export.networks.refinement import ROW_BLOCKS, GraphRefinement, graph_convolution, row_blocks

CHANNELS, NEIGHBOURS = 256, 10
QUERIES = 24
PARAMETERS = {Edges.THRESHOLD: 0.3, Edges.TOPK: 0.0, Edges.SOFTMAX: 0.1, Edges.ATTENTION: 0.2}
# Fewer nodes than row blocks, as many, fewer than neighbours, and sizes that no block divides.
COUNTS = [1, 2, ROW_BLOCKS - 1, ROW_BLOCKS, ROW_BLOCKS + 1, 37, 99]


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], Any]) -> Any:
    return load_reference("networks_how")


# The forms of the operator: many blocks of rows, as at the largest scale, and one at small scales.
FORMS = [
    (Edges.THRESHOLD, ROW_BLOCKS),
    (Edges.THRESHOLD, 1),
    (Edges.TOPK, 2),
    (Edges.SOFTMAX, 1),
    (Edges.ATTENTION, 8),
]


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0].value}-{form[1]}")
def by_function(request: pytest.FixtureRequest, function_session: Any) -> tuple[Edges, Any]:
    """Return a kind of edges and the operator in ONNX Runtime."""
    from ctxdeploy.export.networks import Architecture

    edges, blocks = request.param
    refinement = Refinement(edges=edges, neighbours=NEIGHBOURS, dim=QUERIES)
    config = NetworkConfig(family="ctx", architecture=Architecture.RESNET18, skip_layer=1, refinement=refinement)
    attributes = {"edges": edges.value, "neighbours": NEIGHBOURS}
    more = {"q": 2, "k": 2} if edges is Edges.ATTENTION else {}
    run = function_session(config, {"x": 3, "w": 2, "p": 0, **more}, attributes, blocks)
    return edges, lambda x, weight, parameter: run(x, weight, parameter, *projections(edges))


def projections(edges: Edges) -> list[NDArray[np.float32]]:
    """Return the matrices to queries and to keys, of edges that have some: no two numbers of them are equal."""
    rng = np.random.default_rng(7)
    drawn = [(rng.normal(size=(CHANNELS, QUERIES)) / QUERIES**0.5).astype(np.float32) for _ in "qk"]
    return drawn if edges is Edges.ATTENTION else []


def nodes(count: int, batch: int = 3) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return features as a ReLU leaves them, a group of similar nodes among them, and a weight."""
    rng = np.random.default_rng(count)
    x = np.maximum(rng.normal(size=(batch, count, CHANNELS)), 0)
    x[:, ::3] = x[:, :1] + 0.3 * x[:, ::3]
    weight = rng.normal(size=(CHANNELS, CHANNELS)) / CHANNELS**0.5
    return x.astype(np.float32), weight.astype(np.float32)


def expected(reference: Any, x: Any, weight: Any, edges: Edges) -> NDArray[np.float64]:
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    parameter = float(np.float32(PARAMETERS[edges]))
    more = [matrix.astype(np.float64) for matrix in projections(edges)]
    return np.stack([reference.graph_convolution(one, weight, parameter, edges.value, NEIGHBOURS, *more) for one in x])


def in_pytorch(x: Any, weight: Any, edges: Edges) -> NDArray[np.float32]:
    parameter = torch.tensor(PARAMETERS[edges])
    more = [torch.from_numpy(matrix) for matrix in projections(edges)]
    x, weight = torch.from_numpy(x), torch.from_numpy(weight)
    return graph_convolution(x, weight, parameter, edges, NEIGHBOURS, projections=more).numpy()


@pytest.mark.parametrize("count", COUNTS)
def test_equals_the_loops(reference: Any, by_function: tuple[Edges, Any], count: int) -> None:
    edges, run = by_function
    x, weight = nodes(count)
    wanted = expected(reference, x, weight, edges)
    assert np.abs(wanted - x).max() > 0.1, "the block must do something, or the test shows nothing"
    np.testing.assert_allclose(in_pytorch(x, weight, edges), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(x, weight, np.float32(PARAMETERS[edges])), wanted, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 40), batch=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_any_number_of_nodes(reference: Any, by_function: tuple[Edges, Any], count: int, batch: int, seed: int) -> None:
    edges, run = by_function
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(batch, count, CHANNELS)), 0).astype(np.float32)
    x[:, ::4] = x[:, :1] + rng.uniform(0.1, 0.5) * x[:, ::4]
    weight = (rng.normal(size=(CHANNELS, CHANNELS)) / CHANNELS**0.5).astype(np.float32)
    wanted = expected(reference, x, weight, edges)
    np.testing.assert_allclose(run(x, weight, np.float32(PARAMETERS[edges])), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 6), slice(None)], ids=["one", "three", "all"])
def test_nodes_without_features_are_no_nan(reference: Any, by_function: tuple[Edges, Any], rows: slice) -> None:
    edges, run = by_function
    x, weight = nodes(20)
    x[1, rows] = 0
    wanted = expected(reference, x, weight, edges)
    for found in (in_pytorch(x, weight, edges), run(x, weight, np.float32(PARAMETERS[edges]))):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_photos_of_a_batch_do_not_meet(by_function: tuple[Edges, Any]) -> None:
    edges, run = by_function
    x, weight = nodes(30)
    changed = x.copy()
    changed[1:] = 7.0
    parameter = np.float32(PARAMETERS[edges])
    np.testing.assert_array_equal(run(x, weight, parameter)[0], run(changed, weight, parameter)[0])
    np.testing.assert_array_equal(in_pytorch(x, weight, edges)[0], in_pytorch(changed, weight, edges)[0])


@pytest.mark.parametrize(
    ("stride", "expected"), [(16, [32, 8, 2, 1, 1, 1, 1]), (32, [8, 2, 1, 1, 1, 1, 1]), (8, [32, 32, 8, 2, 1, 1, 1])]
)
def test_no_block_is_larger_than_those_of_the_largest_map(stride: int, expected: list[int]) -> None:
    scales = Extraction().scales
    assert [row_blocks(stride, scale) for scale in scales] == expected
    assert row_blocks(stride, 4.0) == ROW_BLOCKS
    for scale, blocks in zip(scales, expected, strict=True):
        cells = (1024 * scale / stride) * (768 * scale / stride)
        assert cells**2 / blocks <= 12288**2 / ROW_BLOCKS * (1 if stride > 8 else 16)


@pytest.mark.parametrize("edges", list(Edges), ids=lambda edges: edges.value)
def test_blocks_of_rows_change_nothing(edges: Edges) -> None:
    x, weight = (torch.from_numpy(values) for values in nodes(37))
    more = [torch.from_numpy(matrix) for matrix in projections(edges)]
    found = [
        graph_convolution(
            x, weight, torch.tensor(PARAMETERS[edges]), edges, NEIGHBOURS, projections=more, blocks=blocks
        )
        for blocks in (1, 2, 8, ROW_BLOCKS)
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-5)


def test_no_edge_above_every_similarity() -> None:
    x, weight = nodes(12)
    args = (torch.from_numpy(x), torch.from_numpy(weight), torch.tensor(1.5), Edges.THRESHOLD, NEIGHBOURS)
    np.testing.assert_array_equal(graph_convolution(*args).numpy(), x)


def test_refinement_runs_its_blocks_over_the_positions_of_a_map(reference: Any) -> None:
    module = GraphRefinement(CHANNELS, Refinement(blocks=3))
    for i, block in enumerate(module.blocks):
        torch.nn.init.normal_(block.weight, std=CHANNELS**-0.5)
        torch.nn.init.constant_(block.threshold, 0.1 + 0.2 * i)
    x = nodes(20, batch=1)[0].reshape(1, 4, 5, CHANNELS).transpose(0, 3, 1, 2)
    found = module(torch.from_numpy(x)).detach().numpy()
    rows = x[0].reshape(CHANNELS, -1).T.astype(np.float64)
    for block in module.blocks:
        weight = block.weight.detach().numpy().astype(np.float64)
        rows = reference.graph_convolution(rows, weight, float(block.threshold.detach()), "threshold", 0)
    np.testing.assert_allclose(found[0], rows.T.reshape(CHANNELS, 4, 5), atol=3e-5)


def test_parameters_are_those_that_the_edges_need() -> None:
    names = {
        edges: {name for name, _ in GraphConvolution(8, Refinement(edges=edges)).named_parameters()} for edges in Edges
    }
    assert names == {
        Edges.THRESHOLD: {"weight", "threshold"},
        Edges.SOFTMAX: {"weight", "temperature"},
        Edges.TOPK: {"weight"},
        Edges.ATTENTION: {"weight", "temperature", "query", "key"},
    }


def test_attention_with_the_features_as_queries_and_keys_is_softmax() -> None:
    x, weight = (torch.from_numpy(values) for values in nodes(20))
    same = [torch.eye(CHANNELS)] * 2
    attended = graph_convolution(x, weight, torch.tensor(0.1), Edges.ATTENTION, NEIGHBOURS, projections=same)
    expected = graph_convolution(x, weight, torch.tensor(0.1), Edges.SOFTMAX, NEIGHBOURS)
    torch.testing.assert_close(attended, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [0, 4097, 8.0])
def test_dimensions_of_queries_that_are_refused(dim: Any) -> None:
    with pytest.raises(ConfigError, match="queries and keys"):
        Refinement(edges=Edges.ATTENTION, dim=dim)


def test_dimensions_of_queries_stand_in_metadata_of_attention_alone() -> None:
    """So that the networks of other edges keep the identity of their bundles."""
    assert [edges for edges in Edges if "dim" in Refinement(edges=edges).metadata()] == [Edges.ATTENTION]
