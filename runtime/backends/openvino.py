"""OpenVINO on the CPU: fp32, bf16 and int8."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME, Artefact, Bundle
from ctxdeploy.core.cpu import engine_threads
from ctxdeploy.core.errors import BackendError, CtxdeployError
from ctxdeploy.core.extras import require
from ctxdeploy.runtime.backends import unsigned
from ctxdeploy.runtime.backends.base import POLL_SECONDS, Backend, cpu_name, load_error
from ctxdeploy.runtime.backends.config import BackendConfig

# Compiled kernels that are kept, one per layer, scale and input shape. OpenVINO's default of 5000 took 634 MB after 320
# sizes of photos (ResNet-18, 7 scales, 224 pixels) and grew on; 1000 took 393 MB and levelled off, and still holds the
# half dozen sizes of an archive of one camera: no slower with six sizes in turn.
_KERNELS = 1000
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}


class OpenVinoBackend(Backend):
    """A compiled model of OpenVINO."""

    name = "openvino"

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        super().__init__(bundle)
        openvino = require("openvino", "cpu")
        core = openvino.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        check_openvino_precision(capabilities, config.precision)
        hint = hint_of(config.precision, capabilities)
        model = bundle.file(_artefact(bundle, config.precision))
        try:
            compiled = core.compile_model(core.read_model(inlined(model)), "CPU", _properties(config, hint))
        except CtxdeployError:  # onnx is not installed
            raise
        except Exception as error:  # OpenVINO raises RuntimeError and classes of its own
            raise load_error("openvino", model, error) from error
        check_hint(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(), hint, config.precision)
        self.precision = config.precision
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.device = cpu_name()
        self.threads = engine_threads(config.threads)
        self.version = str(openvino.__version__).partition("-")[0]

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        check = self.limits.watch()
        self._request.start_async({INPUT_NAME: images})
        try:
            while not self._request.wait_for(round(1000 * POLL_SECONDS)):
                check()
            self._request.wait()  # raises what the inference raised
        except BaseException:
            self._request.cancel()
            self._request = self._compiled.create_infer_request()  # the old one would refuse the next run
            raise
        # The request reuses its output tensors in the next run.
        return [np.array(self._request.get_tensor(name).data) for name in self.outputs]


def _artefact(bundle: Bundle, precision: str) -> Artefact:
    """Return the artefact of a precision; for bf16 the fp32 graph where there is no bf16 one: the hint suffices.

    The graph of bf16 keeps more of it in fp32: smallest cosine over 4 photos .9977 to .9981 instead of .9971 to .9973
    (how and ctx, ResNet-18), in the same time.
    """
    there = {a.precision for a in bundle.artefacts if a.format == "onnx"}
    return bundle.artefact(OpenVinoBackend.name, "fp32" if (precision == "bf16" and "bf16" not in there) else precision)


def check_openvino_precision(capabilities: list[str], precision: str) -> None:
    """Raise ``BackendError`` if the CPU has no arithmetic of this precision; OpenVINO would emulate or ignore it."""
    if precision == "bf16" and "BF16" not in capabilities:
        raise BackendError("this CPU has no bf16 arithmetic (AVX512_BF16 or AMX): use --precision fp32")


def inlined(path: Path) -> bytes:
    """Return a serialised ONNX model as OpenVINO needs it, int8 in its unsigned form.

    It takes the nodes of local functions for unknown operators: they are inlined. It adds a bias within a convolution
    only if no other one shares it: every scale gets its own, so that a convolution of int8 returns int8 and not fp32
    (0.98 of the time; bf16 0.96).
    """
    onnx = require("onnx", "cpu")
    model = onnx.load(str(path))
    if model.functions:
        model = require("onnx.inliner", "cpu").inline_local_functions(model)
    unsigned.rewrite(model.graph)
    _own_biases(model.graph)
    serialised: bytes = model.SerializeToString()
    return serialised


def _own_biases(graph: Any) -> None:
    """Give each convolution after the first that has some bias a copy of it."""
    biases = {tensor.name: tensor for tensor in graph.initializer}
    uses: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in biases:
            name = node.input[2]
            count = uses[name] = uses.get(name, 0) + 1
            if count > 1:
                copy = graph.initializer.add()
                copy.CopyFrom(biases[name])
                copy.name = node.input[2] = f"{name}.{count}"


def _properties(config: BackendConfig, hint: str) -> dict[str, Any]:
    # Without a hint OpenVINO chooses bf16 by itself where the CPU has it.
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint,
        "NUM_STREAMS": 1,
        "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS,
    }
    told = engine_threads(config.threads)
    if told is not None:
        properties["INFERENCE_NUM_THREADS"] = told
    return properties


def hint_of(precision: str, capabilities: list[str]) -> str:
    """Return what layers compute in that are not quantised.

    Beside int8 that is bf16 where the CPU has it: 0.75 of the time of fp32 with four convolutions left in higher
    precision, and the mean cosine changes by 0.001 at most (ResNet-18).
    """
    hint = _HINTS[precision]
    return "f32" if precision == "int8" and "BF16" not in capabilities else hint


def check_hint(reported: str, hint: str, precision: str) -> None:
    """Raise ``BackendError`` unless OpenVINO took the precision that it was asked for."""
    if reported != hint:
        raise BackendError(f"openvino runs in {reported} instead of {hint} (--precision {precision})")
