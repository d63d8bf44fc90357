"""The runtimes that a bundle runs in; `ctxdeploy.core.targets` is the table of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.runtime.backends.base import Backend, BackendConfig, GraphOutputs, first_line, open_backend
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
    "session_options",
]

_HOMES = {
    "Backend": "ctxdeploy.runtime.backends.base",
    "BackendConfig": "ctxdeploy.runtime.backends.base",
    "Cuda": "ctxdeploy.runtime.backends.cuda",
    "GraphOutputs": "ctxdeploy.runtime.backends.base",
    "check_openvino_precision": "ctxdeploy.runtime.backends.openvino",
    "first_line": "ctxdeploy.runtime.backends.base",
    "open_backend": "ctxdeploy.runtime.backends.base",
    "session_options": "ctxdeploy.runtime.backends.onnxruntime",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
