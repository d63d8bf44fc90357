"""Int8 after a ReLU as uint8, for ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

from ctxdeploy.extras import require

# Moves a QuantizeLinear to before max pooling, which then is uint8 in a layout for which ONNX Runtime has but a plain
# kernel: 0.40 of 1.04 s a photo (ResNet-18, 768×1024, one thread, first convolution in fp32).
DISABLED = ("QDQPropagationTransformer",)
_ZERO = "uint8.zero"


def with_unsigned(path: Path) -> bytes:
    """Return a serialised ONNX model whose QuantizeLinear nodes after a ReLU return uint8 of the same scale.

    Values are the same but for those that int8 clips at 127 steps, which now reach 255. A file for all runtimes holds
    int8 with zero point 0 alone (TensorRT takes nothing else), but ONNX Runtime joins convolution, ReLU and
    QuantizeLinear only where QuantizeLinear does what the ReLU does, and else computes the convolution in fp32 (1.59 s
    instead of 1.04).
    """
    onnx = require("onnx", "cpu")
    model = onnx.load(str(path))
    if not _rewrite(onnx, model.graph):
        return path.read_bytes()
    model.graph.initializer.append(onnx.helper.make_tensor(_ZERO, onnx.TensorProto.UINT8, [], [0]))
    serialised: bytes = model.SerializeToString()
    return serialised


def _rewrite(onnx: Any, graph: Any) -> bool:
    """Change zero points in place; return whether there was one to change."""
    producers = {tensor: node for node in graph.node for tensor in node.output}
    zeros = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and not t.dims}
    changed = set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[2] in zeros and _positive(node.input[0], producers):
            node.input[2] = _ZERO
            changed.add(node.output[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in changed:
            node.input[2] = _ZERO
    return bool(changed)


def _positive(tensor: str, producers: dict[str, Any]) -> bool:
    """Return whether a ReLU makes a tensor, perhaps with pooling and quantisation in between."""
    while tensor in producers:
        node = producers[tensor]
        if node.op_type == "Relu":
            return True
        if node.op_type not in ("MaxPool", "QuantizeLinear", "DequantizeLinear"):
            return False
        tensor = node.input[0]
    return False
