"""What a step minimises, for either recipe: batches (made in another thread) and their loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctxdeploy.core.cpu import available_processors
from ctxdeploy.core.errors import NoPhotosError
from ctxdeploy.training import losses, views
from ctxdeploy.training.config import ContrastiveConfig, PairsConfig, TrainConfig
from ctxdeploy.training.features import Maps, evaluating, sampled
from ctxdeploy.training.mining import hard_negatives
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sampling import PairBatch, PairSampler, TupleBatch, TupleSampler
from ctxdeploy.training.sets import PhotoSet
from ctxdeploy.training.whitening import pca_whitening, set_whitening

Loss = tuple[Tensor, dict[str, Tensor]]
# Photos of a forward pass without gradients, and photos and features that a whitening is learned from.
_BATCH, _WHITENING_PHOTOS, _WHITENING_FEATURES = 16, 2000, 200_000
# More threads wait for each other in Python.
_MOST_THREADS = 8


class BatchSampler(Protocol):
    """What makes batches, in this process or in others: it knows nothing of the network.

    Attributes:
        photos: of the batches.
    """

    photos: PhotoStore

    def batch(self, number: int, drawn: NDArray[np.int64] | None) -> Any:
        """Return the batch of a number and of what ``Objective.drawn`` gives for it."""


class Objective(ABC):
    """Batches by number, and the loss of one.

    Attributes:
        parts: names of what the loss is the sum of, as the log has them.
        sampler: makes the batches.
    """

    parts: tuple[str, ...]
    sampler: BatchSampler

    @abstractmethod
    def start(self, maps: Maps) -> None:
        """Prepare the network, once, before the first step of all."""

    @abstractmethod
    def train_mode(self, network: nn.Module) -> None:
        """Set the modes of the network's modules for a step."""

    @abstractmethod
    def epoch(self, number: int) -> int | None:
        """Return the number of the epoch that begins with a batch, if one does."""

    @abstractmethod
    def begin_epoch(self, epoch: int, maps: Maps) -> None:
        """Find out what the batches of an epoch need to know of the network."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return what ``begin_epoch`` found."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Take what ``state`` returned, which lies on the CPU whatever device it came from."""

    def drawn(self, number: int) -> NDArray[np.int64] | None:
        """Return what a batch needs to know besides its number; nothing, but where epochs are begun."""
        del number
        return None

    def batch(self, number: int) -> Any:
        """Return a batch; called in another thread."""
        return self.sampler.batch(number, self.drawn(number))

    @abstractmethod
    def loss(self, maps: Maps, batch: Any, device: torch.device) -> Loss:
        """Return the loss of a batch and its parts."""


class PairsObjective(Objective):
    """InfoNCE on global descriptors, match kernels and corresponding positions; nothing is mined."""

    parts: tuple[str, ...] = ("global", "match", "local")

    def __init__(self, photo_set: PhotoSet, photos: PhotoStore, config: PairsConfig, stride: int, seed: int) -> None:
        self._config = config
        self.sampler: BatchSampler = PairSampler(photo_set, photos, config, stride, seed)

    def start(self, maps: Maps) -> None:
        del maps

    def train_mode(self, network: nn.Module) -> None:
        network.train()

    def epoch(self, number: int) -> int | None:
        del number
        return None

    def begin_epoch(self, epoch: int, maps: Maps) -> None:
        raise ValueError(f"no epoch {epoch} of {maps.network.config.family}")

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        del state, device

    def loss(self, maps: Maps, batch: PairBatch, device: torch.device) -> Loss:
        config, related = self._config, batch.related.to(device, non_blocking=True)
        vectors, attention = maps.descriptors(batch.views.to(device, non_blocking=True))
        half = len(related)
        whole = losses.aggregated(vectors, attention)
        found = {"global": losses.info_nce(whole[:half] @ whole[half:].T, related, config.temperature)}
        total = config.global_weight * found["global"]
        if config.match_weight:
            x, weights = losses.strongest(vectors, attention, config.positions)
            kernel = losses.match_kernel(x[:half], weights[:half], x[half:], weights[half:])
            found["match"] = losses.info_nce(kernel, related, config.match_temperature)
            total = total + config.match_weight * found["match"]
        if len(batch.pair):
            found["local"] = self._local(vectors, batch, half, device)
            total = total + found["local"]
        return total, found

    def _local(self, vectors: Tensor, batch: PairBatch, half: int, device: torch.device) -> Tensor:
        """Tell corresponding positions from all others of the batch, those of neighbouring cells left out."""
        pair, first, second = (t.to(device, non_blocking=True) for t in (batch.pair, batch.first, batch.second))
        x = sampled(vectors[:half], batch.pair, first)
        y = sampled(vectors[half:], batch.pair, second)
        near = torch.cdist(first, first) < 1.6 / vectors.shape[3]
        return losses.info_nce(x @ y.T, near & (pair[:, None] == pair[None]), self._config.temperature)


