"""A training run from its parts: photos, a network, a folder; the same call continues it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ctxdeploy.core.cpu import available_processors
from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.core.files import file_sha256
from ctxdeploy.export import load_checkpoint, save_checkpoint
from ctxdeploy.export.networks import DenseNetwork, NetworkConfig, Refinement, Smoothing
from ctxdeploy.training.config import RunConfig, TrainConfig
from ctxdeploy.training.device import enough_memory, repeatable, training_device
from ctxdeploy.training.log import CsvLog
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sets import PhotoSet
from ctxdeploy.training.start import network_from, network_on_trunk, new_network
from ctxdeploy.training.state import locked
from ctxdeploy.training.trainer import MODEL, Trainer
from ctxdeploy.training.transfer import objective_for
from ctxdeploy.training.validation import Validation

if TYPE_CHECKING:
    from ctxdeploy.core.progress import Display

VALIDATIONS, BEST = "validation.csv", "best.pth"
IMAGE_SIZE = 1024


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training starts from.

    Attributes:
        network: a network of this configuration, untrained, or on the trunk of a file; or None:
        checkpoint: this one, with ``smoothing`` and ``refinement`` in place of its own where they are given.
        trunk: weights of the trunk of ``network``, as ``ctxdeploy.export.networks.pretrained`` reads them.
    """

    network: NetworkConfig | None = None
    checkpoint: Path | None = None
    trunk: Path | None = None
    smoothing: Smoothing | None = None
    refinement: Refinement | None = None

    def __post_init__(self) -> None:
        if (self.network is None) == (self.checkpoint is None):
            raise ConfigError("a training starts from a network's configuration or from a checkpoint (--init)")
        if self.trunk is not None and self.network is None:
            raise ConfigError(f"{self.trunk} has the weights of a trunk: give the configuration of the network on it")

    def identity(self) -> str:
        """Return what tells the weights of one checkpoint from those of another."""
        if self.trunk is not None:
            return file_sha256(self.trunk)
        return "" if self.checkpoint is None else load_checkpoint(self.checkpoint).weights_sha256()

    def make(self, seed: int) -> tuple[DenseNetwork, int]:
        """Return the network and the longest side of the photos that it is for."""
        if self.checkpoint is not None:
            return network_from(self.checkpoint, seed, smoothing=self.smoothing, refinement=self.refinement)
        if self.network is None:
            raise ConfigError("no network to train")
        if self.trunk is not None:
            return network_on_trunk(self.network, self.trunk, seed), IMAGE_SIZE
        return new_network(self.network, seed), IMAGE_SIZE


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run left.

    Attributes:
        model: the checkpoint of the averaged weights.
        steps: that were taken, in this run and those before it.
        unreadable: photos that could not be read; others stood in for them.
        score: mean average precision of the last validation, 0 to 1; None without one.
    """

    model: Path
    steps: int
    unreadable: int
    score: float | None


def train(
    folder: Path, photo_set: PhotoSet, start: Start, config: TrainConfig, run: RunConfig, display: "Display"
) -> Trained:
    """Train, or continue to, and return what came of it.

    Raises:
        ConfigError: the folder holds another training, or a setting does not fit.
        NoPhotosError: too few photos can be read.
        CheckpointError: what is started or continued from cannot be loaded.
        StorageError: the folder cannot be written, or another process trains in it.
        TrainingError: the loss is not finite any more, or the GPU's memory is too small.
    """
    device = training_device(run.device, config.precision)
    torch.set_num_threads(run.threads or min(torch.get_num_threads(), available_processors()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror or error}") from error
    with locked(folder), repeatable(device), enough_memory(device):
        network, image_size = start.make(config.seed)
        photos = PhotoStore(photo_set.paths, config.photo_size, run.memory)
        objective = objective_for(photo_set, photos, config, network.config.stride)
        identity = {"network": network.config.metadata(), "data": photo_set.metadata(), "start": start.identity()}
        trainer = Trainer(
            network,
            objective,
            config,
            folder,
            identity=identity,
            device=device,
            image_size=image_size,
            workers=run.processes(device.type),
        )
        if trainer.step:
            display.say(f"continues at step {trainer.step} of {config.steps}")
        scores = None if run.validate is None else _Scores(folder, run, photo_set, trainer.step, image_size, display)
        trainer.run(display, save_seconds=run.save_seconds, validate=scores, validate_every=run.validate_every)
        score = None if scores is None else scores.final(trainer)
    return Trained(model=folder / MODEL, steps=trainer.step, unreadable=len(photos.unreadable), score=score)


class _Scores:
    """Validates a network, writes its score down, and keeps the best one so far."""

    def __init__(
        self, folder: Path, run: RunConfig, photo_set: PhotoSet, step: int, image_size: int, display: "Display"
    ) -> None:
        if run.validate is None:
            raise ConfigError("nothing to validate on")
        self._folder, self._image_size, self._display = folder, image_size, display
        self._validation = Validation(run.validate, photo_set.paths, run.validation)
        self._log = CsvLog(folder / VALIDATIONS, ("step", "key", *self._validation.figures))
        if self._log.has_other_columns() or any(row["key"] != self._validation.key for row in self._log.rows()):
            raise ConfigError(
                f"--validate {run.validate}: the scores in {folder / VALIDATIONS} and what {BEST} was chosen by are of "
                "other photos or settings: move both away"
            )
        self._log.rewind(step)
        rows = self._log.rows()
        self._best = max((float(row["map"]) for row in rows), default=0.0)
        self._last = (int(rows[-1]["step"]), float(rows[-1]["map"])) if rows else (-1, 0.0)

    def __call__(self, network: DenseNetwork, step: int) -> None:
        if step == self._last[0]:
            return
        scores = self._validation.scores(network)
        score = scores["map"]
        if score > self._best:
            self._best = score
            save_checkpoint(network.cpu(), self._folder / BEST, image_size=self._image_size)
        self._log.append(step, self._validation.key, *scores.values())
        self._last = (step, score)
        found = ", ".join(f"{name} {100 * value:.2f}" for name, value in scores.items())
        self._display.say(f"step {step}, validation photos: {found}")

    def final(self, trainer: Trainer) -> float:
        """Return the score of the finished network."""
        self(trainer.averaged(), trainer.step)
        return self._last[1]
