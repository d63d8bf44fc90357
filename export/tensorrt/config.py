"""How an engine is built. Nothing here imports TensorRT."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.bundle import ShapeRange
from ctxdeploy.core.engines import PACKAGES, TENSORRT_RTX, Hardware
from ctxdeploy.core.errors import ConfigError

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Least, typical and largest shape of the input, each B×H×W×3; the engine is tuned for the typical one."""

    low: Shape
    typical: Shape
    high: Shape

    def metadata(self) -> dict[str, list[int]]:
        """Return a JSON-serialisable form."""
        return {"low": list(self.low), "typical": list(self.typical), "high": list(self.high)}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of a build.

    Attributes:
        workspace: bytes that a layer may use for scratch; all of the GPU's memory if None.
        optimisation_level: 0 builds fastest, 5 searches longest.
        tf32: let fp32 products round their factors to 10 bits.
        version_compatible: an engine that later versions of TensorRT load.
        hardware: GPUs that may run it.
        timing_cache: file that keeps the timings of layers between builds; made if it is not there.
        typical: B, H, W that it is tuned for; one photo of the image size, 4:3, if None.
        max_batch: photos at once at most, also where the bundle allows more: memory is reserved for them.
    """

    workspace: int | None = None
    optimisation_level: int = 3
    tf32: bool = False
    version_compatible: bool = False
    hardware: Hardware = Hardware.NONE
    timing_cache: Path | None = None
    typical: tuple[int, int, int] | None = None
    max_batch: int = 8

    def __post_init__(self) -> None:
        if self.workspace is not None and self.workspace < 1 << 20:
            raise ConfigError(f"a workspace of {self.workspace} bytes is too small: give --workspace 1 or more (MiB)")
        if not 0 <= self.optimisation_level <= 5:
            raise ConfigError(f"--optimisation-level {self.optimisation_level} is outside 0..5")
        if self.max_batch < 1:
            raise ConfigError(f"--max-batch {self.max_batch} is below 1")

    def check(self, target: str) -> None:
        """Raise ``ConfigError`` for a target that there is not, or that lacks what is asked for."""
        if target not in PACKAGES:
            raise ConfigError(f"no engine is built for target {target!r}: give --target {' or '.join(PACKAGES)}")
        if target != TENSORRT_RTX:
            return
        lacking = {
            "--timing-cache": (self.timing_cache is not None, "it times nothing while it builds"),
            "--version-compatible": (self.version_compatible, "its engines fit one version"),
            "--hardware-compatibility": (self.hardware is not Hardware.NONE, "its engines run on all RTX GPUs"),
        }
        for option, (asked, reason) in lacking.items():
            if asked:
                raise ConfigError(
                    f"--target {target} has no {option} ({reason}): leave it out, or use --target tensorrt"
                )

    def profile(self, shapes: ShapeRange, image_size: int) -> Profile:
        """Return the shapes for a bundle's ranges and image size."""
        batch, height, width = shapes.batch, shapes.height, shapes.width
        largest = max(batch[0], min(batch[1], self.max_batch))
        ranges = {"batch": (batch[0], largest), "height": height, "width": width}
        if self.typical is None:
            sizes = (1, image_size * 3 // 4, image_size)
            typical = [min(max(size, low), high) for size, (low, high) in zip(sizes, ranges.values(), strict=True)]
        else:
            typical = list(self.typical)
        for (name, (low, high)), size in zip(ranges.items(), typical, strict=True):
            if not low <= size <= high:
                raise ConfigError(f"--typical: {name} {size} is outside the engine's {low}..{high}")
        return Profile(
            low=(batch[0], height[0], width[0], 3),
            typical=(typical[0], typical[1], typical[2], 3),
            high=(largest, height[1], width[1], 3),
        )

    def options(self, profile: Profile) -> Mapping[str, Any]:
        """Return what goes into an engine's key beside its machine: all that decides about speed and rounding."""
        return {
            "workspace": self.workspace,
            "optimisation_level": self.optimisation_level,
            "tf32": self.tf32,
            "shapes": profile.metadata(),
        }
