"""Limits of a model as a whole, and of its local functions, which the parser looks up by name alone."""

from collections import Counter
from typing import Any

from ctxdeploy.export.tensorrt.operators import OPSETS, TYPES


def model_problems(proto: Any) -> list[str]:
    """Return what is wrong with the opset, the inputs and the types of a model's constants."""
    found = []
    opset = standard_opset(proto)
    if opset not in OPSETS:
        found.append(f"opset {opset} is outside {OPSETS[0]}..{OPSETS[-1]}: export the graph anew")
    name_of = _type_names()
    for tensor in proto.graph.initializer:
        kind = name_of(tensor.data_type)
        if kind not in TYPES:
            found.append(f"constant {tensor.name} has type {kind}, which it has not: export the graph anew")
    for value in proto.graph.input:
        kind = name_of(value.type.tensor_type.elem_type)
        if kind not in TYPES:
            found.append(f"input {value.name} has type {kind}, which it has not: export the graph anew")
        elif kind == "UINT8":
            others = [n for n in proto.graph.node if value.name in n.input and n.op_type not in ("Cast", "Shape")]
            found += [
                f"input {value.name} is uint8 and goes into {label(node)}, but only Cast takes it: export anew with "
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


def label(node: Any) -> str:
    """Return a node's name and operator."""
    return f"{node.name or node.output[0]} ({node.op_type})"


def _type_names() -> Any:
    from onnx import TensorProto

    return TensorProto.DataType.Name
