"""Places that photos come from, one file each.

listing = list_photos("photos")
for photo in listing.photos: ...
"""

from pathlib import Path

from ctxdeploy.runtime.listing.base import Listing
from ctxdeploy.runtime.listing.folder import list_folder

__all__ = ["Listing", "list_photos"]


def list_photos(place: str, *, recursive: bool = True) -> Listing:
    """List the photos of a place.

    Args:
        place: a folder.
        recursive: look into the folders below.

    Raises:
        ConfigError: there is no such place, or it cannot be listed.
        NoPhotosError: it holds no photos.
    """
    return list_folder(Path(place), recursive=recursive)
