"""A graph in ONNX Runtime on the CPU, with values on the way for outputs."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bundle import OUTPUT_NAMES
from ctxdeploy.errors import BackendError
from ctxdeploy.extras import require_onnxruntime
from ctxdeploy.runtime.backends.base import first_line
from ctxdeploy.runtime.backends.onnxruntime import PROVIDERS, run_session, session_options
from ctxdeploy.runtime.inspection.graph import Graph

Values = Mapping[str, NDArray[np.float32]]


def values_of(graph: Graph, names: Iterable[str], pixels: NDArray[np.uint8], threads: int | None) -> Values:
    """Return the outputs of a graph, and these values, for one image.

    Args:
        graph: of a bundle.
        names: of values in it, float32.
        pixels: H×W×3 uint8, RGB, already scaled.
        threads: ONNX Runtime's own choice if None, or a CPU quota's.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        BackendError: it cannot run the graph, or an output is NaN or infinite.
    """
    ort = require_onnxruntime()
    wanted = list(dict.fromkeys((*OUTPUT_NAMES, *names)))
    try:
        session = ort.InferenceSession(graph.exposing(wanted), session_options(ort, threads), providers=list(PROVIDERS))
        values = dict(zip(wanted, run_session(session, ort.RunOptions(), wanted, pixels[None]), strict=True))
    except Exception as error:  # ONNX Runtime's classes share no base but Exception
        raise BackendError(f"onnxruntime cannot run {graph.path}: {first_line(error)}") from error
    for name in OUTPUT_NAMES:
        if not np.isfinite(values[name]).all():
            raise BackendError(f"the network returned NaN or infinity in {name}")
    return values
