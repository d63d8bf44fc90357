"""The bodies of our own operators: each the graph of the same PyTorch code that the network runs."""

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ctxdeploy.export.graph.tracing import OPSET, trace
from ctxdeploy.export.networks.config import Edges, Lit, NetworkConfig
from ctxdeploy.export.networks.lit import FoldedIntegration, LocalFeatureIntegration, local_feature_integration
from ctxdeploy.export.networks.operators import DOMAIN, emit_operators
from ctxdeploy.export.networks.pooling_config import Pooling
from ctxdeploy.export.networks.refinement import ROW_BLOCKS, graph_convolution, graph_rows
from ctxdeploy.export.networks.regions import pooled_regions
from ctxdeploy.export.networks.second_order import attend
from ctxdeploy.export.networks.smoothing import gaussian_smoothing


class _GaussianSmoothing(nn.Module):
    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor, bandwidth: Tensor, confidence: Tensor) -> Tensor:
        return gaussian_smoothing(x, bandwidth, confidence, self.kernel_size)


class _GraphConvolution(nn.Module):
    def __init__(self, edges: Edges, neighbours: int, blocks: int) -> None:
        super().__init__()
        self.edges = edges
        self.neighbours = neighbours
        self.blocks = blocks

    def forward(self, x: Tensor, weight: Tensor, parameter: Tensor) -> Tensor:
        return self.convolved(x, weight, parameter)

    def convolved(self, x: Tensor, weight: Tensor, parameter: Tensor, *projections: Tensor) -> Tensor:
        edges, neighbours = self.edges, self.neighbours
        return graph_convolution(x, weight, parameter, edges, neighbours, _emitted_rows, projections, self.blocks)


class _AttentiveConvolution(_GraphConvolution):
    def forward(self, x: Tensor, weight: Tensor, parameter: Tensor, query: Tensor, key: Tensor) -> Tensor:  # type: ignore[override]
        return self.convolved(x, weight, parameter, query, key)


class _GraphRows(nn.Module):
    def __init__(self, edges: Edges, neighbours: int) -> None:
        super().__init__()
        self.edges = edges
        self.neighbours = neighbours

    def forward(self, block: Tensor, transposed: Tensor, projected: Tensor, parameter: Tensor) -> Tensor:
        return graph_rows(block, transposed, projected, parameter, self.edges, self.neighbours)


def _emitted_rows(
    block: Tensor, transposed: Tensor, projected: Tensor, parameter: Tensor, edges: Edges, neighbours: int
) -> Tensor:
    shape = (*block.shape[:2], projected.shape[2])
    return emit_operators("GraphRows", (block, transposed, projected, parameter), {}, [shape])[0]


class _LocalFeatureIntegration(nn.Module):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(
        self,
        x: Tensor,
        input_gain: Tensor,
        input_shift: Tensor,
        template_gain: Tensor,
        template_shift: Tensor,
        mlp_gain: Tensor,
        mlp_shift: Tensor,
        query_key: Tensor,
        value: Tensor,
        templates: Tensor,
        inner: Tensor,
        inner_bias: Tensor,
        outer: Tensor,
        outer_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        norms = (input_gain, input_shift, template_gain, template_shift, mlp_gain, mlp_shift)
        weights = (*norms, query_key, value, templates, inner, inner_bias, outer, outer_bias)
        return local_feature_integration(x, weights, self.steps)


class _Regions(nn.Module):
    def __init__(self, largest: bool) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return pooled_regions(x, self.largest)


class _SecondOrderAttention(nn.Module):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value)


@lru_cache(maxsize=16)
def region_function(channels: int, *, largest: bool) -> Any:
    """Return the function of the regions of R-MAC, an ``onnx_ir.Function``, which is not to be changed."""
    name = "RegionMaxima" if largest else "RegionMeans"
    return _function(name, _Regions(largest), (torch.rand(2, channels, 9, 11),), ({0: "b", 2: "h", 3: "w"},), ())


@lru_cache(maxsize=1)
def second_order_function() -> Any:
    """Return the function of second-order attention, an ``onnx_ir.Function`` for any number of channels, which is not
    to be changed."""
    inputs = (torch.rand(2, 99, 16), torch.rand(2, 99, 16), torch.rand(2, 99, 16))
    return _function("SecondOrderAttention", _SecondOrderAttention(), inputs, ({0: "b", 1: "n", 2: "c"},) * 3, ())


def convolution_name(blocks: int) -> str:
    """Return the name of the graph convolution of so many blocks of rows: bodies differ, what they compute does not.

    TensorRT tells functions apart by their names alone.
    """
    return "GraphConvolution" if blocks == ROW_BLOCKS else f"GraphConvolution{blocks}"


