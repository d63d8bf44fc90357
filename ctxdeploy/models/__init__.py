"""Models by name: the built-in ones, those that can be fetched, and the folder that keeps fetched ones.

- ``table``: the built-in models; ``authors``: those that authors published, with addresses and licences;
- ``finding``: from a name or a path to a bundle or a checkpoint;
- ``listing``: what is known of each model that has a name;
- ``download``, ``checks``, ``unpacking``, ``pulling``: from an address to a file, and from a file to a model;
- ``release``: from a trained checkpoint and photos to a model's folder, such as ``lite-small`` beside this file.

The names below are imported on first use. ``pulling`` and ``release`` are not among them: they stand on the export, the
evaluation and the archive, which find their models through this door.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.models.authors import PUBLISHED, UNAVAILABLE
    from ctxdeploy.models.download import DownloadConfig
    from ctxdeploy.models.finding import (
        BUNDLE_SUFFIX,
        built_in,
        check_own,
        display_name,
        find_bundle,
        find_checkpoint,
        find_codebook,
        find_model,
        models_folder,
        only_here,
    )
    from ctxdeploy.models.listing import ModelInfo, Origin, list_models
    from ctxdeploy.models.table import DEFAULT, is_name

__all__ = [
    "BUNDLE_SUFFIX",
    "DEFAULT",
    "PUBLISHED",
    "UNAVAILABLE",
    "DownloadConfig",
    "ModelInfo",
    "Origin",
    "built_in",
    "check_own",
    "display_name",
    "find_bundle",
    "find_checkpoint",
    "find_codebook",
    "find_model",
    "is_name",
    "list_models",
    "models_folder",
    "only_here",
]

_HOMES = {
    "BUNDLE_SUFFIX": "finding",
    "DEFAULT": "table",
    "PUBLISHED": "authors",
    "UNAVAILABLE": "authors",
    "DownloadConfig": "download",
    "ModelInfo": "listing",
    "Origin": "listing",
    "built_in": "finding",
    "check_own": "finding",
    "display_name": "finding",
    "find_bundle": "finding",
    "find_checkpoint": "finding",
    "find_codebook": "finding",
    "find_model": "finding",
    "is_name": "table",
    "list_models": "listing",
    "models_folder": "finding",
    "only_here": "finding",
}

__getattr__, __dir__ = door(__name__, _HOMES)
