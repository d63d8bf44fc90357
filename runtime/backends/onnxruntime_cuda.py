"""ONNX Runtime on a GPU of NVIDIA: the graphs that it runs on a CPU, in fp32 and fp16."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import find_gpu
from ctxdeploy.core.errors import MissingExtraError
from ctxdeploy.core.extras import require_onnxruntime
from ctxdeploy.core.targets import CUDA, artefact_of
from ctxdeploy.runtime.backends.base import Backend, load_error
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.backends.onnxruntime import check_providers, run_session, session_options

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class CudaBackend(Backend):
    """A session of ONNX Runtime with its provider for CUDA."""

    name = CUDA

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        super().__init__(bundle)
        gpu = find_gpu(config.gpu)
        ort = require_onnxruntime()
        if PROVIDERS[0] not in ort.get_available_providers():
            raise MissingExtraError("onnxruntime-gpu", "cuda")
        model = bundle.file(artefact_of(bundle, CUDA, config.precision))
        # With TF32, which is on by default, fp32 products round their factors to 10 bits.
        options = [{"device_id": str(config.gpu), "use_tf32": "0"}, {}]
        try:
            self._session: Any = ort.InferenceSession(
                str(model),
                session_options(ort, config.threads),
                providers=list(PROVIDERS),
                provider_options=options,
            )
        except Exception as error:  # ONNX Runtime's classes share no base but Exception
            raise load_error("onnxruntime on CUDA", model, error) from error
        check_providers(self._session.get_providers(), PROVIDERS)
        self._run_options = ort.RunOptions
        self.device = f"GPU: {gpu.label}"
        self.precision = config.precision
        self.threads = config.threads
        self.version = str(ort.__version__)

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return run_session(self._session, self._run_options(), self.outputs, images, self.limits)
