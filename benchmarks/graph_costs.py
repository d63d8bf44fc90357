"""What the nodes of an ONNX graph cost on a GPU, on paper: operations, bytes, kernels, and the time that is the least.

Nothing is run. The sizes in our graphs depend on the photo through nodes that compute them; ``with_sizes`` fixes the
photo, and evaluates those nodes until every value has a shape.

Three ways to run a graph are counted:

- ``separate``: every node is a kernel that reads its inputs from memory and writes its outputs to it;
- ``fused``: neighbouring nodes that work element by element are one kernel, and belong to the convolution before them
  where nothing else reads what it returns. Compilers of graphs do at least that;
- ``single``: each call of an operator of our own is one kernel that reads its inputs once and writes its output once.

Operators of our own are told apart by the names of their nodes: ``named`` gives them to the bodies before they are
inlined.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Bytes of an element, by number of ``onnx.TensorProto.DataType``.
_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}
_FP32 = 1
_LAYOUT = ("Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze")
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_NAMES = "Add Cast Clip Div Equal Exp Expand Greater Less Max Min Mul Neg Pow Relu Sigmoid Softplus Sqrt Sub Where"
POINTWISE = frozenset(_NAMES.split())
# What reads only as much as it writes.
_PARTS = ("Gather", "GatherElements", "GatherND", "Slice", "Split")
_CALL = re.compile(r"^(\w+)/\d+(__\d+)?")
# Rounds of shape inference; each of our graphs needs less than ten.
_ROUNDS = 40
# Constants of no more numbers than this may be sizes.
_SIZES = 64


@dataclass(frozen=True, kw_only=True)
class Device:
    """Limits of a GPU.

    Attributes:
        bandwidth: of its memory, bytes a second.
        low: products of fp16 or bf16, operations a second.
        full: of fp32.
        launch: seconds from one small kernel to the next.
    """

    bandwidth: float
    low: float
    full: float
    launch: float


H200 = Device(bandwidth=4.8e12, low=989e12, full=67e12, launch=3e-6)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What is launched once.

    Attributes:
        call: of an operator of our own that it belongs to, such as ``GraphConvolution__3``; empty for others.
        low: operations of products in fp16 or bf16.
        full: of products in fp32.
        read: bytes.
        written: bytes.
        label: operators in it.
    """

    call: str
    low: float
    full: float
    read: float
    written: float
    label: str

    def seconds(self, device: Device) -> float:
        """Return the least time: of its products, or of its bytes."""
        return max(self.low / device.low + self.full / device.full, (self.read + self.written) / device.bandwidth)


