"""What every place of photos gives, and how its photos are named."""

import os
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource

# Photos of one list or one listing; ten million take 1.6 GB.
MAX_PHOTOS = 50_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoList:
    """The photos of a place.

    Attributes:
        place: an absolute path, or a URL without credentials. An archive remembers it, and takes in the photos of
            another place only when this one is gone.
        photos: in the order of their names, which are unique.
        unreadable: the parts that could not be listed, as failures of the stage ``list``. The names of all photos in
            such a part begin with the name of its failure.
        folder: the names are paths of files in it; None where a photo that is not listed any more is gone.
        recursive: False if the folders below were not looked into, so that nothing is known about their photos.
    """

    place: str
    photos: list[PhotoSource]
    unreadable: tuple[PhotoFailure, ...] = ()
    folder: Path | None = None
    recursive: bool = True

    def __post_init__(self) -> None:
        for first, second in pairwise(self.photos):
            if first.name == second.name:
                name = printable(first.name)
                raise ConfigError(f"{printable(self.place)} names {name!r} twice: names must be unique")
            if first.name > second.name:
                names = f"{printable(first.name)!r} comes before {printable(second.name)!r}"
                raise ConfigError(f"{printable(self.place)}: {names}: sort the photos by their names")

    def is_gone(self, name: str) -> bool:
        """Return whether a photo is known not to be there; where something could not be listed nothing is known."""
        if self._lists(name) or name.startswith(tuple(failure.name for failure in self.unreadable)):
            return False
        if self.folder is None:
            return self.recursive or "/" not in name
        try:
            (self.folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (OSError, ValueError):  # a folder that cannot be read; a zero byte: this name never was a file's
            return False
        return False

    def _lists(self, name: str) -> bool:
        # No set of the names: it would take more memory than what it speeds up is worth, the few names not found.
        position = bisect_left(self.photos, name, key=lambda photo: photo.name)
        return position < len(self.photos) and self.photos[position].name == name


def clean_name(path: str) -> str:
    """Return a path with ``/`` between its parts and without empty parts and ``.``; an absolute one stays absolute."""
    if os.sep != "/":
        path = path.replace(os.sep, "/")
    parts = "/".join(part for part in path.split("/") if part not in ("", "."))
    return f"/{parts}" if path.startswith("/") else parts


def is_hidden(name: str) -> bool:
    """Return whether a part of a name begins with a dot."""
    return name.startswith(".") or "/." in name


def absolute(path: Path) -> str:
    """Return a file's absolute path; links of its folder are resolved, the file itself may be a link to the latest."""
    return str(path.parent.resolve() / path.name)
