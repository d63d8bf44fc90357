"""What a line of a list says, and the photo that it names."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin

from ctxdeploy.errors import ConfigError, NoPhotosError
from ctxdeploy.runtime.boxes import Box
from ctxdeploy.runtime.listing.base import Listing
from ctxdeploy.runtime.listing.names import clean_name
from ctxdeploy.runtime.listing.remote import Stores
from ctxdeploy.runtime.listing.urls import is_url, is_web, without_secrets
from ctxdeploy.runtime.photos import FilePhoto
from ctxdeploy.runtime.sources import PhotoSource
from ctxdeploy.text import printable


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of a list.

    Attributes:
        where: ``list.csv, line 3``.
        path: a path, relative to the list's folder or absolute, or a URL.
        name: of the photo; made from the path and the box if None.
        box: the part to extract.
    """

    where: str
    path: str
    name: str | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.name is not None and self.name.endswith("/"):
            raise ConfigError(f"{self.where}: the name {printable(self.name)!r} ends with /, as those of folders do")
        for what, text in (("path", self.path), ("name", self.name)):
            if text is None:
                continue
            if not text or "\0" in text:
                raise ConfigError(f"{self.where}: the {what} {'has a zero byte' if text else 'is empty'}")
            try:
                os.fsencode(text)
            except ValueError as error:
                raise ConfigError(
                    f"{self.where}: the {what} {printable(text)!r} is no text that a file can have"
                ) from error

    def photo_name(self) -> str:
        """Return the photo's name: its own, or the path with ``#x0,y0,x1,y1`` where there is a box."""
        if self.name is not None:
            return self.name
        path = without_secrets(self.path) if is_url(self.path) else clean_name(self.path)
        return path if self.box is None else f"{path}#{box_text(self.box)}"


def box_text(box: Box) -> str:
    """Return a box with all digits of its edges: other than in messages, boxes that differ differ here."""
    edges = (box.x0, box.y0, box.x1, box.y1)
    return ",".join(str(int(edge)) if edge.is_integer() else repr(edge) for edge in map(float, edges))


class Entries:
    """Collects the photos of a list.

    Args:
        place: of the list, as the listing says it.
        base: the folder that paths are relative to; a URL that ends with ``/`` for a list on a server.
        stores: open servers.
    """

    def __init__(self, place: str, base: Path | str, stores: Stores) -> None:
        self._place, self._base, self._stores = place, base, stores
        self._folder = base if isinstance(base, str) else str(base)
        self._found: dict[str, PhotoSource] = {}

    def add(self, entry: Entry) -> None:
        """Take an entry; one that says the same as a former one is left out.

        Raises:
            ConfigError: another photo has this name.
            MissingExtraError: what reads its URL is not installed.
        """
        name = entry.photo_name()
        if not name:
            raise ConfigError(f"{entry.where}: the path {printable(entry.path)!r} names a folder")
        photo = self._photo(name, entry)
        former = self._found.setdefault(name, photo)
        if former is not photo and former != photo:
            raise ConfigError(
                f"{entry.where}: the name {printable(name)!r} is taken by a former line for another photo"
            )

    def listing(self) -> Listing:
        """Return what was collected; ``NoPhotosError`` if nothing was."""
        if not self._found:
            raise NoPhotosError(f"{printable(self._place)} names no photos")
        return Listing(place=self._place, photos=[self._found[name] for name in sorted(self._found)])

    def _photo(self, name: str, entry: Entry) -> PhotoSource:
        path = entry.path
        if isinstance(self._base, str) and not is_url(path):
            # A path, not an address: signs that mean something in addresses are of its name.
            path = (
                urljoin(self._base, quote(path, errors="surrogateescape"))
                if is_web(self._base)
                else self._base + clean_name(path)
            )
        if is_url(path):
            return PhotoSource(name=name, reader=self._stores.photo(path, entry.where), box=entry.box)
        return FilePhoto(name=name, folder=self._folder, file=clean_name(path), box=entry.box)
