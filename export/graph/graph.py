"""A network to one ONNX graph that holds all its scales, with our operators as local functions of standard ones.

The body of an operator is exported from the same PyTorch code that the network runs. A runtime without a kernel of ours
inlines it (ONNX Runtime and TensorRT do so themselves; ``ctxdeploy.runtime`` does it for OpenVINO). A runtime with a
kernel runs the node. TensorRT looks functions up by name alone and reads their bodies with the opset of the model:
therefore no name is that of a standard operator, and the opsets are equal.
"""

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ctxdeploy.core.bundle import INPUT_NAME, output_shapes
from ctxdeploy.export.graph.functions import convolution_name, functions_of
from ctxdeploy.export.graph.tracing import trace
from ctxdeploy.export.networks.operators import DOMAIN, exporting
from ctxdeploy.export.networks.refinement import row_blocks

if TYPE_CHECKING:
    from ctxdeploy.export.networks.network import DescriptorNetwork


def build_graph(network: "DescriptorNetwork", *, inline: bool = False) -> Any:
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
    side = max(212, math.ceil(3 * network.config.stride / min(network.extraction.pyramid)))
    image = torch.zeros(2, side, side + 88, 3, dtype=torch.uint8)
    with exporting():
        model = trace(network, (image,), ({0: "batch", 1: "height", 2: "width"},), network.extraction.outputs)
    model.graph.inputs[0].name = INPUT_NAME
    _declare_outputs(model.graph.outputs, network)
    for function in functions_of(network.config, _set_row_blocks(model.graph, network)):
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


def _set_row_blocks(graph: Any, network: "DescriptorNetwork") -> list[int]:
    """Name the graph convolutions after the blocks of rows that their scale needs, and return these numbers."""
    refinement = network.config.refinement
    if refinement is None:
        return []
    blocks = [row_blocks(network.config.stride, scale) for scale in network.extraction.scales]
    calls = [node for node in graph.all_nodes() if (node.domain, node.op_type) == (DOMAIN, "GraphConvolution")]
    # They stand in the order of the forward pass: scale by scale, and of a scale one after the other.
    for node, count in zip(calls, [count for count in blocks for _ in range(refinement.blocks)], strict=True):
        node.op_type = convolution_name(count)
    return blocks


def _declare_outputs(values: Any, network: "DescriptorNetwork") -> None:
    import onnx_ir as ir

    for value, shape in zip(values, output_shapes(network.extraction).values(), strict=True):
        value.shape = ir.Shape(["batch", *shape])


def save_graph(proto: Any, path: Path) -> None:
    """Write a graph as one file."""
    import onnx

    onnx.save_model(proto, path)
