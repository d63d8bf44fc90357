"""What a batch holds, drawn from the seed and the number of the batch alone: a run that continues draws the same."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.training import views
from ctxdeploy.training.augment import augment
from ctxdeploy.training.config import ContrastiveConfig, PairsConfig
from ctxdeploy.training.geometry import Matrices, apply
from ctxdeploy.training.photos import Image, PhotoStore
from ctxdeploy.training.sets import PhotoSet

Numbers = NDArray[np.int64]
# Correspondences end this far from the edge of a view, as a share of its side.
_EDGE = 0.02


def generator(seed: int, *number: int) -> np.random.Generator:
    """Return a generator of its own for a batch (or an epoch): nothing about it depends on what was drawn before."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *number])))


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """Views of which the first half are the others' pairs.

    Attributes:
        views: 2P×3×S×S float32 in 0..1; view i and view P + i show the same.
        identity: P int64, what each pair shows; negative for a photo of no known landmark.
        related: P×P bool, pairs that show (or may show) the same, the diagonal among them.
        pair: M, the pair of each correspondence.
        first, second: M×2 float32, where it is in the first and in the second view, x then y, in sides of the view.
    """

    views: Tensor
    identity: Tensor
    related: Tensor
    pair: Tensor
    first: Tensor
    second: Tensor

    def pin_memory(self) -> "PairBatch":
        """Return the same where a GPU copies from by itself."""
        return PairBatch(**{field.name: getattr(self, field.name).pin_memory() for field in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class TupleBatch:
    """T queries, each followed by its positive and its N negatives: T·(2 + N)×3×S×S float32 in 0..1."""

    views: Tensor

    def pin_memory(self) -> "TupleBatch":
        """Return the same where a GPU copies from by itself."""
        return TupleBatch(views=self.views.pin_memory())


class Landmarks:
    """Which photos of a set show the same, and pairs of them at random.

    Raises:
        NoPhotosError: (of ``pairs``) no two photos show the same.
    """

    def __init__(self, photo_set: PhotoSet) -> None:
        self.of_photo = photo_set.classes
        order = np.argsort(photo_set.classes, kind="stable")
        known = order[photo_set.classes[order] >= 0]
        numbers, starts = np.unique(photo_set.classes[known], return_index=True)
        members = np.split(known, starts[1:]) if len(known) else []
        self._members = dict(zip(numbers.tolist(), members, strict=True))
        self._given: dict[int, Numbers] = {}
        if photo_set.pairs is not None:
            landmarks = photo_set.classes[photo_set.pairs[:, 0]]
            self._given = {int(n): photo_set.pairs[landmarks == n] for n in np.unique(landmarks)}
        able = [n for n, photos in self._members.items() if n in self._given or len(photos) > 1]
        self.able: Numbers = np.array(able, np.int64)

    def members(self, photo: int) -> Numbers:
        """Return the sorted numbers of the photos of a photo's landmark."""
        landmark = int(self.of_photo[photo])
        return np.array([photo], np.int64) if landmark < 0 else self._members[landmark]

    def pairs(self, rng: np.random.Generator, count: int, *, distinct: bool) -> Numbers:
        """Return up to ``count`` pairs P×2, each of a landmark of its own if ``distinct``."""
        if not len(self.able):
            raise NoPhotosError("no two photos of the training set show the same landmark: give one with --landmarks")
        size = min(count, len(self.able)) if distinct else count
        drawn = []
        for landmark in rng.choice(self.able, size, replace=not distinct):
            given = self._given.get(int(landmark))
            if given is None:
                drawn.append(rng.choice(self._members[int(landmark)], 2, replace=False))
            else:
                drawn.append(given[rng.integers(len(given))])
        return np.array(drawn, np.int64).reshape(-1, 2)

    def readable(self, photos: PhotoStore, query: int, positive: int) -> tuple[int, int]:
        """Return a pair that can be read: photos of the landmark stand in for those that cannot be.

        Where none of the landmark can be, the next photo of the set stands in for both.
        """
        try:
            return photos.readable(query, self.members(query)), photos.readable(positive, self.members(positive))
        except NoPhotosError:
            number = photos.readable(query, np.arange(len(self.of_photo)))
            return number, number


class PairSampler:
    """Batches of ``PairsConfig``.

    Raises:
        ConfigError: all photos show the same.
    """

    def __init__(self, photo_set: PhotoSet, photos: PhotoStore, config: PairsConfig, stride: int, seed: int) -> None:
        self.photos, self._config, self._stride, self._seed = photos, config, stride, seed
        self._all = np.arange(len(photos))
        self._landmarks = Landmarks(photo_set)
        # A photo whose landmark is not known is of one of its own.
        self._identity = np.where(photo_set.classes < 0, -1 - self._all, photo_set.classes)
        if (self._identity == self._identity[0]).all():
            raise ConfigError(
                "the training set shows one thing, and there is nothing to tell it from: add photos of others with "
                "--photos or --landmarks"
            )

    def batch(self, number: int, drawn: Numbers | None = None) -> PairBatch:
        """Return a batch; equal numbers give equal ones, and nothing else is drawn for them."""
        del drawn
        rng = generator(self._seed, number)
        singles, couples = self._drawn(rng)
        count = len(singles)
        singles = np.array([self.photos.readable(int(n), self._all) for n in singles], np.int64)
        readable = [self._landmarks.readable(self.photos, int(a), int(b)) for a, b in couples]
        couples = np.array(readable, np.int64).reshape(-1, 2)
        numbers = np.concatenate([singles, couples[:, 0]])
        first, second = self._matrices(rng, singles, couples)
        images = self._images(np.concatenate([numbers, singles, couples[:, 1]]))
        pixels = views.render(images, np.concatenate([first, second]), self._config.view_size)
        identity = self._identity[numbers]
        pair, one, other = self._correspondences(rng, first[:count], second[:count], views.sizes_of(images[:count]))
        return PairBatch(
            views=self._changed(pixels, rng),
            identity=torch.from_numpy(identity),
            related=torch.from_numpy(identity[:, None] == identity[None]),
            pair=torch.from_numpy(pair),
            first=torch.from_numpy(one),
            second=torch.from_numpy(other),
        )

    def _drawn(self, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
        """Return photos of which two views are taken, and pairs P×2 of photos of one landmark."""
        half = self._config.pairs // 2 if len(self._landmarks.able) else 0
        couples = self._landmarks.pairs(rng, half, distinct=True) if half else np.empty((0, 2), np.int64)
        count = self._config.pairs - len(couples)
        return rng.choice(self._all, count, replace=count > len(self._all)), couples

    def _twice(self, rng: np.random.Generator, sizes: NDArray[np.float64]) -> tuple[Matrices, Matrices]:
        return views.frame_twice(rng, sizes, views.SAME_PHOTO)

    def _changed(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        return augment(pixels, rng)

    def _images(self, numbers: Numbers) -> list[Image]:
        return _loaded(self.photos, numbers)

    def _matrices(self, rng: np.random.Generator, singles: Numbers, couples: Numbers) -> tuple[Matrices, Matrices]:
        one = self._twice(rng, views.sizes_of(self._images(singles)))
        two = [views.frame(rng, views.sizes_of(self._images(c)), views.SAME_LANDMARK) for c in couples.T]
        flip = rng.random(len(singles) + len(couples)) < 0.5
        first, second = (views.mirrored(np.concatenate(m), flip) for m in zip(one, two, strict=True))
        return first, second

    def _correspondences(
        self, rng: np.random.Generator, first: Matrices, second: Matrices, sizes: NDArray[np.float64]
    ) -> tuple[Numbers, NDArray[np.float32], NDArray[np.float32]]:
        """Return pairs and positions of cells of the first view that lie inside the photo and the second view."""
        cells = -(-self._config.view_size // self._stride)
        ticks = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(1, -1, 2)
        here = np.repeat(grid, len(first), axis=0)
        there = apply(np.linalg.inv(second) @ first, here)
        in_photo = apply(first, here)
        inside = (there > _EDGE) & (there < 1 - _EDGE) & (in_photo > 0) & (in_photo < sizes[:, None])
        seen = np.logical_and.reduce(inside, axis=2)
        chosen = [rng.permutation(np.flatnonzero(row))[: self._config.correspondences] for row in seen]
        pair = np.repeat(np.arange(len(first)), [len(c) for c in chosen])
        cell = np.concatenate([np.empty(0, np.int64), *chosen])
        return pair, here[pair, cell].astype(np.float32), there[pair, cell].astype(np.float32)


class TupleSampler:
    """Batches of ``ContrastiveConfig`` from the tuples of an epoch."""

    def __init__(self, photo_set: PhotoSet, photos: PhotoStore, config: ContrastiveConfig, seed: int) -> None:
        self.photos, self._config, self._seed = photos, config, seed
        self._landmarks = Landmarks(photo_set)
        self._all = np.arange(len(photos))

    def epoch(self, number: int) -> tuple[Numbers, Numbers]:
        """Return an epoch's pairs Q×2, query and positive, and its sorted pool, photos that may be negatives."""
        rng = generator(self._seed, number, 0)
        pairs = self._landmarks.pairs(rng, self._config.queries, distinct=False)
        pool = rng.choice(self._all, min(self._config.pool, len(self._all)), replace=False)
        return pairs, np.sort(pool)

    def readable(self, pairs: Numbers) -> Numbers:
        """Return pairs whose queries can be read, as ``Landmarks.readable``; positives are read with their batch."""
        found = pairs.copy()
        for pair in found:
            query, _ = self._landmarks.readable(self.photos, int(pair[0]), int(pair[0]))
            known = self._landmarks.of_photo[query] == self._landmarks.of_photo[pair[0]]
            pair[:] = query, pair[1] if known else query
        return found

    def batch(self, number: int, drawn: Numbers | None) -> TupleBatch:
        """Return a batch of the T×(2 + N) photos drawn for it: query, positive, negatives."""
        if drawn is None:
            raise ValueError(f"no tuples for batch {number}")
        rng = generator(self._seed, number, 1)
        numbers = np.array([self.photos.readable(int(n), self._others(int(n))) for n in drawn.ravel()], np.int64)
        images = _loaded(self.photos, numbers)
        matrices = views.frame(rng, views.sizes_of(images), views.SAME_LANDMARK)
        pixels = views.render(images, matrices, self._config.view_size)
        return TupleBatch(views=augment(pixels, rng))

    def _others(self, number: int) -> Numbers:
        return self._landmarks.members(number) if self._landmarks.of_photo[number] >= 0 else self._all


def _loaded(photos: PhotoStore, numbers: Numbers) -> list[Image]:
    """Return photos that were found readable."""
    images = []
    for number in numbers:
        image = photos.load(int(number))
        if image is None:
            raise NoPhotosError(photos.unreadable[int(number)])
        images.append(image)
    return images
