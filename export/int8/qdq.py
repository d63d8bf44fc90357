"""QuantizeLinear and DequantizeLinear (QDQ) written into the fp32 graph.

ONNX Runtime's quantiser (1.32, symmetric int8, weights per channel, ``QuantizeBias`` off, as TensorRT refuses biases in
int32) was tried with the same ranges. Its file is as good while one convolution stays fp32: descriptor cosine mean
.9810 against .9807 (ResNet-18 how without training, three scales at 384 pixels), with each weight stored once too. It
is not used for two reasons:

- a convolution that is excluded still reads the rounded values of those before it. With five in fp32 the mean is .9818
  against .9834 here (half the width: .9769 against .9786), so the search would have to keep more of them;
- it takes 1.6 s where this takes 0.15 s, and the search writes a graph for every convolution of the trunk.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.int8.calibration import LEVELS, Ranges
from ctxdeploy.export.int8.layers import Trunk, find_trunk

_ZERO = "int8.zero"


def quantise(proto: Any, ranges: Ranges, *, keep: Iterable[str] = ()) -> Any:
    """Return a graph whose trunk computes in int8: symmetric, zero point 0, weights per channel and stored once.

    Quantised are what a convolution reads and what it returns to a sum: so a runtime can pass int8 from one convolution
    to the next. Biases stay fp32; every runtime quantises them with its own scale.

    Args:
        proto: the fp32 graph, which is not changed.
        ranges: of its tensors.
        keep: names of convolutions that stay fp32 and read fp32.

    Raises:
        ConfigError: a name is unknown, or the ranges are those of another network.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    trunk = find_trunk(model)
    quantised = _quantised(trunk, ranges, keep)
    if not quantised:
        return model
    tensors = _tensors(trunk, quantised)
    nodes = _weights(model, quantised)
    for node in model.graph.node:
        layer = trunk.layer(node)
        if layer in quantised or (layer is None and node.output[0] in trunk.places):
            for i, tensor in enumerate(node.input):
                if tensor in tensors:
                    node.input[i] = f"{tensor}.dq"
        nodes.append(node)
        for tensor in node.output:
            if tensor in tensors:
                nodes += _pair(tensor, f"{tensors[tensor]}.scale")
    for place in sorted(set(tensors.values())):
        _add(model, f"{place}.scale", np.float32(ranges.limits[place] / LEVELS))
    _add(model, _ZERO, np.int8(0))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def _quantised(trunk: Trunk, ranges: Ranges, keep: Iterable[str]) -> set[str]:
    unknown = sorted(set(keep) - set(trunk.layers))
    if unknown:
        raise ConfigError(f"the trunk has no convolution {', '.join(unknown)}, only {', '.join(trunk.layers)}")
    missing = sorted(set(trunk.observed()) - set(ranges.limits))
    if missing:
        raise ConfigError(f"the ranges lack {', '.join(missing)}: calibrate this network")
    return set(trunk.layers) - set(keep)


def _tensors(trunk: Trunk, quantised: set[str]) -> dict[str, str]:
    """Return the tensors to quantise, each with the place whose scale it gets."""
    tensors: dict[str, str] = {}
    for tensor, place in trunk.places.items():
        readers = trunk.consumers[tensor]
        read = any(trunk.layer(node) in quantised for node in readers)
        # ONNX Runtime computes in int8 only what is quantised on both sides: without this one, every second
        # convolution of a block would be fp32 there. It costs .002 of descriptor cosine (.9766 to .9734).
        summed = place in quantised and any(node.op_type == "Add" for node in readers)
        if read or summed:
            tensors[tensor] = place
    return tensors


def _weights(model: Any, quantised: set[str]) -> list[Any]:
    """Replace the weights of convolutions by int8 ones; return the nodes that dequantise them, one for all scales."""
    from onnx import helper, numpy_helper

    nodes = []
    names = {f"{layer}.weight" for layer in quantised}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in names]:
        name = tensor.name
        weight = numpy_helper.to_array(tensor)
        rows = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scale = np.where(rows > 0, rows / LEVELS, 1).astype(np.float32)
        steps = np.rint(weight / scale[:, None, None, None])
        model.graph.initializer.remove(tensor)
        _add(model, f"{name}.int8", np.clip(steps, -LEVELS, LEVELS).astype(np.int8))
        _add(model, f"{name}.scale", scale)
        _add(model, f"{name}.zero", np.zeros(len(scale), np.int8))
        parts = [f"{name}.int8", f"{name}.scale", f"{name}.zero"]
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], f"{name}.dq", axis=0))
    return nodes


def _pair(tensor: str, scale: str) -> list[Any]:
    from onnx import helper

    return [
        helper.make_node("QuantizeLinear", [tensor, scale, _ZERO], [f"{tensor}.q"], f"{tensor}.q"),
        helper.make_node("DequantizeLinear", [f"{tensor}.q", scale, _ZERO], [f"{tensor}.dq"], f"{tensor}.dq"),
    ]


def _add(model: Any, name: str, value: Any) -> None:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
