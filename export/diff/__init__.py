"""The first layer where two artefacts of a network diverge.

- ``diff``: errors along the graph, and the verdict; ``layers``: which tensors of two graphs are the same;
- ``sides``: what is compared, and the engines that run it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.export.diff.diff import Diff, DiffConfig, LayerError, compare_graphs
    from ctxdeploy.export.diff.layers import SIZES
    from ctxdeploy.export.diff.sides import Side, side

__all__ = ["SIZES", "Diff", "DiffConfig", "LayerError", "Side", "compare_graphs", "side"]

_HOMES = {
    "Diff": "diff",
    "DiffConfig": "diff",
    "LayerError": "diff",
    "SIZES": "layers",
    "Side": "sides",
    "compare_graphs": "diff",
    "side": "sides",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
