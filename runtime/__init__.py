"""Photos to local descriptors through a bundle: decoding, batches, runtimes.

    from ctxdeploy.core import bundle
    from ctxdeploy.runtime import Extractor, find_photos

    extractor = Extractor(bundle.open("my-bundle"))
    for result in extractor.extract(find_photos("photos")):
        ...

The names are imported on first use; a runtime only when a bundle is loaded into it.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.core.types import Box, FileState, PhotoDescriptors, StageSeconds
    from ctxdeploy.runtime.backends.config import BackendConfig
    from ctxdeploy.runtime.config import ExtractorConfig
    from ctxdeploy.runtime.decode.decode import Pixels, decode_photo, photo_size
    from ctxdeploy.runtime.extractor import Extractor
    from ctxdeploy.runtime.network import ExtractionStatistics
    from ctxdeploy.runtime.network_queue import ExtractionObserver
    from ctxdeploy.runtime.photo import PhotoFailure, PhotoReader, PhotoSource
    from ctxdeploy.runtime.queued import QueuedExtractor
    from ctxdeploy.runtime.sources.folder import find_photos
    from ctxdeploy.runtime.thumbnails import Thumbnail, Thumbnailer

__all__ = [
    "BackendConfig",
    "Box",
    "ExtractionObserver",
    "ExtractionStatistics",
    "Extractor",
    "ExtractorConfig",
    "FileState",
    "PhotoDescriptors",
    "PhotoFailure",
    "PhotoReader",
    "PhotoSource",
    "Pixels",
    "QueuedExtractor",
    "StageSeconds",
    "Thumbnail",
    "Thumbnailer",
    "decode_photo",
    "find_photos",
    "photo_size",
]

_HOMES = {
    "BackendConfig": "ctxdeploy.runtime.backends.config",
    "Box": "ctxdeploy.core.types",
    "ExtractionObserver": "ctxdeploy.runtime.network_queue",
    "ExtractionStatistics": "ctxdeploy.runtime.network",
    "Extractor": "ctxdeploy.runtime.extractor",
    "ExtractorConfig": "ctxdeploy.runtime.config",
    "FileState": "ctxdeploy.core.types",
    "PhotoDescriptors": "ctxdeploy.core.types",
    "PhotoFailure": "ctxdeploy.runtime.photo",
    "PhotoReader": "ctxdeploy.runtime.photo",
    "PhotoSource": "ctxdeploy.runtime.photo",
    "Pixels": "ctxdeploy.runtime.decode.decode",
    "QueuedExtractor": "ctxdeploy.runtime.queued",
    "StageSeconds": "ctxdeploy.core.types",
    "Thumbnail": "ctxdeploy.runtime.thumbnails",
    "Thumbnailer": "ctxdeploy.runtime.thumbnails",
    "decode_photo": "ctxdeploy.runtime.decode.decode",
    "find_photos": "ctxdeploy.runtime.sources.folder",
    "photo_size": "ctxdeploy.runtime.decode.decode",
}

__getattr__, __dir__ = door(__name__, _HOMES)
