"""What the machine can do: large convolutions in a runtime and precision, and sequential reads of memory.

They are the limits that a network and a search are held against, and, timed again in every window, the meter that tells
how fast the machine itself was meanwhile.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench.timing import timed
from ctxdeploy.core.cpu import engine_threads
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.kernels.scores import compiled

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
        from ctxdeploy.core.extras import require_onnxruntime
        from ctxdeploy.runtime.backends import session_options

        ort = require_onnxruntime()
        session = ort.InferenceSession(model, session_options(ort, threads), providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"x": image})
    from ctxdeploy.core.extras import require

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

    A product of matrices is no limit: numpy's and PyTorch's BLAS reach half of this on Zen 5.
    """
    run = convolution_runner(target, precision, threads)
    return CONVOLUTION_FLOP / min(timed(run)[0] for _ in range(runs))


def read_runner(threads: int = 1) -> Callable[[], object]:
    """Return a call that reads ``READ_BYTES`` once, in order, divided among threads."""
    data = np.ones(READ_BYTES // 8, np.uint64)
    _read(data[:8])
    parts = np.array_split(data, threads)
    executor = ThreadPoolExecutor(threads)
    return lambda: list(executor.map(_read, parts))


def bandwidth(repeats: int, threads: int = 1) -> float:
    """Return the bytes a second of the fastest sequential read of 1 GiB, divided among threads."""
    run = read_runner(threads)
    return READ_BYTES / min(timed(run)[0] for _ in range(repeats))


@compiled
def _read(data: NDArray[np.uint64]) -> Any:
    total = np.uint64(0)
    for i in range(data.size):
        total ^= data[i]
    return total


def _convolutions(*, quantised: bool) -> bytes:
    """Return a serialised model of the convolutions, between QuantizeLinear and DequantizeLinear if ``quantised``."""
    from ctxdeploy.core.extras import require

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
