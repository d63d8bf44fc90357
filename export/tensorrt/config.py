"""How an engine is built. Nothing here imports TensorRT."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.bundle import ShapeRange
from ctxdeploy.core.engines import Hardware
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.profiles import Profile
from ctxdeploy.core.settings import setting
from ctxdeploy.core.targets import ENGINE_TARGETS, TENSORRT_RTX
from ctxdeploy.export.operators.rewriting import KERNELS
from ctxdeploy.export.tensorrt.profiles import buckets


def _parse_shape(text: str) -> tuple[int, int, int]:
    try:
        batch, height, width = (int(part) for part in text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise ValueError("is not photos, rows and columns such as 1x768x1024") from None
    return batch, height, width


def parse_aspects(text: str) -> tuple[tuple[int, int], ...]:
    """Return longer and shorter side of each of ``4:3,3:2``; nothing for ``none``."""
    if text == "none":
        return ()
    try:
        pairs = [sorted(int(side) for side in part.split(":")) for part in text.split(",")]
        if not all(short >= 1 for short, _ in pairs):
            raise ValueError
    except ValueError:
        raise ValueError(
            "is not a list of ratios such as 4:3,3:2, each of two whole numbers from 1 on, and not none"
        ) from None
    return tuple((long, short) for short, long in pairs)


def _parse_mebibytes(text: str) -> int:
    try:
        return int(text) << 20
    except ValueError:
        raise ValueError("is not a whole number of MiB") from None


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of a build.

    Attributes:
        typical: B, H, W that it is tuned for; the largest batch of photos of the image size, 4:3, if None.
        aspects: longer and shorter side of photos whose shape, either way up, gets a profile of its own, tuned for it
            at the typical batch. Each is built like an engine of its own, but the weights are stored once.
        max_batch: largest batch, also where the bundle allows more: memory is taken as batches need it.
        workspace: bytes that a layer may use for scratch; all of the GPU's memory if None.
        optimisation_level: 0 builds fastest, 5 searches longest.
        tf32: let fp32 products round their factors to 10 bits.
        version_compatible: an engine that later versions of TensorRT load.
        hardware: GPUs that may run it.
        timing_cache: file that keeps the timings of layers between builds; made if it is not there.
        plugins: kernels of ours that the engine has in place of functions, names out of ``KERNELS``.
    """

    typical: tuple[int, int, int] | None = setting(
        None,
        "--typical",
        "Input that it is tuned for.",
        metavar="BxHxW",
        parse=_parse_shape,
        default_text="the largest batch, 4:3",
    )
    aspects: tuple[tuple[int, int], ...] = setting(
        ((4, 3), (3, 2)),
        "--aspects",
        "Shapes of photos, either way up, that it is tuned for apart; more take longer to build; or none.",
        metavar="W:H,…",
        parse=parse_aspects,
        default_text="4:3,3:2",
    )
    max_batch: int = setting(8, "--max-batch", "Largest batch of photos.")
    workspace: int | None = setting(
        None,
        "--workspace",
        "Scratch memory of a layer.",
        metavar="MIB",
        parse=_parse_mebibytes,
        default_text="all of the GPU's",
    )
    optimisation_level: int = setting(3, "--optimisation-level", "0 builds fastest, 5 searches longest.")
    tf32: bool = setting(False, "--tf32/--no-tf32", "Round the factors of fp32 products.", default_text="no-tf32")
    version_compatible: bool = setting(False, "--version-compatible", "Later versions of TensorRT load it too.")
    hardware: Hardware = setting(
        Hardware.NONE,
        "--hardware-compatibility",
        "Other GPUs that run it too.",
        choices=tuple(hardware.value for hardware in Hardware),
        parse=Hardware,
        default_text="none",
    )
    timing_cache: Path | None = setting(
        None, "--timing-cache", "Keep the timings of layers here for the next build.", metavar="FILE"
    )
    plugins: tuple[str, ...] = setting(
        (), "--plugin", "Kernel of ours in place of a function; it has not run on a GPU yet.", choices=KERNELS
    )

    def __post_init__(self) -> None:
        if self.workspace is not None and self.workspace < 1 << 20:
            raise ConfigError(f"--workspace {self.workspace >> 20} is too small: give 1 or more (MiB)")
        if not 0 <= self.optimisation_level <= 5:
            raise ConfigError(f"--optimisation-level {self.optimisation_level} is outside 0..5")
        if self.max_batch < 1:
            raise ConfigError(f"--max-batch {self.max_batch} is below 1: give 1 or more")
        for long, short in self.aspects:
            if not 1 <= short <= long:
                raise ConfigError(
                    f"--aspects {long}:{short} is no ratio of the sides of a photo: give the longer and the shorter "
                    "one, whole numbers from 1 on, such as 4:3"
                )
        if self.plugins and (self.version_compatible or self.hardware is not Hardware.NONE):
            raise ConfigError(
                "--plugin is code for the GPU that the engine is built on: leave out --version-compatible and "
                "--hardware-compatibility"
            )

    def check(self, target: str) -> None:
        """Raise ``ConfigError`` for a target that does not exist, or that lacks what is asked for."""
        if target not in ENGINE_TARGETS:
            raise ConfigError(f"no engine is built for target {target!r}: give --target {' or '.join(ENGINE_TARGETS)}")
        if target != TENSORRT_RTX:
            return
        lacking = {
            "--timing-cache": (self.timing_cache is not None, "it times nothing while it builds"),
            "--version-compatible": (self.version_compatible, "its engines fit one version"),
            "--hardware-compatibility": (self.hardware is not Hardware.NONE, "its engines run on all RTX GPUs"),
            "--plugin": (bool(self.plugins), "it takes none"),
        }
        for option, (asked, reason) in lacking.items():
            if asked:
                raise ConfigError(
                    f"--target {target} has no {option} ({reason}): leave it out, or use --target tensorrt"
                )

    def profiles(self, shapes: ShapeRange, image_size: int) -> tuple[Profile, ...]:
        """Return the shapes for a bundle's ranges and image size: the whole range first, then one for each aspect.

        Raises:
            ConfigError: ``--typical`` is outside of the range.
        """
        batch, height, width = shapes.batch, shapes.height, shapes.width
        largest = max(batch[0], min(batch[1], self.max_batch))
        ranges = {"batch": (batch[0], largest), "height": height, "width": width}
        if self.typical is None:
            sizes = (largest, image_size * 3 // 4, image_size)
            typical = [min(max(size, low), high) for size, (low, high) in zip(sizes, ranges.values(), strict=True)]
        else:
            typical = list(self.typical)
        for (name, (low, high)), size in zip(ranges.items(), typical, strict=True):
            if not low <= size <= high:
                given = "" if self.typical is None else f" {'x'.join(map(str, self.typical))}"
                raise ConfigError(f"--typical{given}: {name} {size} is outside the engine's {low}..{high}")
        whole = Profile(
            low=(batch[0], height[0], width[0], 3),
            typical=(typical[0], typical[1], typical[2], 3),
            high=(largest, height[1], width[1], 3),
        )
        return (whole, *buckets(whole, image_size, self.aspects))

    def options(self, profiles: Sequence[Profile]) -> Mapping[str, Any]:
        """Return what goes into an engine's key beside its machine: all that decides about speed and rounding."""
        return {
            "workspace": self.workspace,
            "optimisation_level": self.optimisation_level,
            "tf32": self.tf32,
            "shapes": profiles[0].metadata(),
            "profiles": [profile.metadata() for profile in profiles[1:]],
        }
