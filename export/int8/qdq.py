"""QuantizeLinear and DequantizeLinear (QDQ) written into the fp32 graph.

ONNX Runtime's quantiser (1.32, symmetric int8, weights per channel, ``QuantizeBias`` off, as TensorRT refuses biases in
int32) was tried with the same ranges. Its file is as good while one convolution stays fp32: descriptor cosine mean
.9810 against .9807 (ResNet-18 how without training, three scales at 384 pixels), with each weight stored once too. It
is not used for two reasons:

- a convolution that is excluded still reads the rounded values of those before it. With five in fp32 the mean is .9818
  against .9834 here (half the width: .9769 against .9786), so the search would have to keep more of them;
- it takes 1.6 s where this takes 0.15 s, and the search writes a graph for every convolution of the trunk.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Precision
from ctxdeploy.export.int8 import fp8
from ctxdeploy.export.int8.calibration import LEVELS, Ranges
from ctxdeploy.export.int8.layers import Trunk, find_trunk


@dataclass(frozen=True, kw_only=True)
class EightBits:
    """A type of eight bits that a trunk computes in.

    Attributes:
        precision: that has it.
        element_type: number of the type in ``onnx.TensorProto``.
        largest: its largest number.
        limits: what that stands for at each place of the trunk.
        method: how the limits are chosen, as reports say it.
        encode: numbers, divided by their scale, to the bytes that stand for them.
        runnable: a graph of it to one that ONNX Runtime computes on a CPU.
        sums: whether what goes into a sum is rounded too, as ONNX Runtime needs it to compute in int8.
    """

    precision: Precision
    element_type: int
    largest: float
    limits: Callable[[Ranges], Mapping[str, float]]
    method: str
    encode: Callable[[NDArray[Any]], NDArray[Any]]
    runnable: Callable[[Any], Any]
    sums: bool

    @property
    def label(self) -> str:
        """Return the name of the precision."""
        return self.precision.label


def _steps(values: NDArray[Any]) -> NDArray[np.int8]:
    steps: NDArray[np.int8] = np.clip(np.rint(values), -LEVELS, LEVELS).astype(np.int8)
    return steps


INT8 = EightBits(
    precision=Precision.INT8,
    element_type=3,
    largest=LEVELS,
    limits=lambda ranges: ranges.limits,
    method="mse",
    encode=_steps,
    runnable=lambda proto: proto,
    sums=True,
)
# Its steps grow with the numbers, so that cutting off the largest makes the others no finer: half the width of
# ResNet-18, untrained, first convolution fp32, mean cosine of three photos .85, .95 and .94 with int8's limits, and
# .93, .96 and .94 so.
FP8 = EightBits(
    precision=Precision.FP8,
    element_type=17,
    largest=fp8.LARGEST,
    limits=lambda ranges: {place: size or 1.0 for place, size in ranges.largest.items()},
    method="largest",
    encode=fp8.encode,
    runnable=fp8.emulated,
    sums=False,
)


def quantise(proto: Any, ranges: Ranges, *, keep: Iterable[str] = (), kind: EightBits = INT8) -> Any:
    """Return a graph whose trunk computes in eight bits: symmetric, zero point 0, weights per channel and stored once.

    Quantised are what a convolution reads and what it returns to a sum: so a runtime can pass int8 from one convolution
    to the next. Biases stay fp32; every runtime quantises them with its own scale.

    Args:
        proto: the fp32 graph, which is not changed.
        ranges: of its tensors.
        keep: names of convolutions that stay fp32 and read fp32.
        kind: type of eight bits.

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
    tensors = _tensors(trunk, quantised, kind.sums)
    nodes = _weights(model, quantised, kind)
    for node in model.graph.node:
        layer = trunk.layer(node)
        if layer in quantised or (layer is None and node.output[0] in trunk.places):
            for i, tensor in enumerate(node.input):
                if tensor in tensors:
                    node.input[i] = f"{tensor}.dq"
        nodes.append(node)
        for tensor in node.output:
            if tensor in tensors:
                nodes += _pair(tensor, f"{tensors[tensor]}.scale", f"{kind.label}.zero")
    limits = kind.limits(ranges)
    for place in sorted(set(tensors.values())):
        _add(model, f"{place}.scale", np.float32(limits[place] / kind.largest))
    _add_codes(model, f"{kind.label}.zero", np.zeros(()), kind)
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


def _tensors(trunk: Trunk, quantised: set[str], sums: bool) -> dict[str, str]:
    """Return the tensors to quantise, each with the place whose scale it gets."""
    tensors: dict[str, str] = {}
    for tensor, place in trunk.places.items():
        readers = trunk.consumers[tensor]
        read = any(trunk.layer(node) in quantised for node in readers)
        # ONNX Runtime computes in int8 only what is quantised on both sides: without this one, every second
        # convolution of a block would be fp32 there. It costs .002 of descriptor cosine (.9766 to .9734).
        summed = sums and place in quantised and any(node.op_type == "Add" for node in readers)
        if read or summed:
            tensors[tensor] = place
    return tensors


def _weights(model: Any, quantised: set[str], kind: EightBits) -> list[Any]:
    """Replace weights of convolutions by eight bits; return the nodes that dequantise them, one for all scales."""
    from onnx import helper, numpy_helper

    nodes = []
    names = {f"{layer}.weight" for layer in quantised}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in names]:
        name = tensor.name
        weight = numpy_helper.to_array(tensor)
        rows = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scale = np.where(rows > 0, rows / kind.largest, 1).astype(np.float32)
        model.graph.initializer.remove(tensor)
        parts = [f"{name}.{kind.label}", f"{name}.scale", f"{name}.zero"]
        _add_codes(model, parts[0], weight / scale[:, None, None, None], kind)
        _add(model, parts[1], scale)
        _add_codes(model, parts[2], np.zeros(len(scale)), kind)
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], f"{name}.dq", axis=0))
    return nodes


def _pair(tensor: str, scale: str, zero: str) -> list[Any]:
    from onnx import helper

    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{tensor}.q"], f"{tensor}.q"),
        helper.make_node("DequantizeLinear", [f"{tensor}.q", scale, zero], [f"{tensor}.dq"], f"{tensor}.dq"),
    ]


def _add_codes(model: Any, name: str, values: NDArray[Any], kind: EightBits) -> None:
    """Add a constant of eight bits: numbers that were divided by their scale."""
    from onnx import helper

    codes = kind.encode(values)
    tensor = helper.make_tensor(name, kind.element_type, codes.shape, codes.tobytes(), raw=True)
    model.graph.initializer.append(tensor)


def _add(model: Any, name: str, value: Any) -> None:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
