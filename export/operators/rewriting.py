"""Graphs that ask TensorRT for a kernel of ours: bodies of functions in which one node stands for what it computes.

The parser takes a plug-in for a node that has the attribute ``plugin_namespace``; so only a graph that was rewritten
gets one, and the function's own body stays what everything else runs.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require

NAMESPACE = "ctxdeploy"
NODE = "GraphAttention"
GRAPH_ATTENTION = "graph-attention"
KERNELS = (GRAPH_ATTENTION,)
# As in the network (``networks/refinement.py``): norms below are of positions without any activation; values are
# shrunk so that their sums fit into fp16.
TINY, SHRINK = 1e-12, 2.0**-8
# Wider queries and keys would be read in parts: the kernel holds those of its rows.
LARGEST_DIM = 128
_FUNCTION = "GraphConvolution"


def with_kernels(proto: Any, kernels: Iterable[str], extra: str) -> Any:
    """Return a graph whose functions call kernels of ours in place of what these compute.

    Args:
        proto: the ``onnx.ModelProto`` of a bundle, its functions not inlined; it is not changed.
        kernels: names out of ``KERNELS``.
        extra: of ctxdeploy that installs onnx, for the message.

    Raises:
        ConfigError: there is no such kernel, or nothing in the graph that it could compute.
    """
    onnx = require("onnx", extra)
    unknown = sorted(set(kernels) - set(KERNELS))
    if unknown:
        raise ConfigError(f"there is no kernel {', '.join(unknown)}, only {', '.join(KERNELS)} (--kernel)")
    model = onnx.ModelProto.FromString(proto.SerializeToString())
    calls = {node.op_type: node for node in model.graph.node if _is_attentive(onnx, model, node)}
    if not calls:
        raise ConfigError(
            f"--kernel {GRAPH_ATTENTION}: the graph has no graph convolution with edges of attention, and queries of "
            f"{LARGEST_DIM} dimensions at most, as a function: leave it out, or export again without --inline"
        )
    for function in model.functions:
        if function.name in calls:
            _write_body(onnx, function, _types(model, calls[function.name]))
    model.opset_import.append(onnx.helper.make_opsetid(NAMESPACE, 1))
    return model


def _is_attentive(onnx: Any, model: Any, node: Any) -> bool:
    """Return whether a node is a call of a graph convolution that the kernel can compute."""
    if not node.op_type.startswith(_FUNCTION) or node.op_type not in {function.name for function in model.functions}:
        return False
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    query = next((tensor for tensor in model.graph.initializer if tensor.name == node.input[-2]), None)
    return given.get("edges") == b"attention" and query is not None and query.dims[1] <= LARGEST_DIM


def _types(model: Any, call: Any) -> int:
    """Return the element type in which a call's weights are stored: that of its products."""
    (kind,) = {tensor.data_type for tensor in model.graph.initializer if tensor.name in (call.input[1], call.input[3])}
    return int(kind)


def _write_body(onnx: Any, function: Any, kind: int) -> None:
    """Replace the body of a graph convolution by its projections, in a type, and one node of ours."""
    helper = onnx.helper
    x, weight, parameter, query, key = function.input
    constants = {
        "last": np.array([2], np.int64),
        "tiny": np.array(TINY, np.float32),
        "shrink": np.array(SHRINK, np.float32),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value, name))
        for name, value in constants.items()
    ]
    nodes += [
        helper.make_node("ReduceL2", [x, "last"], ["norm"], keepdims=1),
        helper.make_node("Clip", ["norm", "tiny"], ["length"]),
        helper.make_node("Div", [x, "length"], ["unit"]),
        helper.make_node("Mul", [x, "shrink"], ["shrunk"]),
    ]
    unit, shrunk = "unit", "shrunk"
    if kind != onnx.TensorProto.FLOAT:
        unit, shrunk = "unit_low", "shrunk_low"
        nodes += [
            helper.make_node("Cast", ["unit"], [unit], to=kind),
            helper.make_node("Cast", ["shrunk"], [shrunk], to=kind),
        ]
    nodes += [
        helper.make_node("MatMul", [unit, query], ["queries"]),
        helper.make_node("MatMul", [unit, key], ["keys"]),
        helper.make_node("MatMul", [shrunk, weight], ["values"]),
    ]
    # The parser finds the plug-in by name, version and namespace.
    inputs = [x, "queries", "keys", "values", parameter]
    node = helper.make_node(NODE, inputs, [function.output[0]], domain=NAMESPACE)
    node.attribute.append(helper.make_attribute("plugin_namespace", NAMESPACE))
    node.attribute.append(helper.make_attribute("plugin_version", "1"))
    del function.node[:]
    function.node.extend([*nodes, node])
    function.opset_import.append(helper.make_opsetid(NAMESPACE, 1))
