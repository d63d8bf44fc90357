"""How many floating-point operations a graph takes for a photo: those of its convolutions and products of matrices.

Sizes inside the graphs depend on the photo through nodes that compute them, so nothing is inferred: ONNX Runtime runs
the fp32 graph once on each shape, without any optimisation that would fuse nodes, and its profile gives the shapes that
every node met.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.bundle import INPUT_NAME, Bundle
from ctxdeploy.core.extras import require_onnxruntime

COUNTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "FusedMatMul")


def count_operations(bundle: Bundle, shapes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Return the operations of one photo of each shape (height, width), two for a multiply-add.

    Element by element work (normalisation, resizing, activations, selection) is not counted.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    model = bundle.file(bundle.artefacts[0])
    return {shape: _of_shape(model, shape) for shape in dict.fromkeys(shapes)}


def _of_shape(model: Path, shape: tuple[int, int]) -> float:
    ort = require_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        session.run(None, {INPUT_NAME: np.zeros((1, *shape, 3), np.uint8)})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return sum(_of_event(event["args"]) for event in events if event.get("cat") == "Node" and _ran(event))


def _ran(event: Mapping[str, Any]) -> bool:
    return str(event.get("name", "")).endswith("_kernel_time") and event["args"].get("op_name") in COUNTED


def _of_event(arguments: Mapping[str, Any]) -> float:
    """Return the operations of a node from the shapes of its inputs and output."""
    inputs: list[list[int]] = [next(iter(entry.values())) for entry in arguments["input_type_shape"]]
    output: list[int] = next(iter(arguments["output_type_shape"][0].values()))
    kind = str(arguments["op_name"])
    if kind == "Conv":  # weights M × C/groups × kernel
        return 2.0 * math.prod(output) * math.prod(inputs[1][1:])
    if kind == "ConvTranspose":  # weights C × M/groups × kernel
        return 2.0 * math.prod(inputs[0]) * math.prod(inputs[1][1:])
    return 2.0 * math.prod(output) * _inner(kind, inputs, output)


def _inner(kind: str, inputs: list[list[int]], output: list[int]) -> int:
    """Return the length of the sums of a product of matrices, whichever side is transposed."""
    if kind == "MatMul":
        return inputs[0][-1]
    return math.prod(inputs[0][-2:]) // max(output[-2], 1)
