"""The training loop: the same steps, in the same order, whether or not it was interrupted."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ctxdeploy.core.errors import TrainingError
from ctxdeploy.export import save_checkpoint
from ctxdeploy.export.networks import DenseNetwork, build
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
    ) -> None:
        self._objective, self._config, self._folder, self._device = objective, config, folder, device
        self._image_size = image_size
        self._identity = {"config": config.metadata(), **identity}
        network.to(device)
        # The layout in which views arrive: convolutions need not reorder their weights.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._maps = Maps(network, config.precision)
        self._average = {name: value.clone() for name, value in network.state_dict().items()}
        self._log = CsvLog(folder / LOG, ("step", *objective.parts, "learning_rate", "seconds"))
        self.step = 0
        state = load_state(folder / STATE, self._identity)
        if state is None:
            objective.start(self._maps)
            self._average = {name: value.clone() for name, value in network.state_dict().items()}
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
        with (
            display.progress("training", steps, unit="step") as bar,
            closing(_Batches(self._objective, self._maps, steps * self._config.accumulate)) as batches,
        ):
            bar.advance(self.step)
            if validate and validate_every and self.step and self.step % validate_every == 0:
                validate(self.averaged(), self.step)  # the state is saved first: this is what was interrupted
            sums, since, saved = self._no_sums(), time.monotonic(), time.monotonic()
            while self.step < steps:
                for name, value in self._take_step(batches).items():
                    sums[name] += value
                self.step += 1
                bar.advance()
                if self.step % LOG_STEPS == 0 or self.step == steps:
                    count = self.step % LOG_STEPS or LOG_STEPS
                    self._write_line(sums, count, time.monotonic() - since)
                    sums, since = self._no_sums(), time.monotonic()
                    if self.step == steps or time.monotonic() - saved >= save_seconds:
                        self._save()
                        saved = time.monotonic()
                if validate and validate_every and self.step % validate_every == 0:
                    validate(self.averaged(), self.step)
        save_checkpoint(self.averaged().cpu(), self._folder / MODEL, image_size=self._image_size)

    def _take_step(self, batches: "_Batches") -> dict[str, float]:
        accumulate = self._config.accumulate
        rate = self._config.optimiser.rate(self.step, self._config.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * rate
        self._objective.train_mode(self.network)
        self._optimiser.zero_grad(set_to_none=True)
        sums = self._no_sums()
        for number in range(self.step * accumulate, (self.step + 1) * accumulate):
            total, parts = self._objective.loss(self._maps, batches.take(number), self._device)
            if not torch.isfinite(total):
                raise TrainingError(
                    f"the loss of step {self.step} is {total.item()}: train with a lower --learning-rate"
                )
            (total / accumulate).backward()  # type: ignore[no-untyped-call]
            for name, value in parts.items():
                sums[name] += value.item() / accumulate
        self._optimiser.step()
        self._update_average()
        return sums

    def _no_sums(self) -> dict[str, float]:
        return dict.fromkeys(self._objective.parts, 0.0)

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on, the average is over a ninth of the steps so far: the first weights are forgotten soon.
        decay = min(self._config.optimiser.averaging, (self.step + 1) / (self.step + 10))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

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
        self._objective.restore(state["objective"])


class _Batches:
    """Batches in order, the next one made while the network works on this one.

    The first batch of an epoch waits for the step before it: what is in it depends on the network.
    """

    def __init__(self, objective: Objective, maps: Maps, end: int) -> None:
        self._objective, self._maps, self._end = objective, maps, end
        self._executor = ThreadPoolExecutor(1, "batches")
        self._next: tuple[int, Future[Any]] | None = None

    def take(self, number: int) -> Any:
        """Return a batch, and begin to make the one after it."""
        epoch = self._objective.epoch(number)
        if epoch is not None:
            self._objective.begin_epoch(epoch, self._maps)
            self._objective.train_mode(self._maps.network)
        if self._next is None or self._next[0] != number:
            self._next = (number, self._executor.submit(self._objective.batch, number))
        batch = self._next[1].result()
        self._next = None
        if number + 1 < self._end and self._objective.epoch(number + 1) is None:
            self._next = (number + 1, self._executor.submit(self._objective.batch, number + 1))
        return batch

    def close(self) -> None:
        """Stop making batches."""
        self._executor.shutdown(wait=True, cancel_futures=True)


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
