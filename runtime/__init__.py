"""Photos to local descriptors through a bundle: decoding, batches, engines.

    from ctxdeploy import bundle
    from ctxdeploy.runtime import Extractor, find_photos

    extractor = Extractor(bundle.open("my-bundle"))
    for result in extractor.extract(find_photos("photos")):
        ...

The names are imported when they are first used; an engine only when a bundle is loaded into it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.core.types import Box, FileState, PhotoDescriptors, StageSeconds
    from ctxdeploy.runtime.backends.base import BackendConfig
    from ctxdeploy.runtime.config import ExtractorConfig
    from ctxdeploy.runtime.decode.decode import Pixels, decode_photo
    from ctxdeploy.runtime.extractor import Extractor
    from ctxdeploy.runtime.photo import PhotoFailure, PhotoReader, PhotoSource
    from ctxdeploy.runtime.sources.folder import find_photos

__all__ = [
    "BackendConfig",
    "Box",
    "Extractor",
    "ExtractorConfig",
    "FileState",
    "PhotoDescriptors",
    "PhotoFailure",
    "PhotoReader",
    "PhotoSource",
    "Pixels",
    "StageSeconds",
    "decode_photo",
    "find_photos",
]

_MODULES = {
    "BackendConfig": "backends.base",
    "Box": "ctxdeploy.core.types",
    "PhotoDescriptors": "ctxdeploy.core.types",
    "Extractor": "extractor",
    "ExtractorConfig": "config",
    "FileState": "ctxdeploy.core.types",
    "Pixels": "decode.decode",
    "PhotoFailure": "photo",
    "PhotoReader": "photo",
    "PhotoSource": "photo",
    "StageSeconds": "ctxdeploy.core.types",
    "decode_photo": "decode.decode",
    "find_photos": "sources.folder",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES[name]
    return getattr(import_module(module if module.startswith("ctxdeploy.") else f"{__name__}.{module}"), name)
