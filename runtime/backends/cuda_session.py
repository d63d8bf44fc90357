"""A session of ONNX Runtime that really runs on a GPU: by itself ONNX Runtime falls back to the CPU in silence."""

import io
from contextlib import redirect_stdout
from typing import Any

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.origin import install_line
from ctxdeploy.core.targets import CUDA, TARGETS, artefact_of
from ctxdeploy.runtime.backends.base import load_error
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.backends.onnxruntime import session_options

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
# Operators that are a network's work. Others may run on the CPU: ONNX Runtime computes sizes there, on purpose. For the
# same reason its own `session.disable_cpu_ep_fallback` is of no use here: it refuses every graph that computes sizes.
HEAVY = frozenset(
    (
        *("AveragePool", "Conv", "FusedConv", "GlobalAveragePool", "MaxPool"),
        *("Einsum", "FusedMatMul", "Gemm", "GridSample", "MatMul", "Resize", "Softmax", "TopK"),
    )
)
_RECORD_ASSIGNMENTS = "session.record_ep_graph_assignment_info"


def provider_options(device: int, stream: int, memory: int | None) -> dict[str, str]:
    """Return the options of the CUDA provider.

    Args:
        device: number of the GPU.
        stream: handle of the stream that everything is computed on.
        memory: bytes that the arena may hold, weights included; no limit if None.
    """
    options = {
        "device_id": str(device),
        "user_compute_stream": str(stream),
        # Rounds factors of fp32 to 10 bits, and is on by default.
        "use_tf32": "0",
        # The default times every algorithm of every convolution for each new shape of photos, which takes seconds, and
        # chooses by the clock: other bits in each process.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles the arena each time that it grows.
        "arena_extend_strategy": "kSameAsRequested",
    }
    return options if memory is None else {**options, "gpu_mem_limit": str(memory)}


def open_session(ort: Any, bundle: Bundle, config: BackendConfig, options: dict[str, str]) -> Any:
    """Return a session of a bundle's graph.

    Args:
        ort: ONNX Runtime.
        bundle: opened.
        config: precision, and threads of what runs on the CPU.
        options: of the CUDA provider.

    Raises:
        BackendError: the graph cannot be loaded, or would run on the CPU, all of it or heavy operators.
        OutOfMemoryError: the GPU has not enough memory for the weights.
    """
    model = bundle.file(artefact_of(bundle, CUDA, config.precision))
    settings = session_options(ort, config.threads)
    settings.add_session_config_entry(_RECORD_ASSIGNMENTS, "1")
    said = _preload(ort)
    try:
        session = ort.InferenceSession(
            str(model),
            settings,
            providers=list(PROVIDERS),
            provider_options=[options, {}],
            enable_fallback=0,  # which prints to stdout, and takes the CPU
        )
    except Exception as error:  # ONNX Runtime's classes share no base but Exception
        raise load_error("onnxruntime on CUDA", model, error) from error
    check_gpu(session, said)
    return session


def _preload(ort: Any) -> str:
    """Load the libraries of CUDA and cuDNN that pip installed; return what ONNX Runtime prints about missing ones."""
    printed = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(printed):
            ort.preload_dlls()
    return " ".join(printed.getvalue().split())


def check_gpu(session: Any, said: str) -> None:
    """Raise ``BackendError`` if a session, or a heavy operator of it, runs on the CPU.

    Args:
        session: made with ``PROVIDERS``.
        said: about libraries that are missing.
    """
    found = session.get_providers()
    if not found or found[0] != PROVIDERS[0]:
        why = f" ({said})" if said else ""
        raise BackendError(
            f"onnxruntime runs on {', '.join(found) or 'nothing'} instead of {PROVIDERS[0]}{why}: the driver, or a "
            f"library of CUDA or cuDNN, is too old or missing: run  {install_line(TARGETS[CUDA].extra)}"
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before 1.24
        return
    there = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != PROVIDERS[0]]
    heavy = sorted({node.op_type for part in there for node in part.get_nodes()} & HEAVY)
    if heavy:
        raise BackendError(
            f"onnxruntime would run {', '.join(heavy)} on the CPU: this version has no kernel of it for the GPU: "
            "use --backend onnxruntime, or another version"
        )
