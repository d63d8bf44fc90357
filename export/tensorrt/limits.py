"""What TensorRT cannot take, all of it at once and with what solves it, before anything expensive is begun."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.bundle import Extraction, ShapeRange
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.targets import TENSORRT, label_of
from ctxdeploy.export.tensorrt.config import EngineConfig
from ctxdeploy.export.tensorrt.nodes import LARGEST_K, LARGEST_TOPK_ELEMENTS, OPSETS, TYPES, label, node_problems

if TYPE_CHECKING:
    from ctxdeploy.export.networks.config import NetworkConfig


def problems(
    extraction: Extraction,
    network: "NetworkConfig",
    *,
    target: str = TENSORRT,
    shapes: ShapeRange | None = None,
    config: EngineConfig | None = None,
) -> list[str]:
    """Return what stands in the way before there is a graph, one line each; nothing of TensorRT is imported.

    Args:
        extraction: scales and K.
        network: the network.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        shapes: of the bundle; not looked at if None.
        config: settings of the build.
    """
    config = config or EngineConfig()
    product = label_of(target)
    found = []
    try:
        config.check(target)
    except ConfigError as error:
        found.append(str(error))
    if extraction.top_k > LARGEST_K:
        found.append(
            f"{product} selects at most {LARGEST_K} positions, and K is {extraction.top_k}: give --top-k {LARGEST_K} "
            "or less"
        )
    if shapes is not None:
        found += _too_large(extraction, network, product, shapes, config)
    return found


def _too_large(
    extraction: Extraction, network: "NetworkConfig", product: str, shapes: ShapeRange, config: EngineConfig
) -> list[str]:
    """Return a line if the values that are selected from are too many at the largest shape."""
    from ctxdeploy.export.networks.config import Edges

    if not extraction.top_k:  # a global descriptor is pooled, nothing is selected
        return []
    batch = max(shapes.batch[0], min(shapes.batch[1], config.max_batch))
    cells = [
        -(-int(shapes.height[1] * scale) // network.stride) * -(-int(shapes.width[1] * scale) // network.stride)
        for scale in extraction.scales
    ]
    values = {"positions": batch * (sum(cells) + extraction.top_k)}
    refinement = network.refinement
    if refinement is not None and refinement.edges is Edges.TOPK:
        from ctxdeploy.export.networks.refinement import row_blocks

        blocks = [row_blocks(network.stride, scale) for scale in extraction.scales]
        rows = [-(-count // parts) for count, parts in zip(cells, blocks, strict=True)]
        most = max(height * (count + refinement.neighbours) for height, count in zip(rows, cells, strict=True))
        values["similarities"] = batch * most
    return [
        f"{product} selects from less than 2^31 values, and the {what} of {batch} photos of {shapes.width[1]}×"
        f"{shapes.height[1]} are {count}: give a smaller --max-batch, --image-size or fewer --scales"
        for what, count in values.items()
        if count >= LARGEST_TOPK_ELEMENTS
    ]


def graph_problems(proto: Any, target: str = TENSORRT) -> list[str]:
    """Return what the parser of a target cannot take in an ``onnx.ModelProto``, one line each.

    The parser says so too, but late, one at a time, or (names and opsets of functions) never: it computes something
    else.
    """
    lines = [*model_problems(proto), *function_problems(proto), *node_problems(proto, target)]
    return [f"{label_of(target)}: {line}" for line in dict.fromkeys(lines)]


def model_problems(proto: Any) -> list[str]:
    """Return what is wrong with the opset, the inputs and the types of a model's constants."""
    found = []
    opset = standard_opset(proto)
    if opset not in OPSETS:
        found.append(f"opset {opset} is outside {OPSETS[0]}..{OPSETS[-1]}: export the graph again")
    name_of = _type_names()
    for tensor in proto.graph.initializer:
        kind = name_of(tensor.data_type)
        if kind not in TYPES:
            found.append(f"constant {tensor.name} has type {kind}, which it does not support: export the graph again")
    for value in proto.graph.input:
        kind = name_of(value.type.tensor_type.elem_type)
        if kind not in TYPES:
            found.append(f"input {value.name} has type {kind}, which it does not support: export the graph again")
        elif kind == "UINT8":
            others = [n for n in proto.graph.node if value.name in n.input and n.op_type not in ("Cast", "Shape")]
            found += [
                f"input {value.name} is uint8 and goes into {label(node)}, but only Cast takes it: export again with "
                "this version, which casts first"
                for node in others
            ]
    return found


def function_problems(proto: Any) -> list[str]:
    """Return what is wrong with names, opsets and calls of local functions."""
    import onnx

    opset = standard_opset(proto)
    builtin = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain in ("", "ai.onnx")}
    found = []
    for function in proto.functions:
        if function.name in builtin:
            found.append(
                f"function {function.domain}::{function.name} has the name of a standard operator, which would be "
                "computed instead: use --inline"
            )
        for imported in function.opset_import:
            if imported.domain in ("", "ai.onnx") and imported.version != opset:
                found.append(
                    f"function {function.domain}::{function.name} is written in opset {imported.version}, the model in "
                    f"{opset}, and its own would be ignored: use --inline"
                )
    names = Counter(function.name for function in proto.functions)
    found += [
        f"{count} functions have the name {name}, and the first would be taken for all: use --inline"
        for name, count in names.items()
        if count > 1
    ]
    return found + _call_problems(proto)


def _call_problems(proto: Any) -> list[str]:
    functions = {(function.domain, function.name): function for function in proto.functions}
    found = []
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in nodes:
            function = functions.get((node.domain, node.op_type))
            if function is None:
                continue
            given = (len([x for x in node.input if x]), len([x for x in node.output if x]))
            wanted = (len(function.input), len(function.output))
            if given != wanted:
                found.append(
                    f"{label(node)} gives {given[0]} inputs and takes {given[1]} outputs of {wanted[0]} and "
                    f"{wanted[1]}, and all are needed: use --inline"
                )
    return found


def standard_opset(proto: Any) -> int:
    """Return the version of the standard operators that a model is written in."""
    return max((int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _type_names() -> Any:
    from onnx import TensorProto

    return TensorProto.DataType.Name
