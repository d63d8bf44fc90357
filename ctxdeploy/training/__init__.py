"""Training of HOW and ctx networks: from nothing by pairs, then by HOW's contrastive loss.

sets/ ─photos→ sampling ─views→ objectives ─loss→ trainer ─checkpoint→ export

The names below are imported on first use; sets of photos have a door of their own, ``ctxdeploy.training.sets``.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.training.config import (
        RECIPES,
        ContrastiveConfig,
        OptimiserConfig,
        PairsConfig,
        RunConfig,
        TrainConfig,
        ValidationConfig,
    )
    from ctxdeploy.training.run import (
        Start,
        Trained,
        train,
    )

__all__ = [
    "RECIPES",
    "ContrastiveConfig",
    "OptimiserConfig",
    "PairsConfig",
    "RunConfig",
    "Start",
    "TrainConfig",
    "Trained",
    "ValidationConfig",
    "train",
]

_HOMES = {
    "RECIPES": "config",
    "ContrastiveConfig": "config",
    "OptimiserConfig": "config",
    "PairsConfig": "config",
    "RunConfig": "config",
    "Start": "run",
    "TrainConfig": "config",
    "Trained": "run",
    "ValidationConfig": "config",
    "train": "run",
}

__getattr__, __dir__ = door(__name__, _HOMES)
