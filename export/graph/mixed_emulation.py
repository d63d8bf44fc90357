"""A mixed graph in fp32 arithmetic with the roundings of its low type, for CPUs that cannot run it as it is written.

ONNX Runtime's CPU has no bf16 kernels ("Could not find an implementation for Conv(22)"), and an fp16 graph it runs in
fp32 without rounding what lies between the nodes: an overflow would not be seen. OpenVINO rounds as it likes.
"""

from typing import Any

import numpy as np

from ctxdeploy.export.graph.mixed_plan import EXACT
from ctxdeploy.export.graph.mixed_types import FLOAT, graph_types

_LOW = (10, 16)  # FLOAT16 and BFLOAT16 of onnx.TensorProto


def emulated(proto: Any) -> Any:
    """Return a float32 graph that rounds what low nodes compute, and sums within one node in fp32, as GPUs do.

    Args:
        proto: ``onnx.ModelProto`` of ``to_mixed``; it is not changed.
    """
    import onnx
    import onnx.inliner

    model = onnx.ModelProto()
    model.CopyFrom(onnx.inliner.inline_local_functions(proto) if proto.functions else proto)
    types = graph_types(model)
    nodes: list[Any] = []
    for node in model.graph.node:
        _append(nodes, node, types)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for tensor in model.graph.initializer:
        _widen(tensor)
    return model


def _append(nodes: list[Any], node: Any, types: dict[str, int]) -> None:
    from onnx import helper

    name = node.output[0]
    low = types.get(name)
    if node.op_type == "Cast" and types[node.input[0]] in _LOW:
        nodes.append(helper.make_node("Identity", list(node.input), [name]))
    elif node.op_type == "Cast" and low in _LOW:
        nodes.extend(_rounding(node.input[0], name, low))
    elif node.op_type == "Constant":
        _widen(node.attribute[0].t)
        nodes.append(node)
    elif low in _LOW and node.op_type not in EXACT:
        node.output[0] = f"{name}_unrounded"
        nodes.extend((node, *_rounding(node.output[0], name, low)))
    else:
        nodes.append(node)


def _rounding(name: str, result: str, element_type: int) -> list[Any]:
    from onnx import helper

    low = f"{result}_low"
    return [
        helper.make_node("Cast", [name], [low], to=element_type),
        helper.make_node("Cast", [low], [result], to=FLOAT),
    ]


def _widen(tensor: Any) -> None:
    from onnx import numpy_helper

    if tensor.data_type in _LOW:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
