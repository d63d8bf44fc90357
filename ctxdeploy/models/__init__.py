"""Models by name: the built-in one, those that can be fetched, and the folder that keeps fetched ones.

- ``table``: the models, with addresses and licences;
- ``finding``: from a name or a path to a bundle or a checkpoint;
- ``listing``: what is known of each model that has a name;
- ``download``, ``pulling``: from an address to a file, and from a file to a model;
- ``release``: from a trained checkpoint and photos to a model's folder, such as ``ctx-small`` beside this file.

The names below are imported on first use.
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
    from ctxdeploy.models.pulling import MIRROR, Pulled, address, find_published, pull, remove
    from ctxdeploy.models.release import ReleaseConfig, Released, card_text, release_model
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
    "pulling": ("MIRROR", "Pulled", "address", "find_published", "pull", "remove"),
    "release": ("ReleaseConfig", "Released", "card_text", "release_model"),
    "table": ("DEFAULT", "PUBLISHED", "is_name"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BUNDLE_SUFFIX",
    "DEFAULT",
    "MIRROR",
    "PUBLISHED",
    "DownloadConfig",
    "ModelInfo",
    "Origin",
    "Pulled",
    "ReleaseConfig",
    "Released",
    "address",
    "built_in",
    "card_text",
    "check_own",
    "display_name",
    "find_bundle",
    "find_checkpoint",
    "find_model",
    "find_published",
    "is_name",
    "list_models",
    "models_folder",
    "only_here",
    "pull",
    "release_model",
    "remove",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
