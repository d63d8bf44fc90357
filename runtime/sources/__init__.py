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
    from ctxdeploy.runtime.sources.diagnosis import answered
    from ctxdeploy.runtime.sources.folder import FilePhoto, FolderPhotos, find_photos
    from ctxdeploy.runtime.sources.name_table import NameTable
    from ctxdeploy.runtime.sources.places import is_place, list_photos
    from ctxdeploy.runtime.sources.remote import change_of, remote_photo
    from ctxdeploy.runtime.sources.selection import LeftOut, Selection, takes_name
    from ctxdeploy.runtime.sources.server import Server
    from ctxdeploy.runtime.sources.stdin import STANDARD_INPUT, standard_input

__all__ = [
    "STANDARD_INPUT",
    "FilePhoto",
    "FolderPhotos",
    "LeftOut",
    "NameTable",
    "PhotoList",
    "RemoteConfig",
    "Selection",
    "Server",
    "answered",
    "change_of",
    "find_photos",
    "is_place",
    "list_photos",
    "remote_photo",
    "standard_input",
    "takes_name",
]

_HOMES = {
    "STANDARD_INPUT": "ctxdeploy.runtime.sources.stdin",
    "FilePhoto": "ctxdeploy.runtime.sources.folder",
    "FolderPhotos": "ctxdeploy.runtime.sources.folder",
    "LeftOut": "ctxdeploy.runtime.sources.selection",
    "NameTable": "ctxdeploy.runtime.sources.name_table",
    "PhotoList": "ctxdeploy.runtime.sources.base",
    "RemoteConfig": "ctxdeploy.runtime.config",
    "Selection": "ctxdeploy.runtime.sources.selection",
    "Server": "ctxdeploy.runtime.sources.server",
    "answered": "ctxdeploy.runtime.sources.diagnosis",
    "change_of": "ctxdeploy.runtime.sources.remote",
    "find_photos": "ctxdeploy.runtime.sources.folder",
    "is_place": "ctxdeploy.runtime.sources.places",
    "list_photos": "ctxdeploy.runtime.sources.places",
    "remote_photo": "ctxdeploy.runtime.sources.remote",
    "standard_input": "ctxdeploy.runtime.sources.stdin",
    "takes_name": "ctxdeploy.runtime.sources.selection",
}

__getattr__, __dir__ = door(__name__, _HOMES)
