"""A folder of photos."""

from pathlib import Path

from ctxdeploy.runtime.listing.base import Listing
from ctxdeploy.runtime.photos import find_photos
from ctxdeploy.runtime.sources import PhotoFailure


def list_folder(folder: Path, *, recursive: bool) -> Listing:
    """List the photos of a folder; parameters and errors as ``find_photos``."""
    unreadable: list[PhotoFailure] = []
    photos = find_photos(folder, recursive, unreadable=unreadable)
    return Listing(place=str(folder.resolve()), photos=photos, unreadable=tuple(unreadable), folder=folder)
