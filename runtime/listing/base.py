"""What every place of photos gives."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ctxdeploy.errors import ConfigError
from ctxdeploy.runtime.sources import PhotoFailure, PhotoSource
from ctxdeploy.text import printable


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """The photos of a place.

    Attributes:
        place: an absolute path, or a URL. An archive remembers it, and takes in the photos of another place only when
            this one is gone.
        photos: in the order of their names, which are unique.
        unreadable: parts that could not be listed, of the stage ``list``.
        folder: that the names are paths of files in; None where photos are no files, or names no paths.
    """

    place: str
    photos: list[PhotoSource]
    unreadable: tuple[PhotoFailure, ...] = ()
    folder: Path | None = None

    def __post_init__(self) -> None:
        if len(self._names) != len(self.photos):
            counts = Counter(photo.name for photo in self.photos)
            twice = next(name for name, count in counts.items() if count > 1)
            raise ConfigError(f"{printable(self.place)} names {printable(twice)!r} twice: names must be unique")

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(photo.name for photo in self.photos)

    def is_gone(self, name: str) -> bool:
        """Return whether a photo is known not to be there; where something could not be listed nothing is known."""
        if name in self._names or name.startswith(tuple(failure.name for failure in self.unreadable)):
            return False
        if self.folder is None:
            return not self.unreadable
        try:
            (self.folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (OSError, ValueError):  # a folder that cannot be read; a zero byte: this name never was a file's
            return False
        return False
