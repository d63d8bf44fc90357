"""A folder of photos."""

from pathlib import Path

from ctxdeploy.errors import NoPhotosError
from ctxdeploy.runtime.listing.base import Listing
from ctxdeploy.runtime.photos import find_photos
from ctxdeploy.runtime.sources import PhotoFailure
from ctxdeploy.text import counted


def list_folder(folder: Path, *, recursive: bool) -> Listing:
    """List the photos of a folder; parameters and errors as ``find_photos``."""
    unreadable: list[PhotoFailure] = []
    try:
        photos = find_photos(folder, recursive, unreadable=unreadable)
    except NoPhotosError as error:
        tars = sum(path.suffix.lower() == ".tar" for path in folder.iterdir())
        if not tars:
            raise
        raise NoPhotosError(
            f"{error}; of its {counted(tars, 'tar file')} give the pattern, '*.tar' in quotes"
        ) from error
    return Listing(place=str(folder.resolve()), photos=photos, unreadable=tuple(unreadable), folder=folder)