class ContrastiveObjective(Objective):
    """Contrastive loss of tuples; whitening and batch normalisation are frozen, as in HOW."""

    parts = ("contrastive",)

    def __init__(self, photo_set: PhotoSet, photos: PhotoStore, config: ContrastiveConfig, seed: int) -> None:
        self._config, self._photos = config, photos
        self._tuple_sampler = self.sampler = TupleSampler(photo_set, photos, config, seed)
        numbers = np.arange(len(photo_set.classes))
        self._landmarks = np.where(photo_set.classes < 0, -1 - numbers, photo_set.classes)
        self._tuples: NDArray[np.int64] = np.empty((0, 2 + config.negatives), np.int64)

    def start(self, maps: Maps) -> None:
        shrinkage = self._config.whitening_shrinkage
        if shrinkage is not None and maps.network.config.dim is not None:
            _, pool = self._tuple_sampler.epoch(0)
            features, _ = self._features(maps, pool[:: max(1, len(pool) // _WHITENING_PHOTOS)])
            step = max(1, len(features) // _WHITENING_FEATURES)
            set_whitening(maps.network, *pca_whitening(features[::step], maps.network.config.dim, shrinkage))

    def train_mode(self, network: nn.Module) -> None:
        network.eval()

    def epoch(self, number: int) -> int | None:
        return None if number % self._config.epoch else number // self._config.epoch

    def begin_epoch(self, epoch: int, maps: Maps) -> None:
        pairs, pool = self._tuple_sampler.epoch(epoch)
        pairs = self._tuple_sampler.readable(pairs)
        asked, where = np.unique(pairs[:, 0], return_inverse=True)
        (queries, _), (others, there) = self._whole(maps, asked), self._whole(maps, pool)
        pool = pool[there]
        count = self._config.negatives
        negatives = pool[hard_negatives(queries, self._landmarks[asked], others, self._landmarks[pool], count)]
        self._tuples = np.concatenate([pairs, negatives[where]], axis=1)

    def state(self) -> dict[str, Tensor]:
        return {"tuples": torch.from_numpy(self._tuples)}

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        del device
        self._tuples = state["tuples"].numpy()

    def drawn(self, number: int) -> NDArray[np.int64]:
        first = number % self._config.epoch * self._config.tuples
        return self._tuples[first : first + self._config.tuples]

    def loss(self, maps: Maps, batch: TupleBatch, device: torch.device) -> Loss:
        vectors, attention = maps.descriptors(batch.views.to(device, non_blocking=True))
        tuples = losses.aggregated(vectors, attention).reshape(self._config.tuples, 2 + self._config.negatives, -1)
        total = losses.contrastive(tuples[:, 0], tuples[:, 1], tuples[:, 2:], self._config.margin)
        return total, {"contrastive": total}

    def _whole(self, maps: Maps, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return global descriptors n×D of the middles of the photos that can be read, and which these are."""
        found, there = self._passes(maps, numbers, lambda v: losses.aggregated(*maps.descriptors(v)))
        return found.numpy(), there

    def _features(self, maps: Maps, numbers: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Return features n×C of the middles of photos, before the whitening, and which could be read."""
        return self._passes(maps, numbers, lambda v: maps.features(v)[0].permute(0, 2, 3, 1).flatten(0, 2))

    def _passes(
        self, maps: Maps, numbers: NDArray[np.int64], compute: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        device = maps.network.get_buffer("mean").device
        found = []
        there = np.zeros(len(numbers), bool)
        made = views.middles(self._photos, numbers, self._config.view_size, _BATCH, threads=making_threads(device))
        with evaluating(maps.network):
            for number, (readable, pixels) in enumerate(made):
                there[number * _BATCH :][: len(readable)] = readable
                if pixels is not None:
                    found.append(compute(pixels.to(device)).float().cpu())
        if not found:
            reason = next(iter(self._photos.unreadable.values()))
            raise NoPhotosError(f"none of {len(numbers)} photos can be read: {reason}")
        return torch.cat(found), there


def making_threads(device: torch.device) -> int:
    """Return how many threads make views for forward passes: a GPU computes them faster than one thread does."""
    return 1 if device.type == "cpu" else min(_MOST_THREADS, available_processors())


def objective_of(photo_set: PhotoSet, photos: PhotoStore, config: TrainConfig, stride: int) -> Objective:
    """Return the objective of a recipe."""
    if isinstance(config.recipe, PairsConfig):
        return PairsObjective(photo_set, photos, config.recipe, stride, config.seed)
    return ContrastiveObjective(photo_set, photos, config.recipe, config.seed)
