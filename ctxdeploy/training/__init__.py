"""Training of HOW and ctx networks: from nothing by pairs, then by HOW's contrastive loss.

sets/ ─photos→ sampling ─views→ objectives ─loss→ trainer ─checkpoint→ export

The names below are imported on first use; sets of photos have a door of their own, ``ctxdeploy.training.sets``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
