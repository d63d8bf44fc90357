"""A photo through a bundle's fp32 graph, with the values on the way."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.settings import setting
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import Box, Preprocessing
from ctxdeploy.runtime.config import DecodeLimits
from ctxdeploy.runtime.decode.decode import Pixels, decode_bytes, read_file
from ctxdeploy.runtime.decode.image import EXIF_ORIENTATION, open_image
from ctxdeploy.runtime.inspection.graph import BundleGraph, Level
from ctxdeploy.runtime.inspection.maps import Inspection, LevelMaps, Preparation
from ctxdeploy.runtime.inspection.reading import (
    contains,
    names_of,
    read_chosen,
    read_descriptors,
    read_level,
    values_of,
)

if TYPE_CHECKING:
    from PIL import Image

# What the eight EXIF orientations ask for.
TURNS = {
    1: "none",
    2: "mirrored left to right",
    3: "turned by 180°",
    4: "mirrored top to bottom",
    5: "mirrored along the main diagonal",
    6: "turned by 90° clockwise",
    7: "mirrored along the other diagonal",
    8: "turned by 90° counter-clockwise",
}
_MODES = {
    "1": "black and white",
    "L": "grey, 8 bits",
    "LA": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": "RGB, 8 bits",
    "RGBA": "RGB with transparency",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "CIELAB",
}


def _position(text: str) -> tuple[float, float]:
    """Return the position that ``"x,y"`` says; ``ValueError`` for anything else."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("is not two numbers: give it as x,y") from None
    return x, y


@dataclass(frozen=True, kw_only=True)
class InspectionConfig:
    """What is inspected, and what of it is looked at closely.

    Attributes:
        box: the part of the photo to inspect; the whole photo if None.
        at: x and y in pixels of the original photo, after EXIF rotation; the strongest position of the scale if None.
        scale: one of the bundle's; that nearest to 1 if None.
        threads: of the network; ONNX Runtime's own choice if None.
    """

    box: Box | None = setting(
        None, "--box", "Inspect this part of the photo (pixels).", metavar="x0,y0,x1,y1", parse=Box.parse
    )
    at: tuple[float, float] | None = setting(
        None,
        "--at",
        "Look closely at this position (pixels).",
        metavar="x,y",
        parse=_position,
        default_text="the scale's strongest",
    )
    scale: float | None = setting(None, "--scale", "Look closely at this scale.", default_text="the one nearest to 1")
    threads: int | None = setting(
        None, "--threads", "Of the network.", default_text="the runtime's choice, or a CPU quota"
    )

    def __post_init__(self) -> None:
        if self.at is not None and not all(math.isfinite(value) for value in self.at):
            raise ConfigError(f"--at {self.at[0]:g},{self.at[1]:g} is not a position: give finite numbers x,y")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ConfigError(f"{self.threads} threads are outside 1..1024: give another --threads")

    def level(self, scales: Sequence[float]) -> int:
        """Return the number of the scale that is meant; ``ConfigError`` names those there are."""
        if self.scale is None:
            return min(range(len(scales)), key=lambda number: abs(math.log(scales[number])))
        if self.scale not in scales:
            known = ", ".join(f"{scale:g}" for scale in scales)
            raise ConfigError(f"--scale {self.scale:g} is not one of the bundle's: give {known}")
        return scales.index(self.scale)


def inspect_photo(bundle: Bundle, photo: Path | str, config: InspectionConfig | None = None) -> Inspection:
    """Run a photo through the fp32 graph of a bundle and keep the values that explain its descriptors.

    Args:
        bundle: as ``ctxdeploy.core.bundle.open`` returns it.
        photo: the file.
        config: what is inspected.

    Raises:
        ConfigError: the bundle has no such scale, or gives no local descriptors.
        PhotoError: the photo cannot be read or is of a size that the bundle does not take, or the box or the position
            does not lie in it.
        MissingExtraError: onnx or ONNX Runtime is not installed.
        BackendError: ONNX Runtime cannot run the graph.
    """
    config = config or InspectionConfig()
    if "local" not in bundle.extraction.gives:
        raise ConfigError(
            f"{printable(str(bundle.path))} gives a global descriptor alone: "
            "it has no positions with attention that could be shown"
        )
    scales = bundle.extraction.scales
    number = config.level(scales)
    data, decoded = _decode(bundle, Path(photo), config.box)
    if config.at is not None and not contains(decoded, config.at):
        raise PhotoError(_outside(Path(photo), decoded, config.at))
    start = time.perf_counter()
    graph = BundleGraph(bundle.file(bundle.artefact("onnxruntime", "fp32")))
    levels = graph.levels(len(scales))
    values = values_of(graph, names_of(levels, number), decoded.pixels, config.threads)
    seconds = time.perf_counter() - start
    descriptors, positions = read_descriptors(values, decoded)
    maps = tuple(
        read_level(bundle, i, level, values, decoded, positions[descriptors.scales == np.float32(scale)])
        for i, (scale, level) in enumerate(zip(scales, levels or [None] * len(scales), strict=True))
    )
    return Inspection(
        photo=decoded,
        preparation=_preparation_of(data, decoded, bundle.preprocessing),
        descriptors=descriptors,
        positions=positions,
        levels=maps,
        level=number,
        chosen=read_chosen(maps, levels, number, values, decoded, (descriptors, positions), config.at),
        missing=_missing(bundle, levels, maps),
        seconds=seconds,
    )


