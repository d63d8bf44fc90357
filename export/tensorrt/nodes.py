"""What the ONNX parsers of TensorRT and TensorRT-RTX refuse in a single node, and the tables that say so.

Nodes are looked at in the graph, in the bodies of functions, and in the branches of If and Loop.

``IMPORTED`` is what ``supports_operator`` of the parser of TensorRT-RTX 1.7.1 says yes to, of the operators of opset 20
and of those that torch's exporter writes; the parser of TensorRT 11 is of the same family. An importer may still refuse
a node: the limits below are from the parser's ``docs/operators.md`` (11.1), and those marked so were tried.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ctxdeploy.core.targets import TENSORRT_RTX, label_of

# Sizes.
LARGEST_K = 3840  # tried: 3841 parses, and fails in the build
LARGEST_TOPK_ELEMENTS = 1 << 31
OPSETS = range(9, 25)

_NAMES = (
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BlackmanWindow Cast "
    "CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace "
    "DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements "
    "GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample "
    "GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf "
    "IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul "
    "Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad "
    "Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu "
    "Reshape Resize ReverseSequence RoiAlign Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink "
    "Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh "
    "ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor"
)
IMPORTED = frozenset(_NAMES.split())
# Imported by name, and then refused.
REFUSED = {TENSORRT_RTX: frozenset({"NonZero"})}  # tried
# Of ONNX's types those that tensors may have; UINT8 only at inputs and outputs, DOUBLE is taken as FLOAT.
_TYPE_NAMES = "FLOAT FLOAT16 BFLOAT16 DOUBLE INT4 INT8 INT32 INT64 BOOL UINT8 FLOAT8E4M3FN FLOAT4E2M1 FLOAT8E8M0"
TYPES = frozenset(_TYPE_NAMES.split())
# Reductions take their axes as a constant.
CONSTANT_INPUT = {
    **{name: (1, "axes") for name in IMPORTED if name.startswith("Reduce")},
    "CumSum": (1, "axis"),
}


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A node, its attributes, and what is known of the values around it.

    Attributes:
        proto: the node.
        target: of the build.
        attributes: by name.
        constant: the array of a name in its scope, or None.
        fed: names that only the caller knows: inputs of the graph or of the function.
    """

    proto: Any
    target: str
    attributes: Mapping[str, Any]
    constant: Callable[[str], Any]
    fed: frozenset[str]

    def input(self, index: int) -> str:
        """Return the name of an input, empty where it is left out."""
        return str(self.proto.input[index]) if len(self.proto.input) > index else ""


def label(node: Any) -> str:
    """Return a node's name and operator."""
    return f"{node.name or node.output[0]} ({node.op_type})"


def node_problems(proto: Any, target: str) -> list[str]:
    """Return what the parser of a target refuses, one line for each node."""
    functions = {function.name for function in proto.functions}
    found = []
    for node in _all_nodes(proto, target):
        operator = node.proto.op_type
        if node.proto.domain not in ("", "ai.onnx"):
            if operator not in functions:
                found.append(f"{label(node.proto)} is of domain {node.proto.domain} and has no function: use --inline")
            continue
        if operator not in IMPORTED or operator in REFUSED.get(target, ()):
            found.append(f"{label(node.proto)} is not an operator of {label_of(target)}: {_instead(operator)}")
            continue
        for rule in (*_RULES.get(operator, ()), _constant_input):
            reason = rule(node)
            if reason is not None:
                found.append(f"{label(node.proto)} {reason}")
    return found


def _instead(operator: str) -> str:
    if operator == "NonZero":
        return "use --target tensorrt, or another network"
    return "use --target onnxruntime or openvino, or another network"


def _all_nodes(proto: Any, target: str) -> Iterator[_Node]:
    yield from _nodes(proto.graph, target, {}, frozenset())
    for function in proto.functions:
        yield from _scope(function.node, target, {}, frozenset(function.input))


