"""The first layer where two artefacts of a network diverge.

- ``diff``: errors along the graph, and the verdict; ``layers``: which tensors of two graphs are the same;
- ``sides``: what is compared, and the engines that run it.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

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

__getattr__, __dir__ = door(__name__, _HOMES)
