"""fp16 and bf16 as mixed precision written into the ONNX file: the types of its values, and Casts where they meet.

No node mixes types, as strongly typed runtimes demand. ``mixed_plan`` says which nodes are low.

``emulated`` is for CPUs that cannot run such a graph as it is written: ONNX Runtime's CPU has no bf16 kernels ("Could
not find an implementation for Conv(22)"), and it runs an fp16 graph in fp32 without rounding what lies between the
nodes, so that an overflow would not be seen. OpenVINO rounds as it likes.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ctxdeploy.core.bundle import GLOBAL_OUTPUT, OUTPUT_NAMES
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Precision
from ctxdeploy.export.graph.mixed_plan import (
    EXACT,
    FLOAT,
    TRUNK,
    LowType,
    PrecisionPlan,
    function_types,
    graph_types,
    low_tensor,
    low_type,
)


def to_mixed(proto: Any, precision: Precision) -> Any:
    """Return a graph that computes convolutions and matrix products in fp16 or bf16, and all else in fp32.

    Its inputs and outputs stay what they are. So do those of local functions, but for weights that only products read:
    they are stored in the low type. bf16 raises the opset to 22, in which Conv takes it.

    Args:
        proto: ``onnx.ModelProto`` of ``build_graph``, with local functions or without; it is not changed.
        precision: FP16 or BF16.

    Raises:
        ConfigError: another precision, a graph without a trunk, or a weight beyond the range of the low type.
    """
    import onnx

    low = low_type(precision)
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    interfaces: dict[tuple[str, str], tuple[bool, ...]] = {}
    for function in model.functions:
        plan = PrecisionPlan(
            function.node, function_types(function, model.opset_import), function.output, (), interfaces
        )
        flags = interfaces[function.domain, function.name] = plan.low_inputs(function.input)
        writer = _Writer(plan, low, {name for name, flag in zip(function.input, flags, strict=True) if flag}, {})
        _replace(function.node, writer.write(function.output))
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    # Descriptors and attention; positions are products too where they are means over what a super-feature attends to.
    results = (*OUTPUT_NAMES[:2], GLOBAL_OUTPUT)
    plan = PrecisionPlan(graph.node, graph_types(model), results, weights, interfaces)
    if not any(plan.nodes[i].op_type == "Conv" for i in plan.low):
        raise ConfigError(f"the graph has no convolution with a weight {TRUNK}*: nothing would be {low.label}")
    writer = _Writer(plan, low, set(), weights)
    _replace(graph.node, writer.write([value.name for value in graph.output]))
    _replace(graph.initializer, writer.weights)
    for opset in (*model.opset_import, *(opset for function in model.functions for opset in function.opset_import)):
        if opset.domain == "":
            opset.version = max(opset.version, low.opset)
    onnx.checker.check_model(model, full_check=True)
    return model


def _replace(field: Any, items: Iterable[Any]) -> None:
    kept = list(items)
    del field[:]
    field.extend(kept)


class _Writer:
    """Writes the nodes of a graph, or of a function's body, in the types of a plan."""

    def __init__(self, plan: PrecisionPlan, low: LowType, low_inputs: set[str], weights: Mapping[str, Any]) -> None:
        self.weights: list[Any] = []
        self._plan = plan
        self._label = low.label
        self._low = low
        self._is_low = low_inputs | (plan.low_values() & plan.floats)
        self._written: list[Any] = []
        # A value's name and whether it is low, to the name under which it stands in that type too.
        self._twins: dict[tuple[str, bool], str] = {}
        self._names = {name for node in plan.nodes for name in (*node.input, *node.output)}
        self._uses: dict[str, set[bool]] = defaultdict(set)
        for i, node in enumerate(plan.nodes):
            for position, name in enumerate(node.input):
                self._uses[name].add(plan.takes_low(i, position))
        for name, tensor in weights.items():
            self.weights += [constant for _, constant in self._in_its_types(name, tensor)]

    def write(self, outputs: Sequence[str]) -> list[Any]:
        """Return the nodes, ``outputs`` in fp32; ``weights`` are then the initialisers they read."""
        for i, node in enumerate(self._plan.nodes):
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._write_constant(node)
                continue
            for position, name in enumerate(node.input):
                node.input[position] = self._in_type(name, self._plan.takes_low(i, position))
            self._written.append(node)
            for position, name in enumerate(node.output):
                if name in outputs and name in self._is_low:
                    node.output[position] = self._twins[name, True] = self._fresh(name, True)
                    self._is_low.remove(name)
                    self._cast(node.output[position], name, FLOAT)
        return self._written

    def _in_type(self, name: str, low: bool) -> str:
        """Return the name of a value in a type, after a Cast if it is not there yet."""
        if name not in self._plan.floats or (name in self._is_low) == low:
            return name
        if (name, low) not in self._twins:
            self._twins[name, low] = self._fresh(name, low)
            self._cast(name, self._twins[name, low], self._low.element_type if low else FLOAT)
        return self._twins[name, low]

    def _cast(self, name: str, result: str, element_type: int) -> None:
        from onnx import helper

        self._written.append(helper.make_node("Cast", [name], [result], name=f"cast_{result}", to=element_type))

    def _write_constant(self, node: Any) -> None:
        from onnx import helper

        for name, tensor in self._in_its_types(node.output[0], node.attribute[0].t):
            self._written.append(helper.make_node("Constant", [], [name], name=f"constant_{name}", value=tensor))

    def _in_its_types(self, name: str, tensor: Any) -> list[tuple[str, Any]]:
        """Return a constant, with its name, in each of the types in which it is read."""
        uses = self._uses[name] if name in self._plan.floats else {False}
        if True not in uses:
            return [(name, tensor)]
        converted = low_tensor(tensor, self._low)
        if False not in uses:
            self._is_low.add(name)
            return [(name, converted)]
        converted.name = self._twins[name, True] = self._fresh(name, True)
        return [(name, tensor), (converted.name, converted)]

    def _fresh(self, name: str, low: bool) -> str:
        fresh = f"{name}_{self._label if low else 'fp32'}"
        while fresh in self._names:
            fresh += "_"
        self._names.add(fresh)
        return fresh