def functions_of(config: NetworkConfig, row_blocks: Collection[int] = (ROW_BLOCKS,)) -> list[Any]:
    """Return an ``onnx_ir.Function`` for each operator of our own in a network; they are not to be changed.

    They depend on settings alone, not on weights. Each is traced once in a process, which takes 2 to 5 seconds.

    Args:
        config: the network.
        row_blocks: numbers of blocks of rows of its graph convolutions.
    """
    functions = []
    if config.smoothing.kind == "gaussian":
        functions.append(_smoothing(config.descriptor_dim, config.smoothing.kernel_size))
    if config.refinement is not None:
        edges, neighbours = config.refinement.edges, config.refinement.neighbours
        dim = config.refinement.dim if edges is Edges.ATTENTION else config.channels
        for blocks in dict.fromkeys(row_blocks):
            functions.append(_convolution(config.channels, edges, neighbours, dim, blocks))
    if config.lit is not None:
        functions.append(_integration(config.channels, config.lit))
    return functions + _global_functions(config.pooling, config.channels)


@lru_cache(maxsize=16)
def _smoothing(channels: int, kernel_size: int) -> Any:
    inputs = (torch.rand(2, channels, 9, 11), torch.rand(2, 1, 9, 11), torch.rand(2, 1, 9, 11))
    dynamic = ({0: "b", 2: "h", 3: "w"},) * 3
    return _function("GaussianSmoothing", _GaussianSmoothing(kernel_size), inputs, dynamic, ("kernel_size",))


@lru_cache(maxsize=16)
def _convolution(channels: int, edges: Edges, neighbours: int, dim: int, blocks: int) -> Any:
    inputs: tuple[Tensor, ...] = (torch.rand(2, 99, channels), torch.rand(channels, channels), torch.tensor(0.5))
    module = _GraphConvolution(edges, neighbours, blocks)
    if edges is Edges.ATTENTION:
        inputs = (*inputs, torch.rand(channels, dim), torch.rand(channels, dim))
        module = _AttentiveConvolution(edges, neighbours, blocks)
    dynamic: tuple[dict[int, str], ...] = ({0: "b", 1: "n"}, *({} for _ in inputs[1:]))
    rows = _graph_rows(channels, edges, neighbours, dim)
    return _function(convolution_name(blocks), module, inputs, dynamic, ("edges", "neighbours"), rows)


@lru_cache(maxsize=16)
def _integration(channels: int, lit: Lit) -> Any:
    weights = tuple(FoldedIntegration(LocalFeatureIntegration(channels, lit)).constants)
    inputs = (torch.rand(2, 99, channels), *(weight.detach() for weight in weights))
    dynamic: tuple[dict[int, str], ...] = ({0: "b", 1: "n"}, *({} for _ in weights))
    return _function("LocalFeatureIntegration", _LocalFeatureIntegration(lit.steps), inputs, dynamic, ("steps",))


def _global_functions(pooling: Pooling | None, channels: int) -> list[Any]:
    """Return the functions of a global descriptor."""
    if pooling is None:
        return []
    functions = [second_order_function()] if pooling.second_order else []
    if pooling.regional or pooling.kind == "rmac":
        functions.append(region_function(channels, largest=pooling.kind in ("mac", "rmac")))
    return functions


@lru_cache(maxsize=16)
def _graph_rows(channels: int, edges: Edges, neighbours: int, dim: int) -> Any:
    """Return the function of one block of rows; ``GraphConvolution`` has it once for each block, inlined."""
    inputs = (torch.rand(2, 9, dim), torch.rand(2, dim, 99), torch.rand(2, 99, channels), torch.tensor(0.5))
    dynamic: tuple[dict[int, str], ...] = ({0: "b", 1: "r"}, {0: "b", 2: "n"}, {0: "b", 1: "n"}, {})
    return _function("GraphRows", _GraphRows(edges, neighbours), inputs, dynamic, ())


def _function(
    name: str,
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic: tuple[dict[int, str], ...],
    attributes: Iterable[str],
    part: Any = None,
) -> Any:
    """Export ``module`` on its own and wrap its graph as a function; ``part`` is a function that it calls."""
    import onnx_ir as ir

    model = trace(module, inputs, dynamic)
    if part is not None:
        model = _inlined(model, part)
    graph = model.graph
    _constants_from_initializers(graph)
    for node in graph.all_nodes():
        node.metadata_props.clear()  # they hold the exporter's stack traces, with paths of this machine
    graph.opset_imports.clear()
    graph.opset_imports[""] = OPSET
    # The attributes describe the node to a kernel; the body has their values built in and does not refer to them.
    types = {"edges": ir.AttributeType.STRING}
    declared = [ir.Attr(attribute, types.get(attribute, ir.AttributeType.INT), None) for attribute in attributes]
    return ir.Function(DOMAIN, name, "", graph=graph, attributes=declared)


def _inlined(model: Any, function: Any) -> Any:
    import onnx.inliner
    import onnx_ir as ir

    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = 1
    return ir.from_proto(onnx.inliner.inline_local_functions(ir.to_proto(model)))


def _constants_from_initializers(graph: Any) -> None:
    """Replace initialisers by Constant nodes in front: functions have no initialisers."""
    import onnx_ir as ir

    constants = []
    for value in list(graph.initializers.values()):
        node = ir.node("Constant", [], {"value": value.const_value})
        node.outputs[0].name = value.name
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        value.replace_all_uses_with(node.outputs[0])
        constants.append(node)
    graph.initializers.clear()
    if constants:
        graph.insert_before(graph[0], constants)
