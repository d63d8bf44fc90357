"""Where in a bundle's graph the values lie that explain what the network sees.

They are found from the outputs backwards, by operators and how they hang together: the names of values are the
exporter's. Our own operators may be nodes of the domain ``ctx`` or inlined.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import BundleError
from ctxdeploy.core.extras import require

DOMAIN = "ctx"
_CONVOLUTION = "GraphConvolution"  # and the number of its blocks of rows, where there are less than at scale 2
# What lies between an output and the Concat of all scales.
_SELECTION = ("Cast", "Div", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "TopK")
_LAYOUT = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_MOVEMENT = (*_LAYOUT, "Cast", "Gather", "Pad", "Slice", "Split")
_NORM = ("Add", "Cast", "Identity", "Mul", "Sqrt")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of the graph refinement at one scale.

    Attributes:
        nodes: name of the value that enters it, B×N×C.
        edges: ``threshold``, ``topk``, ``softmax`` or ``attention``.
        parameter: the threshold τ, or the temperature t of ``softmax`` and ``attention``.
        neighbours: edges of a node with ``topk``.
        projections: of ``attention``, to queries and to keys, C×D each.
    """

    nodes: str
    edges: str
    parameter: float = 0.0
    neighbours: int = 0
    projections: tuple[NDArray[np.float64], ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Level:
    """Names of the values of one scale; None for what the network does not have.

    Attributes:
        attention: B×h×w, before it is divided by the largest of the photo; of super-features B×N×1.
        bandwidth: B×1×h×w.
        confidence: B×1×h×w.
        kernel_size: side of the window of the learned smoothing in cells.
        blocks: of the graph refinement, in order.
        shares: B×n×N, what each of n positions gives to each of N super-features.
    """

    attention: str
    bandwidth: str | None = None
    confidence: str | None = None
    kernel_size: int | None = None
    blocks: tuple[Block, ...] = ()
    shares: str | None = None


class BundleGraph:
    """An ONNX file as it stands in a bundle.

    Raises:
        MissingExtraError: onnx is not installed.
        BundleError: the file is not an ONNX graph.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        onnx = require("onnx", "cpu")
        try:
            self._proto = onnx.load(str(path))
        except Exception as error:  # protobuf's classes share no base but Exception
            raise BundleError(f"{path} is not an ONNX graph ({error}): export the bundle anew") from error
        self._onnx = onnx
        self._producers: dict[str, Any] = {}
        self._consumers: dict[str, list[Any]] = defaultdict(list)
        self._constants: dict[str, Any] = {value.name: value for value in self._proto.graph.initializer}
        for node in self._proto.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
            self._producers.update((name, node) for name in node.output if name)
            for name in dict.fromkeys(node.input):
                self._consumers[name].append(node)

    def exposing(self, names: Iterable[str]) -> bytes:
        """Return the serialised graph with these values, all float32, as outputs behind its own."""
        outputs = self._proto.graph.output
        before = len(outputs)
        present = {value.name for value in outputs}
        for name in dict.fromkeys(names):
            if name not in present:
                kind = self._onnx.TensorProto.FLOAT
                outputs.append(self._onnx.helper.make_tensor_value_info(name, kind, None))
        serialised: bytes = self._proto.SerializeToString()
        del outputs[before:]
        return serialised

    def levels(self, count: int) -> tuple[Level, ...]:
        """Return the values of each of ``count`` scales, in their order; nothing where the graph is of another form."""
        strengths = self._parts("attention", count)
        places = self._parts("positions", count) or [""] * count
        levels = []
        for flat, place in zip(strengths, places, strict=True):
            found = self._attention(flat)
            if found is None:
                return ()
            attention, features = found
            shares = self._shares(place)
            if shares is not None:
                levels.append(Level(attention=attention, shares=shares))
                continue
            bandwidth, confidence, kernel_size = self._smoothing(features) or (None, None, None)
            blocks = self._blocks(features)
            levels.append(
                Level(
                    attention=attention,
                    bandwidth=bandwidth,
                    confidence=confidence,
                    kernel_size=kernel_size,
                    blocks=blocks,
                )
            )
        return tuple(levels)

    def _parts(self, output: str, count: int) -> list[str]:
        """Return the values that are joined for an output, one for each scale."""
        name = output
        while (node := self._producers.get(name)) is not None:
            if node.op_type == "Concat" and len(node.input) == count:
                return list(node.input)
            if node.op_type not in _SELECTION and not self._is_masked(node):
                break
            name = node.input[0]
        return [name] if count == 1 and name != output else []

    def _is_masked(self, node: Any) -> bool:
        """Return whether a node keeps a share of the strongest: a product with ones and zeros."""
        mask = self._producers.get(node.input[1]) if node.op_type == "Mul" else None
        return mask is not None and mask.op_type == "Cast"

    def _attention(self, flat: str) -> tuple[str, str] | None:
        """Return the attention before it is flattened, and the features whose L2 norm it is."""
        attention = self._through(flat, _LAYOUT)
        total = self._producers.get(self._through(attention, _NORM))
        if total is None:
            return None
        if total.op_type in ("ReduceL2", "ReduceSumSquare"):
            return attention, total.input[0]
        square = self._producers.get(total.input[0]) if total.op_type == "ReduceSum" else None
        if square is None or not _is_square(square):
            return None
        return attention, square.input[0]

    def _smoothing(self, features: str) -> tuple[str, str, int] | None:
        """Return bandwidth, self-confidence and kernel size of the learned smoothing of these features."""
        # It is of the features themselves, or of the whitened ones.
        predicted = [node.output[0] for node in self._using([features], "Conv")]
        for node in self._using([features, *predicted], "GaussianSmoothing"):
            return node.input[1], node.input[2], int(self._attribute(node, "kernel_size"))
        # Inlined: what the 1×1 convolution predicts is parted, and goes through a Softplus and a Sigmoid.
        parts = [name for node in self._using(predicted, "Slice", "Split", "Gather") for name in node.output]
        confidence = [node.output[0] for node in self._using(parts, "Sigmoid")]
        bandwidth = [self._exponent(node.output[0]) for node in self._using(parts, "Softplus")]
        smoothed = [features, *predicted]
        rings = [node for node in self._using(smoothed, "Conv") if self._attribute(node, "group", 1) > 1]
        if not (confidence and bandwidth and rings) or bandwidth[0] is None:
            return None
        return bandwidth[0], confidence[0], int(self._attribute(rings[0], "kernel_shape")[0])

    def _exponent(self, softplus: str) -> str | None:
        """Return the value that is multiplied by a squared radius and goes into an Exp."""
        name = softplus
        while True:
            products = [node.output[0] for node in self._using([name], "Mul", "Neg")]
            if any(True for _ in self._using(products, "Exp")):
                return name
            after = next(self._using([name], "Where", "Div", "Identity"), None)
            if after is None:
                return None
            name = after.output[0]

    def _blocks(self, features: str) -> tuple[Block, ...]:
        """Return the blocks of the refinement that made these features."""
        found: list[Block] = []
        block = self._block(self._through(features, _LAYOUT))
        while block is not None:
            found.append(block)
            block = self._block(block.nodes)
        return tuple(reversed(found))

    def _block(self, name: str) -> Block | None:
        node = self._producers.get(name)
        if node is None:
            return None
        if node.domain == DOMAIN and node.op_type.startswith(_CONVOLUTION):
            parameter = self._scalar(node.input[2])
            edges = self._attribute(node, "edges").decode()
            neighbours = int(self._attribute(node, "neighbours"))
            if edges == "topk":  # has none
                parameter = 0.0
            given = [self._matrix(name) for name in node.input[3:]]
            projections = tuple(matrix for matrix in given if matrix is not None)
            if parameter is None or len(projections) < len(given):
                return None
            return Block(
                nodes=node.input[0],
                edges=edges,
                parameter=parameter,
                neighbours=neighbours,
                projections=projections,
            )
        if node.op_type == "Add":
            for before, change in (node.input, reversed(node.input)):
                relu = self._producers.get(change)
                if relu is not None and relu.op_type == "Relu":
                    return self._inlined_block(before, change)
        return None

    def _inlined_block(self, nodes: str, change: str) -> Block | None:
        """Return the block whose residual change of ``nodes`` this is, from the operators between the two."""
        threshold = None
        for node in self._between(nodes, change):
            if node.op_type == "Softmax":
                divided = self._producers.get(node.input[0])
                temperature = self._scalar(divided.input[1]) if divided is not None else None
                if divided is None or temperature is None:
                    return None
                found = self._projections(divided.input[0])
                edges = "attention" if found else "softmax"
                return Block(nodes=nodes, edges=edges, parameter=temperature, projections=found)
            if node.op_type == "TopK":
                count = self._scalar(node.input[1])
                return None if count is None else Block(nodes=nodes, edges="topk", neighbours=int(count))
            made = self._producers.get(node.input[0]) if node.op_type == "Sub" else None
            if made is not None and made.op_type == "MatMul":
                threshold = self._scalar(node.input[1])
        return None if threshold is None else Block(nodes=nodes, edges="threshold", parameter=threshold)

    def _projections(self, similarity: str) -> tuple[NDArray[np.float64], ...]:
        """Return what the two factors of a product were projected by; nothing where they are the features."""
        product = self._producers.get(self._through(similarity, ("Cast",)))
        found = []
        for name in product.input if product is not None and product.op_type == "MatMul" else ():
            made = self._producers.get(self._through(name, _MOVEMENT))
            matrix = self._matrix(made.input[1]) if made is not None and made.op_type == "MatMul" else None
            if matrix is None:
                return ()
            found.append(matrix)
        return tuple(found)

    def _shares(self, places: str) -> str | None:
        """Return the shares that positions are weighted with: these are ``sharesᵀ @ (centres - middle) + middle``."""
        total = self._producers.get(places)
        for name in total.input if total is not None and total.op_type == "Add" else ():
            product = self._producers.get(name)
            if product is not None and product.op_type == "MatMul":
                return self._through(product.input[0], ("Transpose",))
        return None

    def _through(self, name: str, operators: Sequence[str]) -> str:
        """Follow a value backwards through operators with one input that is not a constant (a movement's first)."""
        while (node := self._producers.get(name)) is not None and node.op_type in operators:
            moves = node.op_type in _MOVEMENT
            inputs = [node.input[0]] if moves else [n for n in node.input if not self._is_constant(n)]
            if len(inputs) != 1:
                break
            name = inputs[0]
        return name

    def _between(self, first: str, last: str) -> Iterator[Any]:
        """Yield the nodes that ``last`` is made by, up to ``first``."""
        waiting, seen = [last], {first}
        while waiting:
            name = waiting.pop()
            node = self._producers.get(name)
            if name in seen or node is None:
                continue
            seen.add(name)
            yield node
            waiting.extend(node.input)

    def _using(self, names: Iterable[str], *operators: str) -> Iterator[Any]:
        for name in names:
            yield from (node for node in self._consumers.get(name, ()) if node.op_type in operators)

    def _is_constant(self, name: str) -> bool:
        return name in self._constants

    def _scalar(self, name: str) -> float | None:
        """Return the one number of a constant; None for anything else."""
        if name not in self._constants:
            return None
        value = self._onnx.numpy_helper.to_array(self._constants[name])
        return float(value.reshape(-1)[0]) if np.size(value) == 1 else None

    def _matrix(self, name: str) -> NDArray[np.float64] | None:
        """Return a constant with two axes; None for anything else."""
        if name not in self._constants:
            return None
        value = np.asarray(self._onnx.numpy_helper.to_array(self._constants[name]), np.float64)
        return value if value.ndim == 2 else None

    def _attribute(self, node: Any, name: str, default: Any = None) -> Any:
        for attribute in node.attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default


def _is_square(node: Any) -> bool:
    return bool(node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1]))