def _nodes(graph: Any, target: str, outer: Mapping[str, Any], fed: frozenset[str]) -> Iterator[_Node]:
    tensors = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    names = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    yield from _scope(graph.node, target, tensors, fed | names)


def _scope(nodes: Any, target: str, outer: Mapping[str, Any], fed: frozenset[str]) -> Iterator[_Node]:
    from onnx import helper, numpy_helper

    tensors = dict(outer)
    for node in nodes:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t

    def constant(name: str) -> Any:
        return numpy_helper.to_array(tensors[name]) if name in tensors else None

    for node in nodes:
        attributes = {a.name: None if a.ref_attr_name else helper.get_attribute_value(a) for a in node.attribute}
        yield _Node(proto=node, target=target, attributes=attributes, constant=constant, fed=fed)
        for value in attributes.values():
            if hasattr(value, "node"):  # a branch
                yield from _nodes(value, target, tensors, fed)


def _topk(node: _Node) -> str | None:
    k = node.constant(node.input(1))
    if k is not None and int(k.reshape(-1)[0]) > LARGEST_K:
        return f"selects {int(k.reshape(-1)[0])}, and the most is {LARGEST_K}: give --top-k {LARGEST_K} or less"
    if node.attributes.get("sorted", 1) != 1:
        return "is not sorted (sorted = 0): export the graph again"
    if node.attributes.get("axis", -1) < -4:
        return "selects along an axis that is not one of the last four: export the graph again"
    return None


def _resize(node: _Node) -> str | None:
    if node.attributes.get("antialias", 0):
        return "resizes with antialias: export the graph again without it"
    if node.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return "keeps the aspect ratio: export the graph again with sizes of its own"
    if node.attributes.get("coordinate_transformation_mode", b"half_pixel") == b"tf_crop_and_resize":
        return "crops (tf_crop_and_resize): export the graph again"
    if node.input(2) in node.fed and node.input(2):
        return "takes its scales from an input: export the graph again with sizes"
    return None


def _pool(node: _Node) -> str | None:
    if any(value != 1 for value in node.attributes.get("dilations") or ()):
        return "has dilations: export the graph again without them"
    if len([name for name in node.proto.output if name]) > 1:
        return "gives indices: export the graph again without them"
    return None


def _quantised(node: _Node) -> str | None:
    point = node.constant(node.input(2)) if node.input(2) else None
    if not node.input(2):
        return None
    if point is None:
        return "has a zero point that is computed: quantise again with --precision int8"
    if str(point.dtype) == "uint8":
        return "is unsigned (uint8): quantise again with --precision int8, which is symmetric"
    if (point.astype("float32") != 0).any():
        return "has a zero point other than 0: quantise again with --precision int8, which is symmetric"
    return None


def _cast(node: _Node) -> str | None:
    from onnx import TensorProto

    kind = node.attributes.get("to")
    name = None if kind is None else TensorProto.DataType.Name(kind)
    if name is not None and name not in TYPES:
        return f"casts to {name}, which it does not support: export the graph again"
    return None


def _scatter(node: _Node) -> str | None:
    if node.target == TENSORRT_RTX and node.attributes.get("reduction", b"none") != b"none":
        return "reduces while it scatters, which needs a plugin: use --target tensorrt"
    return None


def _constant_input(node: _Node) -> str | None:
    if node.proto.op_type not in CONSTANT_INPUT:
        return None
    index, what = CONSTANT_INPUT[node.proto.op_type]
    name = node.input(index)
    if name and name in node.fed:
        return f"takes its {what} from input {name}, and they must be constant: export the graph again"
    return None


_Rule = Callable[[_Node], str | None]
_RULES: Mapping[str, tuple[_Rule, ...]] = {
    "TopK": (_topk,),
    "Resize": (_resize,),
    "AveragePool": (_pool,),
    "MaxPool": (_pool,),
    "QuantizeLinear": (_quantised,),
    "DequantizeLinear": (_quantised,),
    "Cast": (_cast,),
    "ScatterElements": (_scatter,),
}