def named(model: Any) -> Any:
    """Return a copy of a model with local functions in place, whose nodes' names say which they come from."""
    import onnx
    import onnx.inliner

    model = _without_weights(onnx, model)
    for function in model.functions:
        for i, node in enumerate(function.node):
            node.name = f"{function.name}/{i}"
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _without_weights(onnx: Any, model: Any) -> Any:
    """Return a copy of a model that keeps the shapes of its large weights alone."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if math.prod(tensor.dims) > _SIZES:
            tensor.ClearField("raw_data")
    return made


class SizedGraph:
    """A graph for one shape of its input.

    Attributes:
        nodes: in order.
        shapes: of each value.
        types: element type of each value.
        constants: values that do not depend on pixels, such as sizes.
        outputs: names of the graph's outputs.
    """

    def __init__(self, model: Any, shape: Sequence[int]) -> None:
        import onnx

        model = onnx.ModelProto.FromString(model.SerializeToString())
        for size, axis in zip(shape, model.graph.input[0].type.tensor_type.shape.dim, strict=True):
            axis.dim_value = size
        self.nodes = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        self.shapes: dict[str, tuple[int, ...]] = dict(self.weights)
        self.constants: dict[str, Any] = {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if math.prod(tensor.dims) <= _SIZES
        }
        self._fill(model)
        missing = [name for node in self.nodes for name in node.output if name and name not in self.shapes]
        if missing:
            raise ValueError(f"no shape was found for {len(missing)} values, the first is {missing[0]}")

    def _fill(self, model: Any) -> None:
        """Infer shapes and evaluate sizes in turns, until nothing is added."""
        import onnx

        for _ in range(_ROUNDS):
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
            for value in (*graph.input, *graph.value_info, *graph.output):
                kind = value.type.tensor_type
                self.types[value.name] = kind.elem_type
                sizes = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in kind.shape.dim]
                if kind.HasField("shape") and min(sizes, default=0) >= 0:
                    self.shapes[value.name] = tuple(sizes)
            if not self._evaluate(model):
                return

    def _evaluate(self, model: Any) -> bool:
        """Replace nodes whose inputs are all known by constants; return whether there were any."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        found = False
        kept = []
        for node in model.graph.node:
            result = None
            if node.op_type == "Shape" and node.input[0] in self.shapes and not node.attribute:
                result = np.array(self.shapes[node.input[0]], np.int64)
            elif node.op_type == "Shape" and node.input[0] in self.shapes:
                begin, end = (next((a.i for a in node.attribute if a.name == n), None) for n in ("start", "end"))
                result = np.array(self.shapes[node.input[0]][begin:end], np.int64)
            elif node.op_type != "Split" and all(name in self.constants for name in node.input if name):
                given = {name: self.constants[name] for name in node.input if name}
                (result,) = ReferenceEvaluator(node).run(None, given)
            if result is None or np.size(result) > _SIZES:
                kept.append(node)
                continue
            found = True
            name = node.output[0]
            self.constants[name] = np.asarray(result)
            self.shapes[name] = np.shape(result)
            self.types[name] = onnx.helper.np_dtype_to_tensor_dtype(np.asarray(result).dtype)
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(result), name))
        del model.graph.node[:]
        model.graph.node.extend(kept)
        return found

    def size(self, name: str) -> float:
        """Return the bytes of a value."""
        return float(math.prod(self.shapes[name]) * _BYTES[self.types[name]])

    def operations(self, node: Any) -> float:
        """Return two for each multiply-add of a product; 0 for other nodes."""
        if node.op_type not in _PRODUCTS:
            return 0.0
        result = 2.0 * math.prod(self.shapes[node.output[0]])
        if node.op_type == "Conv":
            return result * math.prod(self.shapes[node.input[1]][1:])
        return result * self.shapes[node.input[0]][-1]

    def computed(self) -> list[Any]:
        """Return the nodes that a kernel runs: those that touch pixels, and do not just look at them otherwise."""
        return [n for n in self.nodes if n.op_type not in _LAYOUT and n.output[0] not in self.constants]


def separate(graph: SizedGraph) -> list[Kernel]:
    """Return a kernel for every node."""
    readers = _Readers(graph)
    return [_kernel(graph, [node], readers) for node in graph.computed()]


def fused(graph: SizedGraph) -> list[Kernel]:
    """Return the kernels where neighbouring nodes that work element by element are one."""
    readers = _Readers(graph)
    return [_kernel(graph, nodes, readers) for nodes in _groups(graph, readers)]


def single(graph: SizedGraph, kernels: Iterable[Kernel]) -> list[Kernel]:
    """Return kernels with those of each call of an operator of our own replaced by one."""
    readers = _Readers(graph)
    calls: dict[str, list[Any]] = defaultdict(list)
    for node in graph.computed():
        calls[call_of(node)].append(node)
    calls.pop("", None)
    return [k for k in kernels if not k.call] + [_kernel(graph, nodes, readers) for nodes in calls.values()]


def call_of(node: Any) -> str:
    """Return the call of an operator of our own that a node belongs to, or nothing."""
    found = _CALL.match(node.name)
    return "" if found is None else f"{found.group(1)}{found.group(2) or ''}"


