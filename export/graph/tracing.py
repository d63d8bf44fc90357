"""A module of PyTorch to an ONNX graph of dynamic sizes."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
