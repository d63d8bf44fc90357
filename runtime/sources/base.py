"""What every place of photos gives, and how its photos are named."""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.text import native_path, printable
from ctxdeploy.runtime.decode.formats import is_unread_raw, photo_extensions
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource
from ctxdeploy.runtime.sources.name_table import NameTable
from ctxdeploy.runtime.sources.selection import NOTHING, LeftOut

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
        left_out: what of the place is not among the photos.
        wants: says whether a name would be listed where its file is; None where that is not known.
        is_whole: False if it is not known which photos are missing: then none that is not listed counts as gone.
    """

    place: str
    photos: Sequence[PhotoSource]
    unreadable: tuple[PhotoFailure, ...] = ()
    folder: Path | None = None
    recursive: bool = True
    left_out: LeftOut = NOTHING
    wants: Callable[[str], bool] | None = None
    is_whole: bool = True

    def __post_init__(self) -> None:
        if names_of(self.photos) is not None:  # their order was looked at
            return
        for first, second in pairwise(self.photos):
            if first.name == second.name:
                name = printable(first.name)
                raise ConfigError(f"{printable(self.place)} names {name!r} twice: names must be unique")
            if first.name > second.name:
                names = f"{printable(first.name)!r} comes before {printable(second.name)!r}"
                raise ConfigError(f"{printable(self.place)}: {names}: sort the photos by their names")

    def is_gone(self, name: str) -> bool:
        """Return whether a photo is known not to be there, or to be left out now.

        Where something could not be listed nothing is known, nor of raw files where nothing reads them.
        """
        if (
            not self.is_whole
            or self.row(name) is not None
            or is_unread_raw(name)
            or name.startswith(tuple(failure.name for failure in self.unreadable))
        ):
            return False
        if self.folder is None:
            return self.recursive or "/" not in name
        if self.wants is not None and not self.wants(name):
            return True
        try:
            (self.folder / native_path(name)).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (OSError, ValueError):  # a folder that cannot be read; a zero byte: this name never was a file's
            return False
        return False

    def names(self, rows: slice = slice(None)) -> Iterable[str]:
        """Return the names of some of the photos, in order."""
        names = names_of(self.photos)
        if names is not None:
            return names if rows == slice(None) else names[rows]
        return (photo.name for photo in self.photos[rows])

    def row(self, name: str) -> int | None:
        """Return which of the photos has a name, counted from 0; None if none has."""
        names = names_of(self.photos)
        if names is not None:
            return names.row(name)
        # No set of the names: it would take more memory than what it speeds up is worth, the few names not found.
        row = bisect_left(self.photos, name, key=lambda photo: photo.name)
        return row if row < len(self.photos) and self.photos[row].name == name else None


def names_of(photos: Sequence[PhotoSource]) -> NameTable | None:
    """Return the names of photos that are made when they are asked for; None of others."""
    names = getattr(photos, "names", None)
    return names if isinstance(names, NameTable) else None


def nothing_found(place: str, left_out: LeftOut) -> NoPhotosError:
    """Return what to raise where a place has no photos; it says what there is instead."""
    there = "".join(f"; {line}" for line in left_out.lines())
    return NoPhotosError(f"{printable(place)} holds no photos (looked for {' '.join(photo_extensions())}){there}")


def clean_name(path: str) -> str:
    """Return a path with ``/`` between its parts and without empty parts and ``.``; an absolute one stays absolute."""
    if os.sep != "/":
        path = path.replace(os.sep, "/")
    parts = "/".join(part for part in path.split("/") if part not in ("", "."))
    return f"/{parts}" if path.startswith("/") else parts


def absolute(path: Path) -> str:
    """Return a file's absolute path; links of its folder are resolved, the file itself may be a link to the latest."""
    return str(path.parent.resolve() / path.name)
