"""What a graph's tensors are: which layer and scale each belongs to, and which of two graphs' tensors are the same."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require

INPUT, SIZES, SELECTION = UNWEIGHTED = "input", "sizes", "all scales"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# A weight passes through these on its way to its layer: quantised, in another precision, or laid out differently.
_CARRIERS = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Transpose")
_EXPOSED = "__compared"
_INLINED = re.compile(r"__(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A floating-point value of a graph.

    Attributes:
        name: of the value.
        layer: the weight of the nearest convolution or matrix product before it, such as
            ``backbone.layer1.0.conv1``; ``input``, ``sizes`` or ``all scales`` where there is none or more than one.
        op: operator that makes it.
        scale: number of the image scale, None outside of them.
        occurrence: how many values of this layer and operator come before it.
    """

    name: str
    layer: str
    op: str
    scale: int | None
    occurrence: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the value in a graph whose values have other names."""
        return self.layer, self.op, self.occurrence


class Graph:
    """An ONNX file with its local functions in place.

    Attributes:
        tensors: that can be compared, by name, in the order of the graph: floating-point ones before the selection of
            the strongest positions, whose rows may be in another order.
        inputs: names of the values that each value is made from.
        scales: number of image scales.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``, the lowest in the file.
        selects: whether it has the four outputs of a bundle's graph.

    Raises:
        ConfigError: the file is not an ONNX graph, or takes no image.
    """

    def __init__(self, path: Path) -> None:
        onnx = require("onnx", "cpu")
        try:
            proto = onnx.load(str(path))
            if proto.functions:
                proto = require("onnx.inliner", "cpu").inline_local_functions(proto)
            inferred = onnx.shape_inference.infer_shapes(proto).graph
        except Exception as error:  # protobuf's and onnx's classes share no base but Exception
            raise ConfigError(f"{path} is not an ONNX graph: {error}") from error
        self._proto, self._onnx = proto, onnx
        if INPUT_NAME not in {value.name for value in proto.graph.input}:
            raise ConfigError(f"{path} has no input {INPUT_NAME!r}: give a graph made by  ctxdeploy export")
        self._types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*inferred.value_info, *inferred.output, *inferred.input)
        }
        self.inputs = {output: tuple(node.input) for node in proto.graph.node for output in node.output}
        self.selects = {value.name for value in proto.graph.output} >= set(OUTPUT_NAMES)
        self.precision = self._precision()
        layers, self.scales = _layers(proto.graph)
        self.tensors = self._tensors(layers)

    def exposing(self, names: Sequence[str], *, shapes: bool = False) -> bytes:
        """Return the serialised graph with these values, as fp32, for outputs; with ``shapes`` their shapes instead."""
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        graph = self._proto.graph
        nodes, outputs = len(graph.node), list(graph.output)
        del graph.output[:]
        for name in names:
            exposed, kind = name, float32
            if shapes or self._types[name] != float32:
                exposed = f"{name}{_EXPOSED}"
                kind = self._onnx.TensorProto.INT64 if shapes else float32
                node = helper.make_node("Shape" if shapes else "Cast", [name], [exposed])
                if not shapes:
                    node.attribute.append(helper.make_attribute("to", float32))
                graph.node.append(node)
            graph.output.append(helper.make_tensor_value_info(exposed, kind, None))
        serialised: bytes = self._proto.SerializeToString()
        del graph.node[nodes:], graph.output[:]
        graph.output.extend(outputs)
        return serialised

    def _precision(self) -> str:
        types = set(self._types.values())
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in self._proto.graph.node):
            return "fp8" if self._onnx.TensorProto.FLOAT8E4M3FN in types else "int8"
        for label, name in (("bf16", "BFLOAT16"), ("fp16", "FLOAT16")):
            if getattr(self._onnx.TensorProto, name) in types:
                return label
        return "fp32"

    def _tensors(self, layers: Mapping[str, tuple[str, int | None]]) -> dict[str, Tensor]:
        kinds = self._onnx.TensorProto
        floats = (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)
        selected = _after_selection(self._proto.graph)
        seen: Counter[tuple[str, str]] = Counter()
        tensors = {}
        for node in self._proto.graph.node:
            for name in node.output:
                if node.op_type == "Constant" or self._types.get(name) not in floats or name in selected:
                    continue
                layer, scale = layers[name]
                occurrence = seen[layer, node.op_type]
                seen[layer, node.op_type] += 1
                tensors[name] = Tensor(name=name, layer=layer, op=node.op_type, scale=scale, occurrence=occurrence)
        return tensors


def match(a: Graph, b: Graph) -> dict[str, str]:
    """Return which value of ``b`` each value of ``a`` is: of the same name and layer, else of the same key.

    Names survive casts and quantisation: what is compared is the layer's own result, before they round it.
    """
    pairs = {
        name: name for name, tensor in a.tensors.items() if name in b.tensors and b.tensors[name].layer == tensor.layer
    }
    keys = {tensor.key: name for name, tensor in b.tensors.items() if name not in pairs}
    for name, tensor in a.tensors.items():
        if name not in pairs and tensor.layer not in UNWEIGHTED and tensor.key in keys:
            pairs[name] = keys[tensor.key]
    return {name: pairs[name] for name in a.tensors if name in pairs}


def _layers(graph: Any) -> tuple[dict[str, tuple[str, int | None]], int]:
    """Return layer and scale of every value, and the number of scales.

    The first convolution runs once for every scale: each run begins one, and what is made from it belongs to it.
    """
    weights = _weights(graph)
    calls = _calls(graph, weights)
    first = next(iter(weights.values()), None)
    position: dict[str, int] = {}
    layers: dict[str, str] = {INPUT_NAME: INPUT}
    scales: dict[str, frozenset[int]] = {}
    begun = 0
    for index, node in enumerate(graph.node):
        scale = frozenset[int]().union(*(scales.get(name, ()) for name in node.input))
        layer = weights.get(index) or calls.get(_call(node))
        if layer is not None and layer == first:
            scale, begun = frozenset((begun,)), begun + 1
        if len(scale) > 1:
            layer = SELECTION
        elif layer is None:
            layer = SIZES if node.op_type in ("Shape", "Size") else _inherited(node.input, layers, position)
        for name in node.output:
            position[name], layers[name], scales[name] = index, layer, scale
    _add_earlier_scales(graph, scales)
    found = {name: (layers[name], next(iter(scales[name])) if len(scales[name]) == 1 else None) for name in scales}
    return found, begun


def _inherited(names: Iterable[str], layers: Mapping[str, str], position: Mapping[str, int]) -> str:
    """Return the layer of the input that was made last; sizes and constants count where there is nothing else."""
    made = [name for name in names if layers.get(name, SIZES) != SIZES]
    return layers[max(made, key=lambda name: position.get(name, -1))] if made else SIZES


def _add_earlier_scales(graph: Any, scales: dict[str, frozenset[int]]) -> None:
    """Give what is made before the first convolution to the one scale that uses it."""
    users: dict[str, frozenset[int]] = {}
    for node in reversed(graph.node):
        for name in node.output:
            if not scales[name] and len(users.get(name, ())) == 1:
                scales[name] = users[name]
        used = frozenset[int]().union(*(scales[name] or users.get(name, ()) for name in node.output))
        for name in node.input:
            users[name] = users.get(name, frozenset()) | used


def _weights(graph: Any) -> dict[int, str]:
    """Return the name of the weight, without ``.weight`` and what follows, by index of its node."""
    initialisers = {value.name for value in graph.initializer if len(value.dims) >= 2}
    carried = {node.output[0]: node.input[0] for node in graph.node if node.op_type in _CARRIERS}
    found = {}
    for index, node in enumerate(graph.node):
        for name in node.input if node.op_type in _WEIGHTED else ():
            while name in carried:
                name = carried[name]
            if name in initialisers:
                found[index] = name.partition(".weight")[0]
    return found


def _calls(graph: Any, weights: Mapping[int, str]) -> dict[str, str]:
    """Return the weight of each call of a local function that has one: what is in the body belongs to it."""
    found: dict[str, set[str]] = {}
    for index, layer in weights.items():
        found.setdefault(_call(graph.node[index]), set()).add(layer)
    return {call: next(iter(layers)) for call, layers in found.items() if call and len(layers) == 1}


def _call(node: Any) -> str:
    """Return the number that the inliner appended to the values of one call, or nothing."""
    numbers = (_INLINED.search(name) for name in (*node.output, *node.input))
    return next((number.group(1) for number in numbers if number), "")


def _after_selection(graph: Any) -> set[str]:
    """Return the values that depend on the last TopK, which selects the positions of all scales."""
    last = max((index for index, node in enumerate(graph.node) if node.op_type == "TopK"), default=len(graph.node))
    found: set[str] = set()
    for node in graph.node[last:]:
        if node is graph.node[last] or found.intersection(node.input):
            found.update(node.output)
    return found