def _decode(bundle: Bundle, path: Path, box: Box | None) -> tuple[bytes, Pixels]:
    try:
        data = read_file(path)
        photo = decode_bytes(data, bundle.preprocessing, box)
        bundle.shapes.check((1, *photo.pixels.shape))
    except (PhotoError, ConfigError) as error:
        raise PhotoError(f"{printable(str(path))}: {error}") from error
    return data, photo


def _outside(path: Path, photo: Pixels, at: tuple[float, float]) -> str:
    where = f"{at[0]:g},{at[1]:g}"
    width, height = photo.original_size
    if photo.region == (0, 0, width, height):
        return (
            f"{printable(str(path))}: the position {where} does not lie in the photo of {width}×{height} pixels (--at)"
        )
    box = ",".join(str(edge) for edge in photo.region)
    return f"{printable(str(path))}: the position {where} does not lie in the box {box} (--at)"


def _missing(bundle: Bundle, levels: Sequence[Level], maps: Sequence[LevelMaps]) -> tuple[str, ...]:
    """Return why some pictures cannot be made, a line each."""
    if not levels:
        return ("maps and edges: the bundle's graph is not of the form that  ctxdeploy export  writes",)
    if levels[0].shares is not None:
        lines = ["bandwidth, self-confidence and edges: a network of super-features has neither smoothing nor graph"]
        if any(level.super_features is None for level in maps):
            lines.append("maps of super-features: the feature maps are not of the size that bundle.json implies")
        return tuple(lines)
    lines = []
    found = "they were not found in the bundle's graph: export it anew"
    if any(level.bandwidth is None for level in levels):
        learned = (bundle.network.get("smoothing") or {}).get("kind") == "gaussian"
        lines.append(f"bandwidth and self-confidence: {found if learned else 'the network has no learned smoothing'}")
    if not all(level.blocks for level in levels):
        lines.append(f"edges: {found if bundle.network.get('refinement') else 'the network has no graph refinement'}")
    return tuple(lines)


def _preparation_of(data: bytes, photo: Pixels, preprocessing: Preprocessing) -> Preparation:
    """Return what was done to the bytes of a photo that has been decoded; only their header is read again."""
    height, width = photo.pixels.shape[:2]
    left, upper, right, lower = photo.region
    whole = photo.region == (0, 0, *photo.original_size)
    with open_image(data, DecodeLimits()) as image:
        orientation = _orientation(image)
        return Preparation(
            format=image.format or "unknown",
            bytes=len(data),
            stored_size=image.size,
            colour=_MODES.get(image.mode, image.mode),
            conversion=_conversion(image),
            orientation=orientation,
            turn=TURNS[orientation],
            original_size=photo.original_size,
            box=None if whole else photo.region,
            input_size=(width, height),
            factor=max(width, height) / max(right - left, lower - upper),
            scaling=_scaling(image, photo, preprocessing),
            left_out=_left_out(image),
        )


def _orientation(image: "Image.Image") -> int:
    try:
        number = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises anything from SyntaxError to struct.error; it is not used then
        return 1
    return number if number in TURNS else 1


def _conversion(image: "Image.Image") -> str:
    """Say what ``ctxdeploy.runtime.decode.image`` does with an image of this mode."""
    if image.mode.startswith("F"):
        return "scaled from float samples to 8 bits"
    if image.mode.startswith("I"):
        return "divided by 257, from 16 bits to 8"
    if image.has_transparency_data:
        return "composited on white"
    if image.mode == "RGB":
        return "none"
    return "grey in all three channels" if image.mode in ("1", "L") else "converted to RGB"


def _scaling(image: "Image.Image", photo: Pixels, preprocessing: Preprocessing) -> str:
    height, width = photo.pixels.shape[:2]
    left, upper, right, lower = photo.region
    if (width, height) == (right - left, lower - upper):
        return "none, it is not larger than the model takes"
    draft = preprocessing.draft and image.format in ("JPEG", "MPO")
    return "LANCZOS, after the JPEG decoder's own reduction" if draft else "LANCZOS"


def _left_out(image: "Image.Image") -> tuple[str, ...]:
    found = []
    if image.info.get("icc_profile"):
        found.append("the colour profile (the pixels are taken as sRGB)")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        found.append(f"{frames - 1:,} more frames or pages")
    return tuple(found)
