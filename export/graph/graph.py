"""A network to one ONNX graph that holds all its scales, with our operators as local functions of standard ones.

The body of an operator is exported from the same PyTorch code that the network runs. A runtime without a kernel of ours
inlines it (ONNX Runtime and TensorRT do so themselves; ``ctxdeploy.runtime`` does it for OpenVINO). A runtime with a
kernel runs the node. TensorRT looks functions up by name alone and reads their bodies with the opset of the model:
therefore no name is that of a standard operator, and the opsets are equal.
"""

import copy
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES
from ctxdeploy.export.networks.config import Edges, NetworkConfig, Refinement
from ctxdeploy.export.networks.lit import FoldedIntegration, LocalFeatureIntegration, local_feature_integration
from ctxdeploy.export.networks.operators import DOMAIN, emit_operator, exporting
from ctxdeploy.export.networks.refinement import graph_convolution, graph_rows
from ctxdeploy.export.networks.smoothing import gaussian_smoothing

if TYPE_CHECKING:
    from ctxdeploy.export.networks.network import RetrievalNetwork


# 20 is the newest opset that ONNX Runtime, OpenVINO and TensorRT 10 and 11 all read.
OPSET = 20


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes about torchvision and its own deprecations, not its errors."""
    names = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic: Sequence[Mapping[int, str]],
    outputs: Sequence[str] | None = None,
) -> Any:
    """Export a module.

    Args:
        module: in evaluation mode.
        inputs: example inputs; their dynamic sizes must not be 0 or 1, which the tracer would take for constants.
        dynamic: for each input the names of its dynamic axes.
        outputs: names of the outputs.

    Returns:
        An ``onnx_ir.Model`` of opset ``OPSET``; its dynamic axes bear the given names.
    """
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) or None for axes in dynamic)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model
    for value, axes in zip(model.graph.inputs, dynamic, strict=True):
        _name_axes(value, axes)
    return model


def _name_axes(value: Any, axes: Mapping[int, str]) -> None:
    import onnx_ir as ir

    sizes = [axes.get(axis, size) for axis, size in enumerate(value.shape)]
    value.shape = ir.Shape(sizes)


def build_graph(network: "RetrievalNetwork", *, inline: bool = False) -> Any:
    """Return the ``onnx.ModelProto`` of a network: input and outputs as in the bundle contract, dynamic B, H and W.

    Args:
        network: in evaluation mode; it is not changed.
        inline: write the bodies of our own operators in place of the nodes.
    """
    import onnx
    import onnx.inliner
    import onnx_ir as ir

    network = copy.deepcopy(network)
    network.fold()
    # Two cells at least at the smallest scale: the tracer would take a size of 1 for a constant.
    side = max(212, math.ceil(3 * network.config.stride / min(network.extraction.scales)))
    image = torch.zeros(2, side, side + 88, 3, dtype=torch.uint8)
    with exporting():
        model = trace(network, (image,), ({0: "batch", 1: "height", 2: "width"},), OUTPUT_NAMES)
    model.graph.inputs[0].name = INPUT_NAME
    _declare_outputs(model.graph.outputs, network)
    for function in functions_of(network.config):
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1
    model.producer_name, model.producer_version = "ctxdeploy", None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    proto = ir.to_proto(model)
    # Shapes of intermediate values are the tracer's symbols; every runtime infers its own. Those of a function's body
    # would be inlined once per scale under one name, and ONNX Runtime would reuse a buffer of another scale's size.
    for holder in (proto.graph, *proto.functions):
        del holder.value_info[:]
    if inline:
        proto = onnx.inliner.inline_local_functions(proto)
    onnx.checker.check_model(proto, full_check=False)
    return proto


def _declare_outputs(values: Any, network: "RetrievalNetwork") -> None:
    import onnx_ir as ir

    k, d = network.extraction.top_k, network.config.descriptor_dim
    shapes: list[list[int | str]] = [["batch", k, d], ["batch", k], ["batch", k, 2], ["batch", k]]
    for value, shape in zip(values, shapes, strict=True):
        value.shape = ir.Shape(shape)


def save_graph(proto: Any, path: Path) -> None:
    """Write a graph as one file."""
    import onnx

    onnx.save_model(proto, path)


class _GaussianSmoothing(nn.Module):
    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor, bandwidth: Tensor, confidence: Tensor) -> Tensor:
        return gaussian_smoothing(x, bandwidth, confidence, self.kernel_size)


class _GraphConvolution(nn.Module):
    def __init__(self, edges: Edges, neighbours: int) -> None:
        super().__init__()
        self.edges = edges
        self.neighbours = neighbours

    def forward(self, x: Tensor, weight: Tensor, parameter: Tensor) -> Tensor:
        return graph_convolution(x, weight, parameter, self.edges, self.neighbours, _emitted_rows)


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
    return emit_operator("GraphRows", (block, transposed, projected, parameter), {}, like=block)


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


def functions_of(config: NetworkConfig) -> list[Any]:
    """Return an ``onnx_ir.Function`` for each operator of our own in a network."""
    functions = []
    channels = config.channels
    if config.smoothing.kind == "gaussian":
        size = (2, channels, 9, 11)
        inputs: tuple[Tensor, ...] = (torch.rand(size), torch.rand(2, 1, 9, 11), torch.rand(2, 1, 9, 11))
        dynamic: tuple[dict[int, str], ...] = ({0: "b", 2: "h", 3: "w"},) * 3
        module: nn.Module = _GaussianSmoothing(config.smoothing.kernel_size)
        functions.append(_function("GaussianSmoothing", module, inputs, dynamic, ("kernel_size",)))
    if config.refinement is not None:
        inputs = (torch.rand(2, 99, channels), torch.rand(channels, channels), torch.tensor(0.5))
        dynamic = ({0: "b", 1: "n"}, {}, {})
        module = _GraphConvolution(config.refinement.edges, config.refinement.neighbours)
        rows = _graph_rows(config.refinement, channels)
        functions.append(_function("GraphConvolution", module, inputs, dynamic, ("edges", "neighbours"), rows))
    if config.lit is not None:
        weights = tuple(FoldedIntegration(LocalFeatureIntegration(channels, config.lit)).constants)
        inputs = (torch.rand(2, 99, channels), *(weight.detach() for weight in weights))
        dynamic = ({0: "b", 1: "n"}, *({} for _ in weights))
        module = _LocalFeatureIntegration(config.lit.steps)
        functions.append(_function("LocalFeatureIntegration", module, inputs, dynamic, ("steps",)))
    return functions


def _graph_rows(refinement: Refinement, channels: int) -> Any:
    """Return the function of one block of rows; ``GraphConvolution`` has it once for each block, inlined."""
    inputs = (torch.rand(2, 9, channels), torch.rand(2, channels, 99), torch.rand(2, 99, channels), torch.tensor(0.5))
    dynamic: tuple[dict[int, str], ...] = ({0: "b", 1: "r"}, {0: "b", 2: "n"}, {0: "b", 1: "n"}, {})
    return _function("GraphRows", _GraphRows(refinement.edges, refinement.neighbours), inputs, dynamic, ())


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
