"""A network to one ONNX graph, in fp32 and in mixed precision."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.export.graph.graph import build_graph, save_graph
    from ctxdeploy.export.graph.mixed import emulated, to_mixed

__all__ = [
    "build_graph",
    "emulated",
    "save_graph",
    "to_mixed",
]

_HOMES = {
    "build_graph": "graph",
    "emulated": "mixed",
    "save_graph": "graph",
    "to_mixed": "mixed",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
