"""Batches of the recipe ``transfer``: landmarks drawn by the root of their photos, views dark, slanted, zoomed."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ctxdeploy.training import views
from ctxdeploy.training.augment import augment
from ctxdeploy.training.config import TransferConfig
from ctxdeploy.training.geometry import Matrices
from ctxdeploy.training.night import darken
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sampling import Numbers, PairBatch, PairSampler
from ctxdeploy.training.sets import PhotoSet


class TransferSampler(PairSampler):
    """Batches of ``TransferConfig``, with views of one size.

    A landmark is drawn with the square root of the number of its photos, times its factor: the one of seventy photos
    four times as often as the one of four, not seventeen times. Photos of no landmark are a share of their own.

    Raises:
        ConfigError: all photos show the same.
    """

    def __init__(
        self, photo_set: PhotoSet, photos: PhotoStore, config: TransferConfig, stride: int, seed: int, *, size: int
    ) -> None:
        super().__init__(photo_set, photos, replace(config, view_size=size), stride, seed)
        self._transfer = config
        self._members = [self._landmarks.members(n) for n in self._first_of_landmarks(photo_set)]
        factors = np.ones(len(photo_set)) if photo_set.factors is None else photo_set.factors
        chances = np.array([factors[m[0]] * len(m) ** 0.5 for m in self._members])
        self._chances: NDArray[np.float64] = chances / max(chances.sum(), 1e-30)
        self._alone = np.flatnonzero(photo_set.classes < 0)

    def _first_of_landmarks(self, photo_set: PhotoSet) -> Numbers:
        firsts = [np.flatnonzero(photo_set.classes == landmark)[0] for landmark in self._landmarks.able]
        return np.array(firsts, np.int64)

    def _drawn(self, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
        couples = [rng.choice(m, 2, replace=False) for m in self._landmarks_drawn(rng, self._config.pairs // 2)]
        count = self._config.pairs - len(couples)
        alone = int(rng.binomial(count, self._transfer.unlabelled)) if len(self._alone) else 0
        alone = min(len(self._alone), alone if self._members else count)
        singles = [int(rng.choice(m)) for m in self._landmarks_drawn(rng, count - alone)]
        singles += rng.choice(self._alone, alone, replace=False).tolist()
        return np.array(singles, np.int64), np.array(couples, np.int64).reshape(-1, 2)

    def _landmarks_drawn(self, rng: np.random.Generator, count: int) -> list[Numbers]:
        """Return the photos of ``count`` landmarks, or of all where there are fewer."""
        drawn = rng.choice(len(self._members), min(count, len(self._members)), replace=False, p=self._chances)
        return [self._members[i] for i in drawn]

    def _twice(self, rng: np.random.Generator, sizes: NDArray[np.float64]) -> tuple[Matrices, Matrices]:
        framing = replace(views.SAME_PHOTO, min_share=self._transfer.min_share)
        first, second = views.frame_twice(rng, sizes, framing, zoom=self._transfer.zoom)
        share, slant = self._transfer.slanted, self._transfer.slant
        return first, views.slanted(rng, second, sizes, framing, share=share, slant=slant)

    def _changed(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        return augment(darken(pixels, rng, self._transfer.night), rng)


class GrowingSampler:
    """Batches of one sampler up to a number, from there on those of another, with larger views.

    Attributes:
        photos: of both.
    """

    def __init__(self, first: TransferSampler, last: TransferSampler, change: int) -> None:
        self._first, self._last, self._change = first, last, change
        self.photos = first.photos

    def batch(self, number: int, drawn: Numbers | None = None) -> PairBatch:
        """Return a batch; equal numbers give equal ones."""
        return (self._first if number < self._change else self._last).batch(number, drawn)
