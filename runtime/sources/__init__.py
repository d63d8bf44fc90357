"""Places that photos come from: folders, lists, tar and zip files, servers.

    from ctxdeploy.runtime.sources import list_photos

    for photo in list_photos("photos").photos:
        ...

Each kind of place is one module; ``docs/places.md`` says what an argument means.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.runtime.config import RemoteConfig
    from ctxdeploy.runtime.sources.base import PhotoList
    from ctxdeploy.runtime.sources.folder import FilePhoto, find_photos
    from ctxdeploy.runtime.sources.places import list_photos
    from ctxdeploy.runtime.sources.selection import LeftOut, Selection

__all__ = [
    "FilePhoto",
    "LeftOut",
    "PhotoList",
    "RemoteConfig",
    "Selection",
    "find_photos",
    "list_photos",
]

_HOMES = {
    "FilePhoto": "ctxdeploy.runtime.sources.folder",
    "LeftOut": "ctxdeploy.runtime.sources.selection",
    "PhotoList": "ctxdeploy.runtime.sources.base",
    "RemoteConfig": "ctxdeploy.runtime.config",
    "Selection": "ctxdeploy.runtime.sources.selection",
    "find_photos": "ctxdeploy.runtime.sources.folder",
    "list_photos": "ctxdeploy.runtime.sources.places",
}

__getattr__, __dir__ = door(__name__, _HOMES)
