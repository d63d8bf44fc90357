"""minibench: ``gnd.json``, the photos of the scenes in ``images/``, and others in ``distractors/``."""

from pathlib import Path

from ctxdeploy.core.scoring import GROUND_TRUTH
from ctxdeploy.evaluation.dataset import DataSet, Kind
from ctxdeploy.evaluation.scenes import scene_set

FOLDERS = ("images", "distractors")


def read(place: Path) -> DataSet:
    """Read the folder; what else lies in it is no part of the database.

    Raises:
        ConfigError: ``gnd.json`` is not of this form, or names photos that are not there.
        NoPhotosError: ``images/`` or ``distractors/`` is empty.
    """
    from ctxdeploy.runtime import find_photos

    photos = [f"{folder}/{photo.name}" for folder in FOLDERS for photo in find_photos(place / folder, recursive=False)]
    return scene_set(KIND.name, place, photos)


def _fits(place: Path) -> bool:
    return (place / GROUND_TRUTH).is_file() and all((place / folder).is_dir() for folder in FOLDERS)


KIND = Kind(name="minibench", what=f"{GROUND_TRUTH}, images/ and distractors/", fits=_fits, read=read)
