"""Which nodes of a graph compute in the low type of a mixed precision, and the element types of its values.

Low are the convolutions of the trunk, the matrix products that descriptors and attention depend on, the cheap nodes
that low ones feed, and nodes that only move numbers on the way to one. All others stay fp32:

- norms, exponentials and row sums, whose small numbers vanish in fp16 and whose large ones overflow;
- the powers, means and roots of GeM: 41³ is beyond fp16, and 0.0039³ below it;
- attention, positions and scales;
- smoothing and whitening, which are less than a hundredth of the work.

The trunk's roundings decide. Least cosine of bf16, ResNet-18, two photos: how 0.9982, with a low whitening 0.9981; ctx
graph 0.9983, the same with similarities in fp32, with its other products in fp32, and with its subtraction in bf16.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        raise ConfigError(f"{precision.label} is not a mixed precision: give --precision {labels}")
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


TRUNK = "backbone."
# Whitenings, and what makes one vector of a feature map.
_HEADS = ("dim_reduction.", "global_head.")
_PRODUCTS = ("MatMul", "Gemm")
# These only move numbers.
MOVEMENT = ("Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
# Exact in any type.
EXACT = (*MOVEMENT, "MaxPool", "Relu")
_CHEAP = (*EXACT, "Add")

# Domain and name of a function to which of its inputs are low.
Interfaces = Mapping[tuple[str, str], Sequence[bool]]


class PrecisionPlan:
    """The low nodes among the nodes of a graph or of a function's body.

    Args:
        nodes: in order.
        types: element type of each value.
        results: the values whose products may be low.
        weights: names of the initialisers.
        interfaces: of the functions called.
    """

    def __init__(
        self,
        nodes: Sequence[Any],
        types: Mapping[str, int],
        results: Iterable[str],
        weights: Iterable[str],
        interfaces: Interfaces,
    ) -> None:
        self.nodes = nodes
        self.floats = {name for name, kind in types.items() if kind == FLOAT}
        self._interfaces = interfaces
        self._constants = {node.output[0] for node in nodes if node.op_type == "Constant"}.union(weights)
        self._readers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, node in enumerate(nodes):
            for position, name in enumerate(node.input):
                self._readers[name].append((i, position))
        behind = self._behind(results)
        self.low = {i for i in behind if self._is_product(nodes[i])}
        self._add_fed()
        self._add_towards()

    def takes_low(self, i: int, position: int) -> bool:
        """Return whether node ``i`` reads one of its inputs in the low type."""
        node = self.nodes[i]
        interface = self._interfaces.get((node.domain, node.op_type))
        return interface[position] if interface is not None else i in self.low and node.input[position] in self.floats

    def low_values(self) -> set[str]:
        """Return the names of what the low nodes compute."""
        return {name for i in self.low for name in self.nodes[i].output}

    def low_inputs(self, names: Iterable[str]) -> tuple[bool, ...]:
        """Return for each input of a function whether only low nodes read it: weights of products."""
        return tuple(name in self.floats and self._is_read_low(name, all) for name in names)

    def _is_product(self, node: Any) -> bool:
        if node.op_type == "Conv":
            return bool(node.input[1].startswith(TRUNK))
        whitening = any(name.startswith(_HEADS) for name in node.input)
        return node.op_type in _PRODUCTS and node.input[0] in self.floats and not whitening

    def _is_read_low(self, name: str, quantifier: Callable[[Iterable[bool]], bool]) -> bool:
        readers = self._readers[name]
        return bool(readers) and quantifier(self.takes_low(i, position) for i, position in readers)

    def _behind(self, results: Iterable[str]) -> set[int]:
        """Return the nodes that any of the results depends on."""
        values, behind = set(results), set()
        for i in reversed(range(len(self.nodes))):
            if values.intersection(self.nodes[i].output):
                values.update(self.nodes[i].input)
                behind.add(i)
        return behind

    def _add_fed(self) -> None:
        """Add the cheap nodes whose numbers all come from low nodes, constants aside."""
        values = self.low_values()
        for i, node in enumerate(self.nodes):
            computed = [name for name in node.input if name in self.floats and name not in self._constants]
            if node.op_type in _CHEAP and computed and values.issuperset(computed):
                values.add(node.output[0])
                self.low.add(i)

    def _add_towards(self) -> None:
        """Add the nodes that only move numbers and only to low nodes: one Cast goes before them, not one after each."""
        for i in reversed(range(len(self.nodes))):
            node = self.nodes[i]
            if node.op_type in MOVEMENT and node.output[0] in self.floats and self._is_read_low(node.output[0], all):
                self.low.add(i)
