"""Retrieval by a network while it is trained: its descriptors in ASMK, scored by ground truth (``gnd.json``)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import load_ground_truth
from ctxdeploy.evaluation import asmk_scores
from ctxdeploy.export.networks import DenseNetwork, DescriptorNetwork, build
from ctxdeploy.training.config import ValidationConfig
from ctxdeploy.training.photos import Image, PhotoStore


class Validation:
    """Scores networks by the photos of a folder with ground truth.

    Args:
        place: the folder.
        training: paths of the training photos; the codebook is trained on some of them.
        config: how much is computed.

    Attributes:
        figures: names of what is scored: ``map``, and by the ground truth also kinds of scenes and ``small``.
        key: 8 hex digits; scores with other digits are of other photos or settings.

    Raises:
        ConfigError: the folder has no ground truth.
        NoPhotosError: it has no photos.
    """

    def __init__(self, place: Path, training: Sequence[Path], config: ValidationConfig) -> None:
        from ctxdeploy.runtime import find_photos

        truth = load_ground_truth(place)
        if truth is None:
            raise ConfigError(f"--validate {place}: there is no gnd.json in it")
        self._config = config
        paths = {Path(photo.name).name: photo.path for photo in find_photos(place) if photo.path is not None}
        self._names = list(paths)
        self._truth = truth.restricted(self._names)
        self.figures = tuple(self._truth.parts())
        if "map" not in self.figures:
            raise ConfigError(f"--validate {place}: no two photos of a scene of gnd.json are in it")
        self._photos = PhotoStore(tuple(paths.values()), config.image_size, memory=0)
        chosen = np.unique(np.linspace(0, len(training) - 1, min(config.codebook_photos, len(training))).astype(int))
        codebook = tuple(training[i] for i in chosen)
        self._training = PhotoStore(codebook, config.image_size, memory=0)
        scored = {name: sorted(part.scenes.items()) for name, part in self._truth.parts().items()}
        junk = {name: sorted(others) for name, others in sorted(self._truth.junk.items())}
        identity = [scored, junk, sorted(self._names), [path.parts[-2:] for path in codebook], asdict(config)]
        self.key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]

    def scores(self, network: DenseNetwork) -> dict[str, float]:
        """Return the mean average precisions, 0 to 1, of a network in evaluation mode, by ``figures``."""
        pyramid = self._pyramid(network)
        training = [_describe(pyramid, self._training.load(i)) for i in range(len(self._training))]
        photos = {name: _describe(pyramid, self._photos.load(i)) for i, name in enumerate(self._names)}
        return asmk_scores(photos, np.concatenate(training), self._config.words, self._truth)

    def _pyramid(self, network: DenseNetwork) -> DescriptorNetwork:
        """Return a copy of a network over all scales, its batch normalisation folded."""
        extraction = Extraction(scales=self._config.scales, top_k=self._config.top_k, dim=network.config.descriptor_dim)
        copy = build(network.config, extraction)
        copy.load_state_dict(network.state_dict())
        copy.fold()
        return copy.to(network.get_buffer("mean").device)


def _describe(network: DescriptorNetwork, image: Image | None) -> NDArray[np.float32]:
    """Return descriptors of a photo n×D float32; none of an unreadable one."""
    mean = network.get_buffer("mean")
    if image is None:
        return np.empty((0, network.config.descriptor_dim), np.float32)
    with torch.inference_mode():
        descriptors, attention, _, _ = network(torch.tensor(image)[None].to(mean.device))
    vectors: NDArray[np.float32] = descriptors[0][attention[0] > 0].float().cpu().numpy()
    return vectors
