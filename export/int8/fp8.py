"""Numbers of eight bits with a floating point: E4M3, of ONNX's type FLOAT8E4M3FN.

Sign, four bits of exponent with a bias of 7, three of mantissa; no infinity, one NaN, and 448 is the largest. Rounded
is to the nearest, of two equally near ones to the even code, and what is larger becomes 448.

No CPU computes in it. ``emulated`` writes its roundings into a graph as Casts, which ONNX Runtime makes to the bit. It
cannot run the graph as it is: of a Relu before a QuantizeLinear it takes the zero point of fp8 for the least number
there is, and leaves the Relu out (1.32; descriptors of cosine 0.1).
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 448.0
_BIAS, _MANTISSA = 7, 3
_CODES = 127  # of positive numbers, 0 among them; the last code of all is NaN


@cache
def _values() -> NDArray[np.float64]:
    """Return the numbers of the codes 0 to 126, ascending."""
    codes = np.arange(_CODES)
    exponents, mantissas = codes >> _MANTISSA, codes & 7
    normal = (1 + mantissas / 8) * 2.0 ** (exponents - _BIAS)
    return np.where(exponents == 0, mantissas / 8 * 2.0 ** (1 - _BIAS), normal)


def encode(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return the codes of finite numbers, in their shape."""
    numbers, values = _values(), np.asarray(values, np.float64)
    sizes = np.minimum(np.abs(values), LARGEST)
    above = np.searchsorted(numbers, sizes).clip(1, _CODES - 1)  # of 0 the code 1, and 0 is nearer
    below = above - 1
    middles = (numbers[below] + numbers[above]) / 2
    even = np.where(below % 2 == 0, below, above)
    codes = np.where(sizes < middles, below, np.where(sizes > middles, above, even))
    found: NDArray[np.uint8] = (codes | np.where(np.signbit(values), 128, 0)).astype(np.uint8)
    return found


def decode(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the numbers of codes, in their shape; none of them may be a NaN."""
    sizes = _values()[codes & 127]
    found: NDArray[np.float64] = np.where(codes & 128, -sizes, sizes)
    return found


def emulated(proto: Any) -> Any:
    """Return a float32 graph that rounds to fp8 wherever an ``onnx.ModelProto`` has it; the model is not changed."""
    import onnx
    from onnx import numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph, float8 = model.graph, onnx.TensorProto.FLOAT8E4M3FN
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    eight = {name for name, tensor in tensors.items() if tensor.data_type == float8}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[2] not in eight:
            nodes.append(node)
        elif node.input[0] in eight:
            tensor = tensors[node.input[0]]
            codes = np.frombuffer(tensor.raw_data, np.uint8).reshape(tuple(tensor.dims))
            scale = numpy_helper.to_array(tensors[node.input[1]]).reshape(-1, *[1] * (codes.ndim - 1))
            weights = (decode(codes) * scale).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
        else:
            nodes += _casts(node, float8)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    kept = [tensor for tensor in graph.initializer if tensor.name not in eight]
    copied = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copied)
    return model


def _casts(node: Any, float8: int) -> list[Any]:
    """Return what computes a QuantizeLinear or a DequantizeLinear of fp8."""
    from onnx import TensorProto, helper

    source, scale, target, between = node.input[0], node.input[1], node.output[0], f"{node.output[0]}.scaled"
    if node.op_type == "QuantizeLinear":
        return [
            helper.make_node("Div", [source, scale], [between], f"{node.name}.div"),
            helper.make_node("Cast", [between], [target], f"{node.name}.cast", to=float8, saturate=1),
        ]
    return [
        helper.make_node("Cast", [source], [between], f"{node.name}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [between, scale], [target], f"{node.name}.mul"),
    ]
