"""The demo's folder of photos."""

from pathlib import Path

import numpy as np

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.samples import NAMES, ViewConfig, make_view, sample_photo

SEED = 20
# Views of each photo in the archive, and one more that queries it.
VIEWS = 4


def scene_of(name: str) -> str:
    """Return the scene of a photo of the demo by its name."""
    return Path(name).name.rpartition("_")[0]


def write_photos(folder: Path) -> tuple[Path, list[Path]]:
    """Write ``VIEWS`` views of every sample photo into ``folder/photos`` and one each into ``folder/queries``.

    Returns:
        The folder of photos, and the queries. Right answers are the views of the query's scene (``scene_of``).

    Raises:
        MissingExtraError: scikit-image is not installed.
        StorageError: the folder cannot be written.
    """
    random = np.random.default_rng(SEED)
    archive, asked = folder / "photos", folder / "queries"
    queries = []
    try:
        archive.mkdir(parents=True, exist_ok=True)
        asked.mkdir(exist_ok=True)
        for name in NAMES:
            photo = sample_photo(name)
            for number in range(VIEWS + 1):
                target = archive if number < VIEWS else asked
                path = target / f"{name}_{number}.jpg"
                make_view(photo, random, ViewConfig()).save(path, quality=90)
                if target == asked:
                    queries.append(path)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another -o") from error
    return archive, queries
