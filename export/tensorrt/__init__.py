"""ONNX graphs to engines of TensorRT and TensorRT-RTX. Needs the extra ``gpu`` or ``rtx``, and no PyTorch.

- ``config``: settings of a build;
- ``limits``: what the parser cannot take, said before anything is built;
- ``build``: an ONNX graph to an engine; ``parsing``, ``monitor``, ``cache`` and ``plugins`` are its parts;
- ``publish``: an engine into a bundle.
"""

from ctxdeploy.export.tensorrt.build import Plan, build_plan
from ctxdeploy.export.tensorrt.config import EngineConfig, Profile
from ctxdeploy.export.tensorrt.limits import graph_problems, problems
from ctxdeploy.export.tensorrt.publish import add_engine, build_engine

__all__ = ["EngineConfig", "Plan", "Profile", "add_engine", "build_engine", "build_plan", "graph_problems", "problems"]
