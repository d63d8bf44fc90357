"""Element types for mixed precision: which values of a graph are float32, and tensors in fp16 and bf16."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Precision

FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True, kw_only=True)
class LowType:
    """The low one of two types.

    Attributes:
        label: of its precision.
        element_type: its number in ``onnx.TensorProto.DataType``.
        largest: the largest finite number.
        opset: the first in which Conv and MaxPool take it.
    """

    label: str
    element_type: int
    largest: float
    opset: int


_LOW_TYPES = {
    Precision.FP16: LowType(label="fp16", element_type=10, largest=65504.0, opset=11),
    Precision.BF16: LowType(label="bf16", element_type=16, largest=(2 - 2**-7) * 2.0**127, opset=22),
}


def low_type(precision: Precision) -> LowType:
    """Return the low type of a mixed precision; ``ConfigError`` for other precisions."""
    if precision not in _LOW_TYPES:
        labels = " or ".join(member.label for member in _LOW_TYPES)
        raise ConfigError(f"{precision.label} is no mixed precision: give --precision {labels}")
    return _LOW_TYPES[precision]


def low_tensor(tensor: Any, low: LowType) -> Any:
    """Return a float32 ``TensorProto`` in a low type under the same name, each number rounded to the nearest.

    Raises:
        ConfigError: a number is beyond the range of the type, or is none.
    """
    import onnx
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= low.largest:
        raise ConfigError(
            f"weight {tensor.name} holds {largest:g}, but {low.label} ends at {low.largest:g}: use --precision fp32"
        )
    half = values.astype("<f2") if low.element_type == onnx.TensorProto.FLOAT16 else _bf16_bits(values).astype("<u2")
    return onnx.TensorProto(name=tensor.name, data_type=low.element_type, dims=tensor.dims, raw_data=half.tobytes())


def _bf16_bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return the upper 16 bits of finite numbers after rounding to the nearest, ties to even."""
    bits: NDArray[np.uint32] = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)


def graph_types(model: Any) -> dict[str, int]:
    """Return the element types of a model's values, by name; values of functions are not among them."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def function_types(function: Any, opsets: Iterable[Any]) -> dict[str, int]:
    """Return the element types of the values in a function's body; its inputs are float32."""
    from onnx import helper

    inputs = [helper.make_tensor_value_info(name, FLOAT, None) for name in function.input]
    graph = helper.make_graph(list(function.node), function.name, inputs, [])
    return graph_types(helper.make_model(graph, opset_imports=list(opsets)))
