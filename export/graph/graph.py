"""A network to one ONNX graph that holds all its scales."""

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES

if TYPE_CHECKING:
    from ctxdeploy.export.networks.network import RetrievalNetwork

# 20 is the newest opset that ONNX Runtime, OpenVINO and TensorRT 10 and 11 all read.
OPSET = 20


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes about torchvision and its own deprecations, not its errors."""
    names = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic: Sequence[Mapping[int, str]],
    outputs: Sequence[str] | None = None,
) -> Any:
    """Export a module.

    Args:
        module: in evaluation mode.
        inputs: example inputs; their dynamic sizes must not be 0 or 1, which the tracer would take for constants.
        dynamic: for each input the names of its dynamic axes.
        outputs: names of the outputs.

    Returns:
        An ``onnx_ir.Model`` of opset ``OPSET``; its dynamic axes bear the given names.
    """
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) or None for axes in dynamic)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model
    for value, axes in zip(model.graph.inputs, dynamic, strict=True):
        _name_axes(value, axes)
    return model


def _name_axes(value: Any, axes: Mapping[int, str]) -> None:
    import onnx_ir as ir

    sizes = [axes.get(axis, size) for axis, size in enumerate(value.shape)]
    value.shape = ir.Shape(sizes)


def build_graph(network: "RetrievalNetwork", *, inline: bool = False) -> Any:
    """Return the ``onnx.ModelProto`` of a network: input and outputs as in the bundle contract, dynamic B, H and W.

    Args:
        network: in evaluation mode; it is not changed.
        inline: write the bodies of our own operators in place of the nodes.
    """
    import onnx
    import onnx.inliner
    import onnx_ir as ir
    import torch

    from ctxdeploy.export.graph.functions import functions_of
    from ctxdeploy.export.graph.operators import DOMAIN, exporting

    network = copy.deepcopy(network)
    network.fold()
    # Two cells at least at the smallest scale: the tracer would take a size of 1 for a constant.
    side = max(212, math.ceil(3 * network.config.stride / min(network.extraction.scales)))
    image = torch.zeros(2, side, side + 88, 3, dtype=torch.uint8)
    with exporting():
        model = trace(network, (image,), ({0: "batch", 1: "height", 2: "width"},), OUTPUT_NAMES)
    model.graph.inputs[0].name = INPUT_NAME
    _declare_outputs(model.graph.outputs, network)
    for function in functions_of(network.config):
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1
    model.producer_name, model.producer_version = "ctxdeploy", None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    proto = ir.to_proto(model)
    # Shapes of intermediate values are the tracer's symbols; every runtime infers its own. Those of a function's body
    # would be inlined once per scale under one name, and ONNX Runtime would reuse a buffer of another scale's size.
    for holder in (proto.graph, *proto.functions):
        del holder.value_info[:]
    if inline:
        proto = onnx.inliner.inline_local_functions(proto)
    onnx.checker.check_model(proto, full_check=False)
    return proto


def _declare_outputs(values: Any, network: "RetrievalNetwork") -> None:
    import onnx_ir as ir

    k, d = network.extraction.top_k, network.config.descriptor_dim
    shapes: list[list[int | str]] = [["batch", k, d], ["batch", k], ["batch", k, 2], ["batch", k]]
    for value, shape in zip(values, shapes, strict=True):
        value.shape = ir.Shape(shape)


def save_graph(proto: Any, path: Path) -> None:
    """Write a graph as one file."""
    import onnx

    onnx.save_model(proto, path)
