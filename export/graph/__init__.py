"""A network to one ONNX graph, in fp32 and in mixed precision."""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.graph.graph import build_graph, save_graph

__all__ = ["build_graph", "save_graph"]

_HOMES = {"build_graph": "graph", "save_graph": "graph"}

__getattr__, __dir__ = door(__name__, _HOMES)
