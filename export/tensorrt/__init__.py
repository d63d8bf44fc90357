"""ONNX graphs to engines of TensorRT and TensorRT-RTX. Needs the extra ``gpu`` or ``rtx``, and no PyTorch.

- ``config``: settings of a build; ``build``: an ONNX graph to an engine; ``monitor``: progress, Ctrl-C, timing cache;
- ``limits`` and ``nodes``: what the parser cannot take, said before anything is built;
- ``publish``: an engine into a bundle.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.export.tensorrt.config import EngineConfig
    from ctxdeploy.export.tensorrt.publish import build_engine

__all__ = ["EngineConfig", "build_engine"]

_HOMES = {"EngineConfig": "config", "build_engine": "publish"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
