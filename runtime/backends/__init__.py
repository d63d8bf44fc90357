"""The runtimes that a bundle runs in; `ctxdeploy.core.targets` is the table of them."""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.runtime.backends.base import Backend, GraphOutputs, first_line
    from ctxdeploy.runtime.backends.choice import open_backend, resolve
    from ctxdeploy.runtime.backends.config import BackendConfig
    from ctxdeploy.runtime.backends.cuda import Cuda
    from ctxdeploy.runtime.backends.onnxruntime import session_options
    from ctxdeploy.runtime.backends.openvino import check_openvino_precision

__all__ = [
    "Backend",
    "BackendConfig",
    "Cuda",
    "GraphOutputs",
    "check_openvino_precision",
    "first_line",
    "open_backend",
    "resolve",
    "session_options",
]

_HOMES = {
    "Backend": "ctxdeploy.runtime.backends.base",
    "BackendConfig": "ctxdeploy.runtime.backends.config",
    "Cuda": "ctxdeploy.runtime.backends.cuda",
    "GraphOutputs": "ctxdeploy.runtime.backends.base",
    "check_openvino_precision": "ctxdeploy.runtime.backends.openvino",
    "first_line": "ctxdeploy.runtime.backends.base",
    "open_backend": "ctxdeploy.runtime.backends.choice",
    "resolve": "ctxdeploy.runtime.backends.choice",
    "session_options": "ctxdeploy.runtime.backends.onnxruntime",
}

__getattr__, __dir__ = door(__name__, _HOMES)
