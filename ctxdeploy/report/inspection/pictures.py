"""The pictures of an inspection."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.report.inspection.colours import mark_colours
from ctxdeploy.report.inspection.drawing import (
    LARGE,
    SMALL,
    Frame,
    Mark,
    Ring,
    fitted,
    grey,
    lit,
    marked,
    normalised,
    over_photo,
)
from ctxdeploy.report.inspection.edges import draw_edges
from ctxdeploy.report.inspection.picture import Drawn, frame, three

if TYPE_CHECKING:
    from ctxdeploy.report.inspection.drawing import Picture
    from ctxdeploy.runtime.inspection import Chosen, Inspection, LevelMaps

BOX = (255, 122, 61)
# Brightness of the ring of the least attention, and of the photo under marks.
_DIMMEST, _GROUND = 0.45, 0.42
# Super-features that are shown.
SUPER_FEATURES = 8


def draw(found: "Inspection", edges: int, whole: NDArray[np.uint8] | None = None) -> list[Drawn]:
    """Return all pictures of an inspection.

    Args:
        found: what was found.
        edges: that are drawn of a block, at most.
        whole: the whole photo, H×W×3 uint8, where ``found`` is about a part of it.
    """
    photos = {size: fitted(found.photo.pixels, size) for size in (LARGE, SMALL)}
    pictures = [*_inputs(found, photos[LARGE], whole), *_attention(found, photos), *_selected(found, photos)]
    pictures += _maps(found, photos[SMALL], "bandwidth", lambda level: level.bandwidth)
    pictures += _maps(found, photos[SMALL], "confidence", lambda level: level.confidence)
    if found.chosen is not None:
        for number, block in enumerate(found.chosen.blocks, 1):
            pictures += draw_edges(photos[LARGE], number, block, block.strongest(edges))
    return [*pictures, *_super_features(found, photos[SMALL])]


def _inputs(found: "Inspection", photo: "Picture", whole: NDArray[np.uint8] | None) -> Iterator[Drawn]:
    if whole is not None:
        width, height = found.photo.original_size
        left, upper, right, lower = found.photo.region
        edges = (left / width, upper / height, right / width, lower / height)
        ground = fitted(whole, LARGE)
        image = marked(ground, [Frame(edges=edges, width=3, colour=BOX)])
        yield Drawn(file="whole.png", section="input", title="the whole photo and the box", image=image, large=True)
    marks = [] if found.chosen is None else _chosen(found.chosen, found.levels[found.chosen.level])
    width, height = found.preparation.input_size
    title = f"the network's input, {width}×{height}"
    yield Drawn(file="input.png", section="input", title=title, image=marked(photo, marks), large=True)


def _attention(found: "Inspection", photos: "dict[int, Picture]") -> Iterator[Drawn]:
    levels = [level for level in found.levels if level.attention is not None]
    if not levels:
        return
    maps = [_shown(level, found.strongest) for level in levels]
    largest = np.max([_stretched(values, photos[LARGE].size) for values in maps], axis=0)
    ends = (float(largest.min()), float(largest.max()))
    yield Drawn(
        file="attention.png",
        section="attention",
        title="all scales",
        image=over_photo(normalised(largest, *ends), photos[LARGE]),
        large=True,
        values=three(largest),
        ends=ends,
        note="the largest of all scales, interpolated between the centres of their cells",
    )
    ends = (min(float(values.min()) for values in maps), max(float(values.max()) for values in maps))
    for level, values in zip(levels, maps, strict=True):
        yield Drawn(
            file=f"attention-{level.scale:g}.png",
            section="attention",
            title=_title(level),
            image=over_photo(normalised(values, *ends), photos[SMALL]),
            values=three(values),
            ends=ends,
        )


def _selected(found: "Inspection", photos: "dict[int, Picture]") -> Iterator[Drawn]:
    rings = _rings(found)
    # The strongest come last, on top of the others.
    marks = [ring for _, ring in reversed(rings)]
    image = marked(grey(photos[LARGE], _GROUND), marks)
    yield Drawn(file="selected.png", section="selected", title="all scales", image=image, large=True)
    for level in found.levels:
        ground = grey(photos[SMALL], 0.3)
        if level.chosen is not None:
            ground = lit(level.chosen, photos[SMALL], ground)
        else:
            ground = marked(ground, [ring for scale, ring in reversed(rings) if scale == level.scale])
        yield Drawn(file=f"selected-{level.scale:g}.png", section="selected", title=_title(level), image=ground)


def _rings(found: "Inspection") -> list[tuple[float, Ring]]:
    """Return scale and mark of every descriptor, strongest first: the size of a cell, the brighter the stronger."""
    width, height = found.preparation.input_size
    brightness = np.linspace(1.0, _DIMMEST, len(found.positions))
    numbers = {np.float32(level.scale): number for number, level in enumerate(found.levels)}
    colours = mark_colours(len(found.levels))
    rings = []
    for (x, y), scale, bright in zip(found.positions, found.descriptors.scales, brightness, strict=True):
        number = numbers[scale]
        red, green, blue = (round(channel * float(bright)) for channel in colours[number])
        ring = Ring(
            centre=(float(x) / width, float(y) / height),
            radius=0.5 / _columns(found.levels[number], width),
            width=1.4 + float(bright),
            colour=(red, green, blue),
        )
        rings.append((found.levels[number].scale, ring))
    return rings


def _maps(
    found: "Inspection", photo: "Picture", section: str, map_of: "Callable[[LevelMaps], NDArray[np.float32] | None]"
) -> Iterator[Drawn]:
    """Yield a picture of each scale, all in one range of colours."""
    maps = [(level, values) for level in found.levels if (values := map_of(level)) is not None]
    if not maps:
        return
    low = min(float(values.min()) for _, values in maps)
    high = max(float(values.max()) for _, values in maps)
    for level, values in maps:
        yield Drawn(
            file=f"{section}-{level.scale:g}.png",
            section=section,
            title=_title(level),
            image=over_photo(normalised(values, low, high), photo),
            values=three(values),
            ends=(low, high),
        )


def _super_features(found: "Inspection", photo: "Picture") -> Iterator[Drawn]:
    level = found.levels[found.level]
    if level.super_features is None:
        return
    chosen = found.chosen
    cell = None if chosen is None else (chosen.row, chosen.column)
    marks = [] if chosen is None else _chosen(chosen, level)
    for rank, number in enumerate(level.super_features.strongest(SUPER_FEATURES, cell), 1):
        # In multiples of the mean share, which is what a position gives to all super-features alike.
        shares = level.super_features.shares[number] * np.float32(level.super_features.shares[number].size)
        ends = (0.0, float(shares.max()))
        strength = float(level.super_features.strengths[number])
        yield Drawn(
            file=f"superfeature-{rank}.png",
            section="superfeatures",
            title=f"super-feature {number}, attention {strength:.4g}",
            image=marked(over_photo(normalised(shares, *ends), photo), marks),
            values=three(shares),
            ends=ends,
        )


def _shown(level: "LevelMaps", strongest: float) -> NDArray[np.float64]:
    """Return attention divided by the largest of the photo; what super-features gather as it is."""
    attention = level.attention if level.attention is not None else np.zeros((1, 1), np.float32)
    return attention.astype(np.float64) / (strongest if level.super_features is None else 1.0)


def _stretched(values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    from PIL import Image

    picture = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.float64)


def _title(level: "LevelMaps") -> str:
    shape = (level.attention if level.attention is not None else np.zeros((0, 0))).shape
    cells = f", {shape[1]}×{shape[0]} cells" if level.attention is not None else ""
    return f"scale {level.scale:g}{cells}"


def _columns(level: "LevelMaps", width: int) -> int:
    """Return the cells in a row; where the graph does not show them, a mark of 16 pixels is a cell."""
    return level.attention.shape[1] if level.attention is not None else max(width // 16, 1)


def _chosen(chosen: "Chosen", level: "LevelMaps") -> list[Mark]:
    return frame(chosen.row, chosen.column, (1, 1) if level.attention is None else level.attention.shape)
