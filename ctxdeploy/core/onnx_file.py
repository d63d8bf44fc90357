"""An ONNX file, looked through before any engine reads it: weights in other files, and nodes that end nowhere.

The file is read as protocol buffers are written, without the package ``onnx``, which not every installation has.
Numbers of fields are those of ``onnx.proto``, which never change.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ctxdeploy.core.errors import BundleError
from ctxdeploy.core.protobuf import fields, varints
from ctxdeploy.core.text import printable

# Which fields of a message hold messages that are looked into.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DATA_TYPE, _INT64, _INT64_DATA, _TENSOR_NAME, _RAW, _EXTERNAL, _LOCATION = 2, 7, 7, 8, 9, 13, 14
_INPUT, _OUTPUT, _OP, _NODE_DOMAIN, _FUNCTION_DOMAIN, _INTS = 1, 2, 4, 7, 10, 8
# The standard operators of graphs that are written here, by any version of PyTorch's exporter, each of which computes
# its outputs in one pass. Others, such as Loop, Scan and If, run graphs of their own, as often as they like.
_OPERATORS = re.compile(
    "Abs|Add|And|ArgMax|ArgMin|AveragePool|BatchNormalization|Cast|CastLike|Ceil|Clip|Concat|Constant"
    "|ConstantOfShape|Conv|CumSum|DequantizeLinear|Div|Einsum|Equal|Erf|Exp|Expand|Flatten|Floor|Gather"
    "|GatherElements|GatherND|Gelu|Gemm|GlobalAveragePool|GlobalMaxPool|Greater|GreaterOrEqual|HardSigmoid"
    "|HardSwish|Identity|InstanceNormalization|LayerNormalization|LeakyRelu|Less|LessOrEqual|Log|LogSoftmax"
    "|LpNormalization|MatMul|Max|MaxPool|Mean|Min|Mod|Mul|Neg|Not|Or|PRelu|Pad|Pow|QuantizeLinear|Range|Reciprocal"
    "|ReduceL1|ReduceL2|ReduceMax|ReduceMean|ReduceMin|ReduceProd|ReduceSum|ReduceSumSquare|Relu|Reshape|Resize"
    "|Round|ScatterElements|ScatterND|Shape|Sigmoid|Sign|Size|Slice|Softmax|Softplus|Split|Sqrt|Squeeze|Sub|Sum"
    "|Tanh|Tile|TopK|Transpose|Unsqueeze|Where"
)
_STANDARD, _OURS = ("", "ai.onnx"), "ctx"
# Operators that make a tensor of the shape that their last input says, and the most numbers that a file may ask for
# beside the photo's size: 1 GB. K descriptors of a batch of 64 take 0.3 at most.
_MAKERS = ("ConstantOfShape", "Expand", "Resize", "Tile")
_MAX_NUMBERS = 1 << 28
_MAX_RANK = 16
# Graphs written here reckon sizes with at most 65,536 (K), and slice to the end with the largest number there is.
_LARGEST, _TO_THE_END = 1 << 20, 1 << 62
_MAX_DEPTH = 8
# Texts and shapes are shorter; weights are passed over.
_SHORT = 4096


@dataclass(frozen=True, eq=False)
class _Message:
    """What a message says by itself: numbers and texts by field; of a tensor also its shape-like constant."""

    values: dict[int, list[int | bytes]] = field(default_factory=dict)
    constants: list[tuple[int, ...]] = field(default_factory=list)

    def text(self, number: int) -> str:
        """Return a field as text; a later one replaces an earlier one, as in any reader of protocol buffers."""
        found = self.values.get(number, [b""])[-1]
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def check_onnx(path: Path) -> None:
    """Look through the ONNX file of a bundle.

    Raises:
        BundleError: it is none; it takes weights from another file, which no hash of the bundle covers; or it has nodes
            that no graph written here has, or asks for a tensor of more than 2²⁸ numbers whatever the photo.
    """
    data = path.read_bytes()
    try:
        if not data:
            raise ValueError("empty")
        _Check(path).message(memoryview(data), "model", 0)
    except (ValueError, IndexError, OverflowError) as error:
        raise BundleError(f"{path} is not an ONNX graph, or is damaged: export the bundle anew") from error


class _Check:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._constants: dict[bytes, tuple[int, ...]] = {}
        self._in_function = False

    def message(self, data: memoryview, kind: str, depth: int) -> _Message:
        """Look through a message and those in it."""
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        if kind == "function":
            self._in_function = True
        found, later = _read(data, _INSIDE[kind])
        # Constants come before the nodes that use them.
        for what, part in sorted(later, key=lambda entry: entry[0] == "node"):
            if what == "graph" and kind == "attribute":
                self._refuse("has a graph within a node")
            found.constants.extend(self.message(part, what, depth + 1).constants)
        if kind == "tensor":
            self._tensor(found)
        elif kind == "attribute" and _INTS in found.values:
            found.constants.append(_numbers(found.values[_INTS]))
        elif kind == "node":
            self._node(found)
        elif kind == "function":
            self._in_function = False
            if found.text(_FUNCTION_DOMAIN) != _OURS:
                self._refuse(f"has a function of the domain {printable(found.text(_FUNCTION_DOMAIN))[:40]!r}")
        return found

    def _tensor(self, tensor: _Message) -> None:
        if _EXTERNAL in tensor.values or any(tensor.values.get(_LOCATION, [])):
            self._refuse("takes weights from another file, which the hashes of the bundle do not cover")
        if tensor.values.get(_DATA_TYPE, [0])[-1] != _INT64:
            return
        numbers = _integers(tensor)
        if len(numbers) <= _MAX_RANK:
            for number in numbers:
                if _LARGEST < abs(number) < _TO_THE_END:
                    self._refuse(f"reckons sizes with {number}, which no graph of ctxdeploy does")
            self._constants[tensor.text(_TENSOR_NAME).encode()] = numbers
            tensor.constants.append(numbers)

    def _node(self, node: _Message) -> None:
        operator, domain = node.text(_OP), node.text(_NODE_DOMAIN)
        known = (
            _OPERATORS.fullmatch(operator) is not None
            if domain in _STANDARD
            else domain == _OURS and not self._in_function
        )
        if not known:
            full = f"{domain}.{operator}" if domain else operator
            self._refuse(f"has a node {printable(full)[:80]}, which no graph of ctxdeploy has")
        outputs = node.values.get(_OUTPUT, [])
        if operator == "Constant" and node.constants and isinstance(outputs[0], bytes):
            self._constants[outputs[0]] = node.constants[0]
        inputs = node.values.get(_INPUT, [])
        if operator in _MAKERS and inputs and isinstance(inputs[-1], bytes):
            shape = self._constants.get(inputs[-1], ())
            if math.prod(max(side, 1) for side in shape) > _MAX_NUMBERS:
                self._refuse(f"makes a tensor of the shape {list(shape)}")

    def _refuse(self, what: str) -> None:
        raise BundleError(f"{self._path} {what}: it is not run; export the bundle anew")


def _read(data: memoryview, inside: Mapping[int, str]) -> tuple[_Message, list[tuple[str, memoryview]]]:
    """Return what a message says by itself, and the messages in it with their kinds."""
    found, later = _Message(), []
    for number, value in fields(data):
        if isinstance(value, int):
            found.values.setdefault(number, []).append(value)
        elif number in inside:
            later.append((inside[number], value))
        elif number == _EXTERNAL or len(value) <= _SHORT:
            found.values.setdefault(number, []).append(bytes(value[:_SHORT]))
    return found, later


def _integers(tensor: _Message) -> tuple[int, ...]:
    """Return the numbers of a small tensor of int64, in either of its forms."""
    raw = b"".join(part for part in tensor.values.get(_RAW, []) if isinstance(part, bytes))
    if raw:
        return tuple(int.from_bytes(raw[i : i + 8], "little", signed=True) for i in range(0, len(raw), 8))
    return _numbers(tensor.values.get(_INT64_DATA, []))


def _numbers(parts: list[int | bytes]) -> tuple[int, ...]:
    """Return the signed numbers of a field, packed or one by one."""
    numbers: list[int] = []
    for part in parts:
        numbers += [part] if isinstance(part, int) else list(varints(memoryview(part)))
    return tuple(number - (1 << 64) if number >> 63 else number for number in numbers)
