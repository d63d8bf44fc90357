"""The recipe ``transfer``: from a trunk that ImageNet trained to local descriptors.

The losses of ``pairs``, and one more on match kernels with photos of earlier batches, which costs next to nothing: a
batch of 20 pairs then has 180 photos to tell a pair from.
"""

from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.export.networks import EfficientNetTrunk
from ctxdeploy.training import losses, views
from ctxdeploy.training.config import TrainConfig, TransferConfig
from ctxdeploy.training.features import Maps, evaluating
from ctxdeploy.training.memory import Kernels, kernels_of, match_with, matched_pairs
from ctxdeploy.training.objectives import Loss, Objective, PairsObjective, making_threads, objective_of
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sampling import PairBatch
from ctxdeploy.training.sets import PhotoSet
from ctxdeploy.training.transfer_sampling import GrowingSampler, TransferSampler
from ctxdeploy.training.whitening import pca_whitening, set_whitening

# Photos, side of their middles, and of a forward pass, that the whitening begins as a PCA of.
_PHOTOS, _SIDE, _BATCH = 600, 320, 20
_FEATURES = 100_000


class TransferObjective(PairsObjective):
    """InfoNCE as ``pairs``, with a memory; batch normalisation keeps its statistics."""

    parts = ("global", "match", "local", "memory")

    def __init__(self, photo_set: PhotoSet, photos: PhotoStore, train: TrainConfig, stride: int) -> None:
        if not isinstance(train.recipe, TransferConfig):
            raise ConfigError(f"the recipe {train.recipe.kind} is not transfer")
        self._transfer = config = train.recipe
        self._photos = photos
        super().__init__(photo_set, photos, config, stride, train.seed)
        first, last = (
            TransferSampler(photo_set, photos, config, stride, train.seed, size=size)
            for size in (config.view_size, config.final_size)
        )
        self.sampler = GrowingSampler(first, last, round(config.final_from * train.steps * train.accumulate))
        self._memory: deque[Kernels] = deque(maxlen=max(1, config.memory))

    def start(self, maps: Maps) -> None:
        """Begin the whitening as a PCA, to be trained on, and freeze the front of the trunk."""
        network, config = maps.network, self._transfer
        if config.whitening_shrinkage is not None and network.config.dim is not None:
            learned = pca_whitening(self._features(maps), network.config.dim, config.whitening_shrinkage)
            set_whitening(network, *learned)
            network.dim_reduction.requires_grad_(True)
        if config.frozen_blocks:
            _freeze_front(network.backbone, config.frozen_blocks)

    def train_mode(self, network: nn.Module) -> None:
        network.eval()

    def state(self) -> dict[str, Tensor]:
        if not self._memory:
            return {}
        return {f"{i}.{name}": value for i, kept in enumerate(self._memory) for name, value in vars(kept).items()}

    def restore(self, state: dict[str, Tensor], device: torch.device) -> None:
        names = sorted({int(name.partition(".")[0]) for name in state})
        fields = ("vectors", "weights", "norms", "identity")
        self._memory.extend(Kernels(**{field: state[f"{i}.{field}"].to(device) for field in fields}) for i in names)

    def loss(self, maps: Maps, batch: PairBatch, device: torch.device) -> Loss:
        config, related = self._transfer, batch.related.to(device, non_blocking=True)
        vectors, attention = maps.descriptors(batch.views.to(device, non_blocking=True))
        half = len(related)
        whole = losses.aggregated(vectors, attention)
        found = {"global": losses.info_nce(whole[:half] @ whole[half:].T, related, config.temperature)}
        x, weights = losses.strongest(vectors, attention, config.positions)
        kernel = losses.match_kernel(x[:half], weights[:half], x[half:], weights[half:])
        found["match"] = losses.info_nce(kernel, related, config.match_temperature)
        total = config.global_weight * found["global"] + config.match_weight * found["match"]
        if len(batch.pair):
            found["local"] = self._local(vectors, batch, half, device)
            total = total + config.local_weight * found["local"]
        if config.memory:
            identity = batch.identity.to(device, non_blocking=True).repeat(2)
            kernels = kernels_of(x, weights, config.memory_positions, identity)
            if len(self._memory) == config.memory:
                found["memory"] = self._remembered(kernels, half)
                total = total + config.memory_weight * found["memory"]
            self._memory.append(kernels.rows(slice(half, None)).detached())
        return total, found

    def _remembered(self, kernels: Kernels, half: int) -> Tensor:
        """Tell the pair of each view from photos of earlier batches."""
        others = Kernels.joined(self._memory)
        logits = match_with(kernels, others)
        logits = logits.masked_fill(kernels.identity[:, None] == others.identity[None], float("-inf"))
        pairs = matched_pairs(kernels.rows(slice(half)), kernels.rows(slice(half, None)))
        scores = torch.cat([pairs.repeat(2)[:, None], logits], dim=1) / self._transfer.match_temperature
        return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))

    def _features(self, maps: Maps) -> Tensor:
        """Return features n×C of the middles of photos spread over the set, before the whitening."""
        numbers = np.unique(np.linspace(0, len(self._photos) - 1, _PHOTOS).astype(int))
        device = maps.network.get_buffer("mean").device
        found = []
        made = views.middles(self._photos, numbers, _SIDE, _BATCH, threads=making_threads(device))
        with evaluating(maps.network):
            for _, pixels in made:
                if pixels is not None:
                    features, _ = maps.features(pixels.to(device))
                    step = -(-len(numbers) * features[0, 0].numel() // _FEATURES)
                    found.append(features.permute(0, 2, 3, 1).flatten(0, 2)[::step].float().cpu())
        if not found:
            raise NoPhotosError(f"none of {len(numbers)} photos can be read")
        return torch.cat(found)


def _freeze_front(trunk: nn.Module, blocks: int) -> None:
    if not isinstance(trunk, EfficientNetTrunk):
        raise ConfigError("frozen_blocks are of an EfficientNet-Lite trunk: train others with --set frozen_blocks=0")
    for part in (trunk.stem, *list(trunk.blocks)[:blocks]):
        part.requires_grad_(False)


def objective_for(photo_set: PhotoSet, photos: PhotoStore, config: TrainConfig, stride: int) -> Objective:
    """Return the objective of any recipe."""
    if isinstance(config.recipe, TransferConfig):
        return TransferObjective(photo_set, photos, config, stride)
    return objective_of(photo_set, photos, config, stride)
