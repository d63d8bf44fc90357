"""The trunk in an exported graph: its convolutions by name, its tensors by place.

A convolution is named as in the network (``backbone.layer2.0.conv1``), after its weights, which all scales share; it
has one node per scale. A place is what the tensors of all scales have in common: ``backbone.layer2.0.conv1`` for what
that convolution returns, then ``/sum``, ``/relu``, ``/relu6`` and ``/pool`` for what follows, and ``image`` for what
enters; what a convolution reads from a part of the network that is not of the trunk is its ``/input``.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ctxdeploy.core.errors import ConfigError

TRUNK = "backbone."
IMAGE = "image"
_INPUT = "/input"
_WEIGHT = ".weight"
_SUFFIXES = {"Relu": "/relu", "Clip": "/relu6", "MaxPool": "/pool", "Add": "/sum"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trunk:
    """The trunk's parts of a graph.

    Attributes:
        layers: the nodes of each convolution, one per scale.
        places: place of each of its tensors, in the order of the graph.
        scales: number of the image's scale of each of its tensors, in the graph's order of scales.
        producers: node that makes each tensor of the graph.
        consumers: nodes that read each tensor of the graph.
    """

    layers: Mapping[str, list[Any]]
    places: Mapping[str, str]
    scales: Mapping[str, int]
    producers: Mapping[str, Any]
    consumers: Mapping[str, list[Any]]

    def layer(self, node: Any) -> str | None:
        """Return the name of the convolution that a node computes; None for every other node."""
        return _layer(node)

    def by_scale(self, places: Iterable[str]) -> list[dict[str, str]]:
        """Return the tensors of some places by place, for each scale that has any, in the graph's order of scales.

        What gives a global descriptor may be at fewer scales than the rest.
        """
        wanted = list(places)
        rows: dict[int, dict[str, str]] = defaultdict(dict)
        for tensor, place in self.places.items():
            if place in wanted:
                rows[self.scales[tensor]][place] = tensor
        return [{place: row[place] for place in wanted if place in row} for _, row in sorted(rows.items())]

    def observed(self) -> list[str]:
        """Return the places that have a range: what convolutions read, and what they return to a sum."""
        found: dict[str, None] = {}
        for tensor, place in self.places.items():
            summed = place in self.layers and any(node.op_type == "Add" for node in self.consumers[tensor])
            if summed or any(_layer(node) is not None for node in self.consumers[tensor]):
                found[place] = None
        return list(found)

    @property
    def ends(self) -> list[str]:
        """The places of the trunk's outputs: those that other parts of the network read."""
        found: dict[str, None] = {}
        for tensor, place in self.places.items():
            enters = place == IMAGE or place.endswith(_INPUT)
            readers = [node for node in self.consumers[tensor] if node.op_type != "Shape"]
            if not enters and any(node.output[0] not in self.places for node in readers):
                found[place] = None
        if not found:
            raise ConfigError("nothing reads what the graph's trunk returns: export the network with build_graph")
        return list(found)


def find_trunk(proto: Any) -> Trunk:
    """Return the trunk of a graph written by ``build_graph``.

    Raises:
        ConfigError: the graph has no convolution of a trunk, or batch normalisation that is not folded.
    """
    layers: dict[str, list[Any]] = {}
    places: dict[str, str] = {}
    scales: dict[str, int] = {}
    producers: dict[str, Any] = {}
    consumers: dict[str, list[Any]] = defaultdict(list)
    for node in proto.graph.node:
        for tensor in node.input:
            consumers[tensor].append(node)
        producers.update(dict.fromkeys(node.output, node))
        name = _layer(node)
        if name is not None:
            layers.setdefault(name, []).append(node)
            if node.input[0] not in places:
                # One scale is made from the image of another.
                within = {tensor: scale for tensor, scale in scales.items() if places[tensor] != IMAGE}
                before = _scale_before(node.input[0], producers, within)
                places[node.input[0]] = IMAGE if before is None else f"{name}{_INPUT}"
                scales[node.input[0]] = len(set(scales.values())) if before is None else before
            places[node.output[0]], scales[node.output[0]] = name, scales[node.input[0]]
        elif node.op_type in _SUFFIXES and all(tensor in places for tensor in _maps(node)):
            places[node.output[0]] = places[node.input[0]] + _SUFFIXES[node.op_type]
            scales[node.output[0]] = scales[node.input[0]]
    if not layers:
        raise ConfigError(f"the graph has no convolution with weights named {TRUNK}…: export it with build_graph")
    return Trunk(layers=layers, places=places, scales=scales, producers=producers, consumers=consumers)


def _scale_before(tensor: str, producers: Mapping[str, Any], scales: Mapping[str, int]) -> int | None:
    """Return the scale of what a tensor is made from; None if that is the image itself."""
    waiting, seen = [tensor], set()
    while waiting:
        name = waiting.pop()
        if name in scales:
            return scales[name]
        if name in producers and name not in seen:
            seen.add(name)
            waiting += producers[name].input
    return None


def subgraph(proto: Any, outputs: Iterable[str]) -> Any:
    """Return the part of a graph that computes float tensors from the graph's inputs, with these as its outputs."""
    import onnx
    from onnx import helper

    outputs = list(outputs)
    producers = {tensor: i for i, node in enumerate(proto.graph.node) for tensor in node.output}
    wanted, nodes = list(outputs), set()
    while wanted:
        i = producers.get(wanted.pop())
        if i is not None and i not in nodes:
            nodes.add(i)
            wanted += proto.graph.node[i].input
    kept = [node for i, node in enumerate(proto.graph.node) if i in nodes]
    used = {tensor for node in kept for tensor in node.input}
    graph = helper.make_graph(
        kept,
        proto.graph.name,
        list(proto.graph.input),
        [helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None) for tensor in outputs],
        [tensor for tensor in proto.graph.initializer if tensor.name in used],
    )
    return helper.make_model(
        graph, opset_imports=proto.opset_import, ir_version=proto.ir_version, functions=proto.functions
    )


def _maps(node: Any) -> list[str]:
    """Return the feature maps that a node reads: of a Clip the first input, its limits are numbers."""
    return list(node.input[:1] if node.op_type == "Clip" else node.input)


def _layer(node: Any) -> str | None:
    if node.op_type != "Conv" or not node.input[1].startswith(TRUNK):
        return None
    return str(node.input[1]).removesuffix(_WEIGHT)
