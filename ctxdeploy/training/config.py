"""How a network is trained: the two recipes, the optimiser, the run. torch is imported when a device is asked for."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ctxdeploy.core.cpu import available_processors
from ctxdeploy.core.device import CPU, Device
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import setting

# A process makes some three batches of 48 views a second: more of them outrun any GPU.
_MOST_WORKERS = 16


def _between(given: str, value: float | None, low: float, high: float) -> None:
    """Check a value; ``given`` is what stands before it on the command line."""
    if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{given}{'none' if value is None else value} is outside {low:g}..{high:g}")


def _whole(given: str, value: int | None, low: int, high: int) -> None:
    if type(value) is not int:
        shown = "none" if value is None else value
        raise ConfigError(f"{given}{shown} is not a whole number: give one of {low}..{high}")
    if not low <= value <= high:
        raise ConfigError(f"{given}{value} is outside {low}..{high}")


def _parse_gigabytes(text: str) -> int:
    try:
        return round(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise ValueError("is not a number of gigabytes") from None


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """From nothing: every photo finds its pair among the others of the batch (InfoNCE).

    Half of a batch are two views of one photo, related by a known homography; half are two photos of one landmark.

    Attributes:
        pairs: in a batch, at least 2.
        view_size: side of the square views in pixels.
        temperature: of the losses on global and on local descriptors.
        match_temperature: of the loss on match kernels.
        global_weight: of the loss on global descriptors.
        match_weight: of the loss on match kernels; 0 leaves it out.
        positions: strongest positions of a view that enter the match kernel.
        correspondences: positions of a pair of views that enter the loss on local descriptors.
    """

    kind: ClassVar[str] = "pairs"

    pairs: int = 24
    view_size: int = 224
    temperature: float = 0.07
    match_temperature: float = 0.05
    global_weight: float = 0.5
    match_weight: float = 1.0
    positions: int = 64
    correspondences: int = 48

    def __post_init__(self) -> None:
        _whole("--set pairs=", self.pairs, 2, 4096)
        _whole("--set view_size=", self.view_size, 64, 2048)
        _between("--set temperature=", self.temperature, 0.001, 10)
        _between("--set match_temperature=", self.match_temperature, 0.001, 10)
        _between("--set global_weight=", self.global_weight, 0, 1000)
        _between("--set match_weight=", self.match_weight, 0, 1000)
        _whole("--set positions=", self.positions, 1, 65536)
        _whole("--set correspondences=", self.correspondences, 1, 65536)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """The slides' and HOW's: contrastive loss on global descriptors, hard negatives found anew every epoch.

    Attributes:
        tuples: a query, its positive and its negatives; in a batch.
        negatives: of a query, each of another landmark.
        queries: of an epoch.
        pool: photos of an epoch among which negatives are looked for.
        view_size: side of the square views in pixels.
        margin: negatives farther away than this cost nothing.
        whitening_shrinkage: exponent of the whitening, 0 (a rotation) to 1 (equal variances); None keeps the
            whitening of the network that training starts from.
    """

    kind: ClassVar[str] = "contrastive"

    tuples: int = 5
    negatives: int = 5
    queries: int = 2000
    pool: int = 20000
    view_size: int = 320
    margin: float = 0.8
    whitening_shrinkage: float | None = 1.0

    def __post_init__(self) -> None:
        _whole("--set tuples=", self.tuples, 1, 4096)
        _whole("--set negatives=", self.negatives, 1, 1000)
        _whole("--set queries=", self.queries, self.tuples, 10**7)
        _whole("--set pool=", self.pool, self.negatives, 10**7)
        _whole("--set view_size=", self.view_size, 64, 2048)
        _between("--set margin=", self.margin, 0.01, 2)
        if self.whitening_shrinkage is not None:
            _between("--set whitening_shrinkage=", self.whitening_shrinkage, 0, 1)

    @property
    def epoch(self) -> int:
        """Batches of an epoch."""
        return self.queries // self.tuples


@dataclass(frozen=True, kw_only=True)
class TransferConfig(PairsConfig):
    """From a trunk that ImageNet trained: ``pairs`` with a memory, landmarks drawn by the root of their photos.

    Attributes:
        local_weight: of the loss on local descriptors.
        memory: earlier batches whose photos are told apart from those of a batch; 0 for none.
        memory_positions: strongest positions of a view that are compared with them.
        memory_weight: of the loss on match kernels with them.
        final_size: side of the views from the share ``final_from`` of the steps on.
        final_from: 1 leaves them as they are.
        min_share: side of a view of one photo, as a share of the photo's shorter side, at least.
        zoom: factor between the sides of two views of one photo at most.
        slanted: share of the second views of one photo that are foreshortened, as of a wall seen from aside.
        slant: how many times, at most.
        night: share of the views that are dark.
        unlabelled: share of photos without landmarks among those of which two views are taken.
        frozen_blocks: first blocks of the trunk that stay as they are, the stem with them; 0 trains all.
        whitening_shrinkage: of the PCA that the whitening begins as; None keeps the network's.
    """

    kind: ClassVar[str] = "transfer"

    pairs: int = 20
    local_weight: float = 0.5
    memory: int = 8
    memory_positions: int = 48
    memory_weight: float = 0.5
    final_size: int = 288
    final_from: float = 0.7
    min_share: float = 0.35
    zoom: float = 2.5
    slanted: float = 0.4
    slant: float = 4.0
    night: float = 0.15
    unlabelled: float = 0.3
    frozen_blocks: int = 5
    whitening_shrinkage: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _between("--set local_weight=", self.local_weight, 0, 1000)
        _whole("--set memory=", self.memory, 0, 1024)
        _whole("--set memory_positions=", self.memory_positions, 1, self.positions)
        _between("--set memory_weight=", self.memory_weight, 0, 1000)
        _whole("--set final_size=", self.final_size, 64, 2048)
        _between("--set final_from=", self.final_from, 0, 1)
        _between("--set min_share=", self.min_share, 0.05, 1)
        _between("--set zoom=", self.zoom, 1, 16)
        _between("--set slanted=", self.slanted, 0, 1)
        _between("--set slant=", self.slant, 1, 16)
        _between("--set night=", self.night, 0, 1)
        _between("--set unlabelled=", self.unlabelled, 0, 1)
        _whole("--set frozen_blocks=", self.frozen_blocks, 0, 64)
        if self.whitening_shrinkage is not None:
            _between("--set whitening_shrinkage=", self.whitening_shrinkage, 0, 1)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with a warm-up and a cosine (Loshchilov and Hutter, ICLR 2019).

    Attributes:
        learning_rate: at the end of the warm-up, of everything but the trunk.
        backbone_factor: the trunk's learning rate as a share of that: 1 from nothing, 0.1 from a trained trunk.
        weight_decay: of matrices and kernels; vectors have none.
        warmup: steps.
        final: share of the learning rate that is left at the end.
        averaging: decay a step of the average of weights that is validated and saved; 0 saves the last weights.
    """

    learning_rate: float = 1e-3
    backbone_factor: float = 1.0
    weight_decay: float = 0.01
    warmup: int = 100
    final: float = 0.01
    averaging: float = 0.998

    def __post_init__(self) -> None:
        _between("--learning-rate ", self.learning_rate, 1e-12, 10)
        _between("--set backbone_factor=", self.backbone_factor, 0, 10)
        _between("--set weight_decay=", self.weight_decay, 0, 10)
        _whole("--set warmup=", self.warmup, 0, 10**9)
        _between("--set final=", self.final, 0, 1)
        _between("--set averaging=", self.averaging, 0, 0.99999)

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, 0 to steps - 1, as a share of ``learning_rate``."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return warm * (self.final + (1 - self.final) * cosine)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run; equal configurations, data and machines give equal weights.

    Attributes:
        recipe: what is learned from.
        optimiser: how.
        steps: of the optimiser.
        accumulate: batches whose gradients a step sums.
        seed: of the weights and of everything drawn.
        precision: the trunk's, ``fp32`` or ``bf16`` (autocast); everything after it is fp32.
        photo_size: longest side to which photos are scaled when they are read.
    """

    recipe: PairsConfig | ContrastiveConfig = field(default_factory=PairsConfig)
    optimiser: OptimiserConfig = OptimiserConfig()
    steps: int = 8000
    accumulate: int = 1
    seed: int = setting(0, "--seed", "Of weights, views and order.")
    precision: str = setting("bf16", "--precision", "The trunk's.", choices=("bf16", "fp32"))
    photo_size: int = 512

    def __post_init__(self) -> None:
        _whole("--steps ", self.steps, 1, 10**9)
        _whole("--set accumulate=", self.accumulate, 1, 4096)
        _whole("--seed ", self.seed, 0, 2**63 - 1)
        _whole("--set photo_size=", self.photo_size, 64, 8192)
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"--precision {self.precision!r} of a training is unknown: give bf16 or fp32")

    def metadata(self) -> dict[str, Any]:
        """Return a JSON-serialisable form that ``parse`` reads."""
        return {**asdict(self), "recipe": {"kind": self.recipe.kind, **asdict(self.recipe)}}

    @classmethod
    def parse(cls, metadata: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration that ``metadata`` wrote; ``ConfigError`` names what is wrong with it."""
        try:
            recipe = dict(metadata["recipe"])
            kind = RECIPES[recipe.pop("kind")]
            rest = {**metadata, "recipe": kind(**recipe), "optimiser": OptimiserConfig(**metadata["optimiser"])}
            return cls(**rest)
        except ConfigError:
            raise
        except (KeyError, TypeError) as error:
            raise ConfigError(f"this is not the configuration of a training: {error!r}") from error


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """How much of a full evaluation a validation is.

    Attributes:
        image_size: longest side of the photos in pixels.
        scales: of the pyramid.
        top_k: descriptors of a photo.
        words: of the codebook.
        codebook_photos: of the training set, evenly spread over it, that the codebook is trained on.
    """

    image_size: int = 512
    scales: tuple[float, ...] = (1.414, 1.0, 0.707, 0.5, 0.353)
    top_k: int = 600
    words: int = 4096
    codebook_photos: int = 500


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a run computes: what does not change its result.

    Attributes:
        device: ``cpu``, a GPU, or ``auto``: the first GPU where there is one.
        threads: of the network; None leaves it to PyTorch, within a CPU quota. Another number may round differently.
        workers: processes that make batches; None for a thread on a CPU, and for a GPU one beside each processor but
            one, 16 at most.
        memory: bytes of decoded photos that are kept, by all processes together.
        save_seconds: least time between two states on disk, from which a run continues.
        validate: folder with photos and ``gnd.json``.
        validate_every: steps.
        validation: how much a validation computes.
    """

    device: str = setting("cpu", "--device", "Of PyTorch: cpu, cuda, cuda:N, or auto.")
    threads: int | None = setting(None, "--threads", "Of the network.", default_text="PyTorch's choice, or a CPU quota")
    workers: int | None = setting(
        None,
        "--workers",
        "Processes that make batches.",
        default_text="0, a thread; with a GPU one a processor, up to 16",
    )
    memory: int = setting(
        4 * 10**9, "--photo-memory", "For decoded photos.", metavar="GB", parse=_parse_gigabytes, default_text="4.0"
    )
    save_seconds: float = setting(30.0, "--save-seconds", "Least time between two states.")
    validate: Path | None = setting(
        None, "--validate", "Photos with gnd.json that the network is scored on.", metavar="DIR"
    )
    validate_every: int = setting(1000, "--validate-every", "Between two scores.", metavar="STEPS")
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ConfigError(f"--threads {self.threads} is outside 1..1024")
        if self.workers is not None and not 0 <= self.workers <= 256:
            raise ConfigError(f"--workers {self.workers} is outside 0..256")
        Device.parse(self.device)
        if not 1 <= self.validate_every <= 10**9:
            raise ConfigError(f"--validate-every {self.validate_every} is outside 1..10^9")
        if not self.save_seconds >= 0:
            raise ConfigError(f"--save-seconds {self.save_seconds} is not 0 or more")
        if self.memory < 0:
            raise ConfigError(f"--photo-memory {self.memory / 1e9:g} is not 0 or more (GB)")

    def processes(self, device: str) -> int:
        """Return how many processes make batches for a kind of device, ``cpu`` or ``cuda``."""
        if self.workers is not None:
            return self.workers
        return 0 if device == CPU else max(1, min(_MOST_WORKERS, available_processors() - 1))


RECIPES: dict[str, type[PairsConfig] | type[ContrastiveConfig]] = {
    recipe.kind: recipe for recipe in (PairsConfig, ContrastiveConfig, TransferConfig)
}
