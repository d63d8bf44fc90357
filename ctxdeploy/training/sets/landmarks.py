"""A folder of folders, one landmark each."""

from pathlib import Path

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import counted, printable
from ctxdeploy.training.sets.photo_set import PhotoSet


def read_landmarks(folder: Path) -> PhotoSet:
    """Return the photos below a folder; the folder in it that holds a photo, at whatever depth, is its landmark.

    Photos are in the order of their paths, landmarks in that of their names. A landmark of one photo is none (-1).

    Raises:
        ConfigError: there is no such folder, photos lie beside the landmarks' folders, or no landmark has two photos.
        NoPhotosError: there are no photos.
    """
    from ctxdeploy.runtime import find_photos

    shown = printable(str(folder))
    names = [photo.name for photo in find_photos(folder)]
    loose = [name for name in names if "/" not in name]
    if len(loose) == len(names):
        raise ConfigError(f"{shown} holds photos and no folders of landmarks: give it as photos without landmarks")
    if loose:
        raise ConfigError(
            f"{shown} holds {counted(len(loose), 'photo')} beside the folders of landmarks, such as "
            f"{printable(loose[0])}: move each into the folder of its landmark"
        )
    _, classes, sizes = np.unique([_landmark(name) for name in names], return_inverse=True, return_counts=True)
    if sizes.max() < 2:
        raise ConfigError(
            f"none of the {counted(len(sizes), 'folder')} in {shown} holds two photos of a landmark: give it as "
            "photos without landmarks"
        )
    root = folder.absolute()
    return PhotoSet(
        name=root.name,
        paths=tuple(root / name for name in names),
        classes=np.where(sizes[classes] > 1, classes, -1),
    )


def _landmark(name: str) -> str:
    return name.partition("/")[0]
