"""A codebook from a sample of the photos that are to be indexed."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import NoPhotosError
from ctxdeploy.progress import Display
from ctxdeploy.spool import Spool, file_state, spooled

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook
    from ctxdeploy.runtime import Extractor, PhotoSource

# Of k-means; it ends earlier when no descriptor changes its word.
ITERATIONS = 20
# |ln scale| below this counts as scale 1.
_NEAR_ONE = 0.2


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a codebook is trained.

    Attributes:
        words: its size; chosen from the number of descriptors if None.
        most_photos: size of the sample.
        seed: of the sample and of k-means.
    """

    words: int | None
    most_photos: int
    seed: int


def train_codebook(
    photos: list["PhotoSource"], extractor: "Extractor", spool: Spool, config: TrainingConfig, display: Display
) -> "Codebook":
    """Train a codebook from a sample of photos; their descriptors stay in the spool, which must be locked.

    Descriptors found at scale 1 train it, as in HOW; where they are fewer than a tenth of all (a network without such a
    scale, small photos), all do. At most 64 a word are held in memory.

    Raises:
        NoPhotosError: no photo gave descriptors.
        ConfigError: there are fewer descriptors than words.
    """
    from ctxdeploy.index import Codebook

    sample = photos
    if len(photos) > config.most_photos:
        sample = random.Random(config.seed).sample(photos, config.most_photos)
    missing = [photo for photo in sample if not spool.has(photo.name, *file_state(photo))]
    if missing:
        with display.progress("extracting for the codebook", len(missing)) as bar:
            for result in extractor.extract(missing):
                photo = spooled(result)
                if photo is not None:
                    spool.put(photo)
                bar.advance(failed=int(photo is None))
    vectors, used = _training_vectors(spool, sorted(photo.name for photo in sample), config)
    if not len(vectors):
        raise NoPhotosError(f"none of {len(sample)} photos gave descriptors, so that no codebook can be trained")
    display.say(f"training a codebook from {len(vectors):,} descriptors of {used:,} photos")
    with display.progress("clustering", ITERATIONS, "iterations") as bar:
        codebook = Codebook.train(
            vectors, config.words, seed=config.seed, iterations=ITERATIONS, progress=lambda done, total: bar.advance()
        )
    display.say(codebook.metadata()["training"]["explanation"])
    return codebook


def _training_vectors(spool: Spool, names: list[str], config: TrainingConfig) -> tuple[NDArray[np.float32], int]:
    """Return descriptors of the named photos, and of how many: those of scale 1, or all, and no more than are used."""
    from ctxdeploy.index.training import MAX_PER_WORD, choose_words

    wanted = set(names)
    near = every = 0
    for scales in spool.scales(wanted):
        every += len(scales)
        near += int((np.abs(np.log(scales)) <= _NEAR_ONE).sum())
    if not every:
        return np.empty((0, 0), np.float32), 0
    only_near = near * 10 >= every
    total = near if only_near else every
    words, _ = choose_words(total, config.words)
    share = min(1.0, words * MAX_PER_WORD / total)
    generator = np.random.default_rng(config.seed)
    parts = []
    for photo in spool.photos(wanted):
        descriptors = photo.descriptors
        chosen = np.abs(np.log(descriptors.scales)) <= _NEAR_ONE if only_near else np.ones(len(descriptors), bool)
        if share < 1:
            chosen &= generator.random(len(descriptors)) < share
        parts.append(descriptors.vectors[chosen])
    return np.concatenate(parts), len(parts)
