"""Models by name: the built-in one, those that can be fetched, and the folder that keeps fetched ones.

- ``table``: the models, with addresses and licences;
- ``finding``: from a name or a path to a bundle or a checkpoint;
- ``listing``: what is known of each model that has a name;
- ``download``, ``pulling``: from an address to a file, and from a file to a model;
- ``release``: from a trained checkpoint and photos to a model's folder, such as ``ctx-small`` beside this file.

The names below are imported on first use. ``pulling`` and ``release`` are not among them: they stand on the export, the
evaluation and the archive, which find their models through this door.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.models.download import DownloadConfig
    from ctxdeploy.models.finding import (
        BUNDLE_SUFFIX,
        built_in,
        check_own,
        display_name,
        find_bundle,
        find_checkpoint,
        find_model,
        models_folder,
        only_here,
    )
    from ctxdeploy.models.listing import ModelInfo, Origin, list_models
    from ctxdeploy.models.table import DEFAULT, PUBLISHED, is_name

_MODULES = {
    "download": ("DownloadConfig",),
    "finding": (
        "BUNDLE_SUFFIX",
        "built_in",
        "check_own",
        "display_name",
        "find_bundle",
        "find_checkpoint",
        "find_model",
        "models_folder",
        "only_here",
    ),
    "listing": ("ModelInfo", "Origin", "list_models"),
    "table": ("DEFAULT", "PUBLISHED", "is_name"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BUNDLE_SUFFIX",
    "DEFAULT",
    "PUBLISHED",
    "DownloadConfig",
    "ModelInfo",
    "Origin",
    "built_in",
    "check_own",
    "display_name",
    "find_bundle",
    "find_checkpoint",
    "find_model",
    "is_name",
    "list_models",
    "models_folder",
    "only_here",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
