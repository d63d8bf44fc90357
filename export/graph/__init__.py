"""A network to one ONNX graph, in fp32 and in mixed precision."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.export.graph.graph import build_graph, save_graph

__all__ = ["build_graph", "save_graph"]

_HOMES = {"build_graph": "graph", "save_graph": "graph"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
