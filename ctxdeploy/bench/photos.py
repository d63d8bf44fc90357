"""The photos that are measured on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.core.files import file_sha256

_QUALITY = 92


def photo_files(place: Path | None, count: int, work: Path) -> list[Path]:
    """Return at most ``count`` photos, spread over a folder; without one the sample photos, written to ``work``.

    Raises:
        MissingExtraError: there is no folder, and scikit-image, which holds the samples, is not installed.
        ConfigError, NoPhotosError: the folder is none, or holds no photos.
        StorageError: ``work`` cannot be written.
    """
    if count < 1:
        raise ConfigError(f"{count} photos: give --count of at least 1")
    if place is None:
        return _samples(count, work / "samples")
    from ctxdeploy.runtime import find_photos

    found = [photo.path for photo in find_photos(place) if photo.path is not None]
    return [found[i * len(found) // count] for i in range(count)] if len(found) > count else found


def photos_hash(photos: Sequence[Path]) -> str:
    """Return the hex sha256 of the photos' bytes, in their order."""
    return hashlib.sha256(" ".join(file_sha256(photo) for photo in photos).encode()).hexdigest()


def _samples(count: int, folder: Path) -> list[Path]:
    from PIL import Image

    from ctxdeploy.core.samples import NAMES, sample_photo

    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES[:count]:
            paths.append(folder / f"{name}.jpg")
            Image.fromarray(sample_photo(name)).save(paths[-1], quality=_QUALITY)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another --work") from error
    return paths
