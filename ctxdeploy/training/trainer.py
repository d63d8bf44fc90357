"""The training loop: the same steps, in the same order, whether or not it was interrupted."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ctxdeploy.core.errors import TrainingError
from ctxdeploy.export import save_checkpoint
from ctxdeploy.export.networks import DenseNetwork, build
from ctxdeploy.training.batches import Batches, batches_of
from ctxdeploy.training.config import TrainConfig
from ctxdeploy.training.features import Maps, trainable
from ctxdeploy.training.log import CsvLog
from ctxdeploy.training.objectives import Objective
from ctxdeploy.training.state import load_state, save_state

if TYPE_CHECKING:
    from ctxdeploy.core.progress import Display

STATE, MODEL, LOG = "state.pt", "model.pth", "log.csv"
# Steps between two lines of the log, which are the steps at which a state may be saved.
LOG_STEPS = 20
# Called with the averaged network and the step.
Validate = Callable[[DenseNetwork, int], None]


class Trainer:
    """A run: a network, an objective, an optimiser and where their state is kept.

    Args:
        network: HOW or ctx, with its first weights.
        objective: what a step minimises.
        config: of the run.
        folder: of the run; it exists. A state in it is continued from.
        identity: what a state must agree with to be continued from: network, data.
        device: where the network is.
        image_size: longest side that the saved checkpoint is to be used with.
        workers: processes that make batches; 0 for a thread.
    """

    def __init__(
        self,
        network: DenseNetwork,
        objective: Objective,
        config: TrainConfig,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        device: torch.device,
        image_size: int = 1024,
        workers: int = 0,
    ) -> None:
        self._objective, self._config, self._folder, self._device = objective, config, folder, device
        self._image_size, self._workers = image_size, workers
        self._identity = {"config": config.metadata(), **identity}
        network.to(device)
        # The layout in which views arrive: convolutions need not reorder their weights.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._maps = Maps(network, config.precision)
        self._average = _copied(network)
        self._log = CsvLog(folder / LOG, ("step", *objective.parts, "learning_rate", "seconds"))
        self.step = 0
        state = load_state(folder / STATE, self._identity)
        if state is None:
            objective.start(self._maps)
            self._average = _copied(network)
        else:
            self._freeze_as(state)
        self._optimiser = _optimiser(network, config)
        if state is not None:
            self._restore(state)
        self._log.rewind(self.step)

    @property
    def network(self) -> DenseNetwork:
        """The network that is trained."""
        return self._maps.network

    def averaged(self) -> DenseNetwork:
        """Return a network of its own with the averaged weights, in evaluation mode."""
        network = trainable(build(self.network.config, self.network.extraction))
        network.to(self._device)
        network.load_state_dict(self._average)
        return network.eval()

    def run(
        self,
        display: "Display",
        *,
        save_seconds: float = 30.0,
        validate: Validate | None = None,
        validate_every: int = 0,
    ) -> None:
        """Train to the end, and write the checkpoint of the averaged weights.

        Args:
            display: shows the progress.
            save_seconds: least time between two states on disk.
            validate: called every ``validate_every`` steps.
            validate_every: steps; 0 never.

        Raises:
            TrainingError: the loss is not finite any more.
            StorageError: the folder cannot be written.
            NoPhotosError: a hundred photos in a row cannot be read.
        """
        steps = self._config.steps
        end, pinned = steps * self._config.accumulate, self._device.type == "cuda"
        made = batches_of(self._objective, self._maps, end, workers=self._workers, pinned=pinned)
        with display.progress("training", steps, unit="step") as bar, closing(made) as batches:
            bar.advance(self.step)
            if validate and validate_every and self.step and self.step % validate_every == 0:
                validate(self.averaged(), self.step)  # the state is saved first: this is what was interrupted
            sums, since, saved = LossSums(self._objective.parts), time.monotonic(), time.monotonic()
            while self.step < steps:
                self._take_step(batches, sums)
                self.step += 1
                bar.advance()
                if self.step % LOG_STEPS == 0 or self.step == steps:
                    count = self.step % LOG_STEPS or LOG_STEPS
                    found = sums.taken()
                    self._write_line(found, count, time.monotonic() - since)
                    since = time.monotonic()
                    if self.step == steps or time.monotonic() - saved >= save_seconds:
                        self._save()
                        saved = time.monotonic()
                if validate and validate_every and self.step % validate_every == 0:
                    sums.settle()
                    validate(self.averaged(), self.step)
        save_checkpoint(self.averaged().cpu(), self._folder / MODEL, image_size=self._image_size)

    def _take_step(self, batches: Batches, sums: "LossSums") -> None:
        accumulate = self._config.accumulate
        rate = self._config.optimiser.rate(self.step, self._config.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * rate
        self._objective.train_mode(self.network)
        self._optimiser.zero_grad(set_to_none=True)
        for number in range(self.step * accumulate, (self.step + 1) * accumulate):
            total, parts = self._objective.loss(self._maps, batches.take(number), self._device)
            (total / accumulate).backward()  # type: ignore[no-untyped-call]
            sums.add(self.step, total, parts, accumulate)
        self._optimiser.step()
        self._update_average()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on, the average is over a ninth of the steps so far: the first weights are forgotten soon.
        decay = min(self._config.optimiser.averaging, (self.step + 1) / (self.step + 10))
        weights = self.network.state_dict()
        reals = [name for name, value in weights.items() if value.is_floating_point()]
        # All at once: on a GPU a launch each would take longer than the sums.
        mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        mean([self._average[name] for name in reals], [weights[name] for name in reals], None)
        for name in weights.keys() - set(reals):
            self._average[name].copy_(weights[name])

    def _write_line(self, sums: dict[str, float], count: int, seconds: float) -> None:
        rate = self._optimiser.param_groups[-1]["lr"]
        self._log.append(self.step, *(sums[name] / count for name in self._objective.parts), rate, seconds / count)

    def _save(self) -> None:
        frozen = [name for name, parameter in self.network.named_parameters() if not parameter.requires_grad]
        state = {
            **self._identity,
            "step": self.step,
            "weights": self.network.state_dict(),
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
            "objective": self._objective.state(),
            "frozen": frozen,
        }
        save_state(self._folder / STATE, state)

    def _freeze_as(self, state: dict[str, Any]) -> None:
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.network.load_state_dict(state["weights"])
        self._average = {name: value.to(self._device) for name, value in state["average"].items()}
        self._optimiser.load_state_dict(state["optimiser"])
        self._objective.restore(state["objective"], self._device)


class LossSums:
    """Losses of the steps since the last line of the log, read a step late.

    Who reads a number from a GPU waits until it has computed everything before it, and leaves it idle meanwhile.

    Args:
        parts: their names.
    """

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts, self._sums = parts, dict.fromkeys(parts, 0.0)
        self._pending: deque[tuple[int, list[str], int, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, total: Tensor, parts: dict[str, Tensor], accumulate: int) -> None:
        """Take the losses of a batch, one of ``accumulate`` of a step; read those of earlier steps.

        Raises:
            TrainingError: the loss of an earlier step is not finite.
        """
        while self._pending and self._pending[0][0] < step:
            self._read()
        losses = torch.stack([value.detach() for value in (total, *parts.values())]).to("cpu", non_blocking=True)
        arrived = None
        if total.device.type == "cuda":
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(total.device))
        self._pending.append((step, list(parts), accumulate, losses, arrived))

    def settle(self) -> None:
        """Read what has not been read; ``TrainingError`` as ``add``."""
        while self._pending:
            self._read()

    def taken(self) -> dict[str, float]:
        """Return the sums over the steps since the last call; ``TrainingError`` as ``add``."""
        self.settle()
        sums, self._sums = self._sums, dict.fromkeys(self._parts, 0.0)
        return sums

    def _read(self) -> None:
        step, names, accumulate, losses, arrived = self._pending.popleft()
        if arrived is not None:
            arrived.synchronize()
        total, *values = losses.tolist()
        if not math.isfinite(total):
            raise TrainingError(f"the loss of step {step} is {total}: train with a lower --learning-rate")
        for name, value in zip(names, values, strict=True):
            self._sums[name] += value / accumulate


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW with the trunk apart from all else, and vectors without weight decay."""
    settings = config.optimiser
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            rate = settings.learning_rate * (settings.backbone_factor if name.startswith("backbone.") else 1.0)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "lr": rate, "rate": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ]
    )
