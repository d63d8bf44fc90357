"""The roofline: what the machine can do, and how much of that a network or a search needs.

The limits are large convolutions in a runtime and precision, and sequential reads of memory. Timed again in every
window, they are also the meter that tells how fast the machine itself was meanwhile.

The work of a network is that of its convolutions and products of matrices for a photo. Sizes inside the graphs depend
on the photo through nodes that compute them, so nothing is inferred: ONNX Runtime runs the fp32 graph once on each
shape, without any optimisation that would fuse nodes, and its profile gives the shapes that every node met. PyTorch's
own counter would need PyTorch and the checkpoint.
"""

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench.stages import Sample
from ctxdeploy.bench.statistics import timed
from ctxdeploy.core.bundle import INPUT_NAME, Bundle
from ctxdeploy.core.cpu import engine_threads
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require, require_onnxruntime

COUNTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "FusedMatMul")
# B×C×H×W of the input, and the kernel; four of them in a row, 58 GFLOP.
SHAPE, KERNEL, LAYERS = (1, 256, 96, 128), (256, 256, 3, 3), 4
CONVOLUTION_FLOP = float(LAYERS * 2 * np.prod(KERNEL) * SHAPE[2] * SHAPE[3])
READ_BYTES = 1 << 30


def convolution_runner(target: str, precision: str, threads: int | None = None) -> Callable[[], object]:
    """Return a call that computes four large convolutions in a row: ``CONVOLUTION_FLOP`` operations.

    Args:
        target: ``onnxruntime`` or ``openvino``.
        precision: ``fp32``, ``bf16`` (OpenVINO) or ``int8``.
        threads: as ``engine_threads`` takes them.

    Raises:
        ConfigError: nothing to hold this engine and precision against.
    """
    if (target, precision) not in RATED:
        known = ", ".join(" ".join(pair) for pair in RATED)
        raise ConfigError(f"{target} {precision} has no reference convolution; there are {known}")
    model = _convolutions(quantised=precision == "int8")
    image = np.random.default_rng(1).random(SHAPE, np.float32)
    if target == "onnxruntime":
        from ctxdeploy.runtime.backends import session_options

        ort = require_onnxruntime()
        session = ort.InferenceSession(model, session_options(ort, threads), providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"x": image})
    core = require("openvino", "cpu").Core()
    hint: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32", "NUM_STREAMS": 1}
    told = engine_threads(threads)
    if told is not None:
        hint["INFERENCE_NUM_THREADS"] = told
    request = core.compile_model(core.read_model(model), "CPU", hint).create_infer_request()
    return lambda: request.infer({"x": image})


RATED = tuple(
    [("onnxruntime", precision) for precision in ("fp32", "int8")]
    + [("openvino", precision) for precision in ("fp32", "bf16", "int8")]
)


def convolution_rate(target: str, precision: str, threads: int | None = None, runs: int = 15) -> float:
    """Return the best rate of large convolutions in operations a second: what is attainable here.

    Products of matrices would give a lower limit: the BLAS of numpy and PyTorch reaches half of this on Zen 5.
    """
    run = convolution_runner(target, precision, threads)
    return CONVOLUTION_FLOP / min(timed(run)[0] for _ in range(runs))


def read_runner(threads: int = 1) -> Callable[[], object]:
    """Return a call that reads ``READ_BYTES`` once, in order, divided among threads."""
    from numba import njit

    read = njit(nogil=True)(_read)
    data = np.ones(READ_BYTES // 8, np.uint64)
    read(data[:8])
    parts = np.array_split(data, threads)
    executor = ThreadPoolExecutor(threads)
    return lambda: list(executor.map(read, parts))


def bandwidth(repeats: int, threads: int = 1) -> float:
    """Return the bytes a second of the fastest sequential read of 1 GiB, divided among threads."""
    run = read_runner(threads)
    return READ_BYTES / min(timed(run)[0] for _ in range(repeats))


def _read(data: NDArray[np.uint64]) -> Any:
    total = np.uint64(0)
    for i in range(data.size):
        total ^= data[i]
    return total


def _convolutions(*, quantised: bool) -> bytes:
    """Return a serialised model of the convolutions, between QuantizeLinear and DequantizeLinear if ``quantised``."""
    helper, numpy_helper = require("onnx.helper", "cpu"), require("onnx.numpy_helper", "cpu")
    random = np.random.default_rng(0)
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}

    def pair(tensor: str, kind: type) -> str:
        if not quantised:
            return tensor
        constants["scale"], constants[f"zero {kind.__name__}"] = np.array(0.05, np.float32), np.array(0, kind)
        given = (tensor, "scale", f"zero {kind.__name__}")
        nodes.append(helper.make_node("QuantizeLinear", given, [f"{tensor} q"]))
        nodes.append(helper.make_node("DequantizeLinear", (f"{tensor} q", *given[1:]), [f"{tensor} dq"]))
        return f"{tensor} dq"

    current = pair("x", np.uint8)
    for i in range(LAYERS):
        values = random.standard_normal(KERNEL).astype(np.float32) / 48
        if quantised:
            constants[f"w{i} q"] = np.clip(np.rint(values / 0.001), -127, 127).astype(np.int8)
            constants["w scale"], constants["w zero"] = np.array(0.001, np.float32), np.array(0, np.int8)
            nodes.append(helper.make_node("DequantizeLinear", [f"w{i} q", "w scale", "w zero"], [f"w{i}"]))
        else:
            constants[f"w{i}"] = values
        nodes.append(helper.make_node("Conv", [current, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        current = pair(f"r{i}", np.uint8)
    value, real = helper.make_tensor_value_info, require("onnx", "cpu").TensorProto.FLOAT
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "convolutions", [value("x", real, SHAPE)], [value(current, real, SHAPE)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    serialised: bytes = model.SerializeToString()
    return serialised


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


class ConvolutionSubject:
    """Four large convolutions in a runtime: the meter of networks. Settings: backend, precision, threads."""

    gpu = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._run = convolution_runner(settings["backend"], settings["precision"], settings["threads"])
        self.items, self.facts = 3, {"operations": CONVOLUTION_FLOP}

    def warm(self) -> None:
        """Compute once."""
        self._run()

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``."""
        return _repeated(self._run, items)


class ReadSubject:
    """Sequential reads of 1 GiB: the meter of searches. Settings: threads."""

    gpu = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._run = read_runner(settings["threads"])
        self.items, self.facts = 3, {"bytes": READ_BYTES}

    def warm(self) -> None:
        """Read once."""
        self._run()

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``."""
        return _repeated(self._run, items)


def _repeated(work: Callable[[], object], items: Sequence[int]) -> list[Sample]:
    return [Sample(seconds=timed(work)[0], stages={}) for _ in items]
