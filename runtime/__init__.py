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
    from ctxdeploy.runtime.backends.base import BackendConfig
    from ctxdeploy.runtime.boxes import Box
    from ctxdeploy.runtime.config import ExtractorConfig
    from ctxdeploy.runtime.decode import Photo, decode_photo
    from ctxdeploy.runtime.extract import Extractor
    from ctxdeploy.runtime.photos import find_photos
    from ctxdeploy.runtime.sources import Extracted, FileState, PhotoFailure, PhotoReader, PhotoSource, StageSeconds

__all__ = [
    "BackendConfig",
    "Box",
    "Extracted",
    "Extractor",
    "ExtractorConfig",
    "FileState",
    "Photo",
    "PhotoFailure",
    "PhotoReader",
    "PhotoSource",
    "StageSeconds",
    "decode_photo",
    "find_photos",
]

_MODULES = {
    "BackendConfig": "backends.base",
    "Box": "boxes",
    "Extracted": "sources",
    "Extractor": "extract",
    "ExtractorConfig": "config",
    "FileState": "sources",
    "Photo": "decode",
    "PhotoFailure": "sources",
    "PhotoReader": "sources",
    "PhotoSource": "sources",
    "StageSeconds": "sources",
    "decode_photo": "decode",
    "find_photos": "photos",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
