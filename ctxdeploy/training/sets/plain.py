"""Photos about which nothing is known: pairs are two views of one photo."""

from pathlib import Path

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.training.sets.photo_set import PhotoSet, check_files


def read_photos(place: Path) -> PhotoSet:
    """Return the photos of a folder, those of the folders below included, or of a list (``docs/places.md``).

    Raises:
        ConfigError: there is no such place, part of it cannot be listed, or a photo of the list is missing, has a box,
            or is not a file of its own.
        NoPhotosError: it holds no photos.
    """
    from ctxdeploy.runtime.sources import list_photos

    listing = list_photos(str(place))
    shown = printable(str(place))
    if listing.unreadable:
        failure = listing.unreadable[0]
        raise ConfigError(f"{shown}: {printable(failure.name)}: {failure.reason}")
    paths = []
    for photo in listing.photos:
        if photo.path is None:
            raise ConfigError(f"{shown}: {printable(photo.name)} is not a file of its own: training reads files")
        if photo.box is not None:
            raise ConfigError(f"{shown}: {printable(photo.name)} has a box: training takes whole photos")
        paths.append(photo.path.absolute())
    if listing.folder is None:
        check_files(paths, shown, "take them out of the list")
    return PhotoSet(name=place.absolute().name, paths=tuple(paths), classes=np.full(len(paths), -1))
