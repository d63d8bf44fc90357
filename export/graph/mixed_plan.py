"""Which nodes of a graph compute in the low type of a mixed precision.

Low are the convolutions of the trunk, the matrix products that descriptors and attention depend on, the cheap nodes
that low ones feed, and nodes that only move numbers on the way to one. All others stay fp32:

- norms, exponentials and row sums, whose small numbers vanish in fp16 and whose large ones overflow;
- attention, positions and scales;
- smoothing and whitening, which are no hundredth of the work.

The trunk's roundings decide. Least cosine of bf16, ResNet-18, two photos: how 0.9982, with a low whitening 0.9981; ctx
graph 0.9983, the same with similarities in fp32, with its other products in fp32, and with its subtraction in bf16.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ctxdeploy.export.graph.mixed_types import FLOAT

TRUNK = "backbone."
_WHITENING = "dim_reduction."
_PRODUCTS = ("MatMul", "Gemm")
# These only move numbers.
MOVEMENT = ("Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
# Exact in any type.
EXACT = (*MOVEMENT, "MaxPool", "Relu")
_CHEAP = (*EXACT, "Add")

# Domain and name of a function to which of its inputs are low.
Interfaces = Mapping[tuple[str, str], Sequence[bool]]


class Plan:
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
        whitening = any(name.startswith(_WHITENING) for name in node.input)
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
