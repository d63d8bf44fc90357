"""ONNX graphs to engines of TensorRT and TensorRT-RTX. Needs the extra ``gpu`` or ``rtx``, and no PyTorch.

- ``config``: settings of a build; ``build``: an ONNX graph to an engine; ``monitor``: progress, Ctrl-C, timing cache;
- ``limits`` and ``nodes``: what the parser cannot take, said before anything is built;
- ``publish``: an engine into a bundle.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.tensorrt.config import EngineConfig
    from ctxdeploy.export.tensorrt.publish import build_engine

__all__ = ["EngineConfig", "build_engine"]

_HOMES = {"EngineConfig": "config", "build_engine": "publish"}

__getattr__, __dir__ = door(__name__, _HOMES)