_LOW = (10, 16)  # FLOAT16 and BFLOAT16 of onnx.TensorProto


def emulated(proto: Any) -> Any:
    """Return a float32 graph that rounds what low nodes compute, and sums within one node in fp32, as GPUs do.

    Args:
        proto: ``onnx.ModelProto`` of ``to_mixed``; it is not changed.
    """
    import onnx
    import onnx.inliner

    model = onnx.ModelProto()
    model.CopyFrom(onnx.inliner.inline_local_functions(proto) if proto.functions else proto)
    types = graph_types(model)
    nodes: list[Any] = []
    for node in model.graph.node:
        _append(nodes, node, types)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for tensor in model.graph.initializer:
        _widen(tensor)
    return model


def _append(nodes: list[Any], node: Any, types: dict[str, int]) -> None:
    from onnx import helper

    name = node.output[0]
    low = types.get(name)
    if node.op_type == "Cast" and types[node.input[0]] in _LOW:
        nodes.append(helper.make_node("Identity", list(node.input), [name]))
    elif node.op_type == "Cast" and low in _LOW:
        nodes.extend(_rounding(node.input[0], name, low))
    elif node.op_type == "Constant":
        _widen(node.attribute[0].t)
        nodes.append(node)
    elif low in _LOW and node.op_type not in EXACT:
        node.output[0] = f"{name}_unrounded"
        nodes.extend((node, *_rounding(node.output[0], name, low)))
    else:
        nodes.append(node)


def _rounding(name: str, result: str, element_type: int) -> list[Any]:
    from onnx import helper

    low = f"{result}_low"
    return [
        helper.make_node("Cast", [name], [low], to=element_type),
        helper.make_node("Cast", [low], [result], to=FLOAT),
    ]


def _widen(tensor: Any) -> None:
    from onnx import numpy_helper

    if tensor.data_type in _LOW:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