class _Readers:
    """Which nodes read a value, looking through those that only change its layout."""

    def __init__(self, graph: SizedGraph) -> None:
        self._origin: dict[str, str] = {}
        for node in graph.nodes:
            if node.op_type in _LAYOUT and node.input:
                self._origin[node.output[0]] = self.origin(node.input[0])
        self.of: dict[str, list[int]] = defaultdict(list)
        for node in graph.computed():
            for name in dict.fromkeys(self.origin(n) for n in node.input if n):
                self.of[name].append(id(node))
        self.kept = {self.origin(name) for name in graph.outputs}

    def origin(self, name: str) -> str:
        """Return the value that was computed, of one that may be another look at it."""
        return self._origin.get(name, name)


def _kernel(graph: SizedGraph, nodes: Sequence[Any], readers: _Readers) -> Kernel:
    inside = {id(node) for node in nodes}
    made = {name for node in nodes for name in node.output if name}
    read: dict[str, float] = {}
    operations = {True: 0.0, False: 0.0}
    for node in nodes:
        operations[graph.types[node.input[0]] != _FP32] += graph.operations(node)
        for name in (readers.origin(n) for n in node.input if n and n not in graph.constants):
            if name not in made and name not in graph.constants:
                part = sum(graph.size(n) for n in node.output) if node.op_type in _PARTS else math.inf
                read[name] = max(read.get(name, 0.0), min(graph.size(name), part))
    written = sum(
        graph.size(name) for name in made if name in readers.kept or not inside.issuperset(readers.of.get(name, [-1]))
    )
    return Kernel(
        call=call_of(nodes[0]) if len({call_of(node) for node in nodes}) == 1 else "",
        low=operations[True],
        full=operations[False],
        read=sum(read.values()),
        written=written,
        label="+".join(node.op_type for node in nodes[:6]),
    )


def _groups(graph: SizedGraph, readers: _Readers) -> list[list[Any]]:
    """Return the nodes of each kernel. Element by element nodes are of a level, which every other node raises by one.

    So no path leaves a group and comes back: what lies between two of its nodes is of its level, or above.
    """
    producer: dict[str, Any] = {}
    level: dict[str, int] = defaultdict(int)
    parent: dict[int, int] = {}
    nodes = graph.computed()
    for node in nodes:
        inputs = [readers.origin(name) for name in node.input if name]
        reached = max((level[name] for name in inputs), default=0)
        pointwise = node.op_type in POINTWISE
        parent[id(node)] = id(node)
        for name in inputs if pointwise else ():
            before = producer.get(name)
            same = before is not None and before.op_type in POINTWISE and level[name] == reached
            if same and call_of(before) == call_of(node):
                parent[_root(parent, id(before))] = _root(parent, id(node))
        for name in node.output:
            producer[name] = node
            level[name] = reached if pointwise else reached + 1
    groups: dict[int, list[Any]] = defaultdict(list)
    for node in nodes:
        groups[_root(parent, id(node))].append(node)
    _join_convolutions(groups, producer, readers, parent)
    order = {id(node): i for i, node in enumerate(nodes)}
    return [sorted(group, key=lambda node: order[id(node)]) for group in groups.values()]


def _join_convolutions(
    groups: dict[int, list[Any]], producer: Mapping[str, Any], readers: _Readers, parent: dict[int, int]
) -> None:
    """Put into each group the last convolution that nothing but the group reads."""
    for root, group in list(groups.items()):
        if group[0].op_type not in POINTWISE:
            continue
        inside = {id(node) for node in group}
        for name in (readers.origin(n) for node in reversed(group) for n in node.input if n):
            before = producer.get(name)
            if before is not None and before.op_type == "Conv" and inside.issuperset(readers.of[name]):
                groups[root] = [before, *group]
                del groups[_root(parent, id(before))]
                break


def _root(parent: Mapping[int, int], key: int) -> int:
    while parent[key] != key:
        key = parent[key]
    return key
