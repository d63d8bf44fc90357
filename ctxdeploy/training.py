"""A codebook from a sample of the photos that are to be indexed."""

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import NoPhotosError
from ctxdeploy.progress import Display
from ctxdeploy.spool import Spool, Spooled, file_state, spooled

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook
    from ctxdeploy.runtime import Extractor, PhotoSource


def train_codebook(
    photos: list["PhotoSource"],
    extractor: "Extractor",
    spool: Spool,
    *,
    words: int | None,
    most_photos: int,
    seed: int,
    display: Display,
) -> "Codebook":
    """Train a codebook from a sample of photos; their descriptors stay in the spool.

    Descriptors of the scale nearest 1 train it, as in HOW; where they are fewer than a tenth of all (a network without
    such a scale, small photos), all do.
    """
    from ctxdeploy.index import Codebook

    sample = photos
    if len(photos) > most_photos:
        sample = random.Random(seed).sample(photos, most_photos)
    missing = [photo for photo in sample if spool.get(photo.name, *file_state(photo)) is None]
    if missing:
        with display.progress("extracting for the codebook", len(missing)) as bar:
            for result in extractor.extract(missing):
                photo = spooled(result)
                if photo is not None:
                    spool.put(photo)
                bar.advance(failed=int(photo is None))
    wanted = {photo.name for photo in sample}
    vectors = _training_vectors(photo for photo in spool.photos() if photo.name in wanted)
    if not len(vectors):
        raise NoPhotosError(f"none of {len(sample)} photos gave descriptors, so that no codebook can be trained")
    display.say(f"training a codebook from {len(vectors):,} descriptors of {len(sample):,} photos")
    codebook = Codebook.train(vectors, words=words, seed=seed)
    display.say(codebook.metadata()["training"]["explanation"])
    return codebook


def _training_vectors(photos: Iterable[Spooled]) -> NDArray[np.float32]:
    every, near = [], []
    for photo in photos:
        descriptors = photo.descriptors
        if not len(descriptors):
            continue
        distance = np.abs(np.log(descriptors.scales))
        every.append(descriptors.vectors)
        near.append(descriptors.vectors[distance <= 0.2])
    if not every:
        return np.empty((0, 0), np.float32)
    chosen = near if sum(map(len, near)) * 10 >= sum(map(len, every)) else every
    return np.concatenate(chosen)
