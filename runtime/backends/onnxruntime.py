"""ONNX Runtime on the CPU: fp32, int8, and fp16 where it has kernels for it (it computes the rest in fp32)."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME, Bundle
from ctxdeploy.core.cpu import engine_threads
from ctxdeploy.core.errors import BackendError, CtxdeployError
from ctxdeploy.core.extras import require_onnxruntime
from ctxdeploy.runtime.backends.base import (
    POLL_SECONDS,
    Backend,
    RunLimits,
    cpu_name,
    is_out_of_memory,
    load_error,
)
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.backends.unsigned import with_unsigned

# Moves a QuantizeLinear to before max pooling, which then is uint8 in a layout for which ONNX Runtime has but a plain
# kernel: 0.40 of 1.04 s a photo (ResNet-18, 768×1024, one thread, first convolution in fp32).
DISABLED = ("QDQPropagationTransformer",)
PROVIDERS = ("CPUExecutionProvider",)
_ERRORS_ONLY, _FATAL_ONLY = 3, 4


class OnnxRuntimeBackend(Backend):
    """A session of ONNX Runtime. It runs local functions as they stand."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        super().__init__(bundle)
        ort = require_onnxruntime()
        self._bundle, self._config = bundle, config
        self._session: Any = _open(ort, bundle, config)
        self._run_options = ort.RunOptions
        self.device = cpu_name()
        self.precision = config.precision
        self.threads = engine_threads(config.threads)
        self.version = str(ort.__version__)

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        if self._session is None:
            self._session = _open(require_onnxruntime(), self._bundle, self._config)
        options = self._run_options()
        options.log_severity_level = _FATAL_ONLY  # errors are raised
        try:
            return run_session(self._session, options, self.outputs, images, self.limits)
        except Exception as error:
            if is_out_of_memory(error):
                self._session = None  # its arena keeps what it got before there was no more, from any smaller run
            raise


def run_session(
    session: Any, options: Any, names: Sequence[str], images: NDArray[np.uint8], limits: RunLimits | None = None
) -> list[NDArray[np.float32]]:
    """Return outputs of a session; Ctrl-C, or what the limits raise, ends the run at its next node."""
    check = (limits or RunLimits()).watch()
    # The thread costs 0.1 ms; `terminate` ends a run at its next node.
    with ThreadPoolExecutor(1, thread_name_prefix="ctxdeploy-network") as executor:
        future = executor.submit(session.run, list(names), {INPUT_NAME: images}, options)
        try:
            while not wait([future], POLL_SECONDS).done:
                check()
            arrays: list[NDArray[np.float32]] = future.result()
        except BaseException:
            options.terminate = True
            raise
    return arrays


def _open(ort: Any, bundle: Bundle, config: BackendConfig) -> Any:
    model = bundle.file(bundle.artefact(OnnxRuntimeBackend.name, config.precision))
    try:
        int8 = config.precision == "int8"
        session = ort.InferenceSession(
            with_unsigned(model) if int8 else str(model),
            session_options(ort, config.threads),
            providers=list(PROVIDERS),
            disabled_optimizers=list(DISABLED) if int8 else None,
        )
    except CtxdeployError:  # onnx is not installed, which int8 needs
        raise
    except Exception as error:  # ONNX Runtime's classes share no base but Exception
        raise load_error("onnxruntime", model, error) from error
    check_providers(session.get_providers(), PROVIDERS)
    return session


def check_providers(found: list[str], asked: tuple[str, ...]) -> None:
    """Raise ``BackendError`` unless the first provider asked for is in force: ONNX Runtime falls back in silence."""
    if not found or found[0] != asked[0]:
        raise BackendError(f"onnxruntime runs on {', '.join(found) or 'nothing'} instead of {asked[0]}: reinstall it")


def session_options(ort: Any, threads: int | None) -> Any:
    """Return the options of a session on the CPU with so many threads; if None see ``engine_threads``.

    They spin while they wait for the next operator, unless ``OMP_WAIT_POLICY`` is ``passive``.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.inter_op_num_threads = 1
    told = engine_threads(threads)
    if told is not None:
        options.intra_op_num_threads = told
    # A thread that spins takes the processor from the one that it waits for: a query took 9.1 s of processor time on
    # two cores with five other busy threads, and 1.3 s without spinning.
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A pattern is kept for every input shape: ResNet-18 on 40 sizes of photos peaked at 383 MB, without patterns at
    # 278, in the same time. The arena stays: it does not grow with shapes, and without it runs take 1.2 times as long.
    options.enable_mem_pattern = False
    return options
