"""Places that photos come from: folders, lists, tar files and servers.

    from ctxdeploy.runtime.sources import list_photos

    for photo in list_photos("photos").photos:
        ...

Each kind of place is one module; ``docs/places.md`` says what an argument means.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.runtime.config import RemoteConfig
    from ctxdeploy.runtime.sources.base import PhotoList
    from ctxdeploy.runtime.sources.folder import FilePhoto, find_photos
    from ctxdeploy.runtime.sources.places import list_photos
    from ctxdeploy.runtime.sources.urls import host_of, is_url, is_web, without_secrets

__all__ = [
    "FilePhoto",
    "PhotoList",
    "RemoteConfig",
    "find_photos",
    "host_of",
    "is_url",
    "is_web",
    "list_photos",
    "without_secrets",
]

_HOMES = {
    "FilePhoto": "ctxdeploy.runtime.sources.folder",
    "PhotoList": "ctxdeploy.runtime.sources.base",
    "RemoteConfig": "ctxdeploy.runtime.config",
    "find_photos": "ctxdeploy.runtime.sources.folder",
    "host_of": "ctxdeploy.runtime.sources.urls",
    "is_url": "ctxdeploy.runtime.sources.urls",
    "is_web": "ctxdeploy.runtime.sources.urls",
    "list_photos": "ctxdeploy.runtime.sources.places",
    "without_secrets": "ctxdeploy.runtime.sources.urls",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
