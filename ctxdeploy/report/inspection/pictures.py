"""The pictures of an inspection, and what each shows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.report.inspection.drawing import (
    LARGE,
    SMALL,
    Frame,
    Line,
    Mark,
    Ring,
    colour_of,
    fitted,
    grey,
    lit,
    mark_colours,
    marked,
    normalised,
    over_photo,
)

if TYPE_CHECKING:
    from PIL import Image

    from ctxdeploy.runtime.inspection import BlockEdges, Chosen, Edge, Inspection, LevelMaps

# No colour of the map, with an edge of black: it stands out from bright and dark ground alike.
_CHOSEN, _BLACK = (60, 220, 255), (0, 0, 0)
_BOX = (255, 122, 61)
# Brightness of the ring of the smallest attention, and of the photo under marks.
_DIMMEST, _GROUND = 0.45, 0.42
# Colours of edges begin here in the map: darker ones vanish on the photo. Widths of edges in pixels.
FAINTEST = 0.5
_THIN, _THICK = 1.6, 7.0
# Super-features that are shown.
_SUPER_FEATURES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture and what it shows.

    Attributes:
        file: its name.
        section: ``input``, ``attention``, ``selected``, ``bandwidth``, ``confidence``, ``edges`` or ``superfeatures``.
        title: a few words.
        image: RGB.
        large: whether it is drawn in the larger size.
        values: smallest, median and largest of what is shown in colour; None for a picture without values.
        ends: values of the darkest and the lightest colour.
        percent: whether the values are shares.
        note: another line.
    """

    file: str
    section: str
    title: str
    image: "Image.Image"
    large: bool = False
    values: tuple[float, float, float] | None = None
    ends: tuple[float, float] | None = None
    percent: bool = False
    note: str = ""

    def metadata(self) -> dict[str, Any]:
        """Return what JSON prints of it."""
        smallest, median, largest = self.values or (None, None, None)
        return {
            "file": self.file,
            "section": self.section,
            "title": self.title,
            "size": list(self.image.size),
            "min": smallest,
            "median": median,
            "max": largest,
            "colours": None if self.ends is None else list(self.ends),
        }


def draw(found: "Inspection", edges: int, whole: NDArray[np.uint8] | None = None) -> list[Picture]:
    """Return all pictures of an inspection.

    Args:
        found: what was found.
        edges: drawn of each block, at most.
        whole: the whole photo, H×W×3 uint8, where ``found`` is about a part of it.
    """
    photos = {size: fitted(found.photo.pixels, size) for size in (LARGE, SMALL)}
    pictures = [*_inputs(found, photos[LARGE], whole), *_attention(found, photos), *_selected(found, photos)]
    pictures += _maps(found, photos[SMALL], "bandwidth", lambda level: level.bandwidth)
    pictures += _maps(found, photos[SMALL], "confidence", lambda level: level.confidence)
    if found.chosen is not None:
        for number, block in enumerate(found.chosen.blocks, 1):
            pictures += _draw_edges(photos[LARGE], number, block, block.strongest(edges))
    return [*pictures, *_super_features(found, photos[SMALL])]


def _inputs(found: "Inspection", photo: "Image.Image", whole: NDArray[np.uint8] | None) -> Iterator[Picture]:
    if whole is not None:
        width, height = found.photo.original_size
        left, upper, right, lower = found.photo.region
        edges = (left / width, upper / height, right / width, lower / height)
        ground = fitted(whole, LARGE)
        image = marked(ground, [Frame(edges=edges, width=3, colour=_BOX)])
        yield Picture(file="whole.png", section="input", title="the whole photo and the box", image=image, large=True)
    marks = [] if found.chosen is None else _chosen(found.chosen, found.levels[found.chosen.level])
    width, height = found.preparation.input_size
    title = f"the network's input, {width}×{height}"
    yield Picture(file="input.png", section="input", title=title, image=marked(photo, marks), large=True)


def _attention(found: "Inspection", photos: "dict[int, Image.Image]") -> Iterator[Picture]:
    levels = [level for level in found.levels if level.attention is not None]
    if not levels:
        return
    maps = [_shown(level, found.strongest) for level in levels]
    largest = np.max([_stretched(values, photos[LARGE].size) for values in maps], axis=0)
    ends = (float(largest.min()), float(largest.max()))
    yield Picture(
        file="attention.png",
        section="attention",
        title="all scales",
        image=over_photo(normalised(largest, *ends), photos[LARGE]),
        large=True,
        values=_three(largest),
        ends=ends,
        note="the largest of all scales, interpolated between the centres of their cells",
    )
    ends = (min(float(values.min()) for values in maps), max(float(values.max()) for values in maps))
    for level, values in zip(levels, maps, strict=True):
        yield Picture(
            file=f"attention-{level.scale:g}.png",
            section="attention",
            title=_title(level),
            image=over_photo(normalised(values, *ends), photos[SMALL]),
            values=_three(values),
            ends=ends,
        )


def _selected(found: "Inspection", photos: "dict[int, Image.Image]") -> Iterator[Picture]:
    rings = _rings(found)
    # The strongest come last, on top of the others.
    marks = [ring for _, ring in reversed(rings)]
    image = marked(grey(photos[LARGE], _GROUND), marks)
    yield Picture(file="selected.png", section="selected", title="all scales", image=image, large=True)
    for level in found.levels:
        ground = grey(photos[SMALL], 0.3)
        if level.chosen is not None:
            ground = lit(level.chosen, photos[SMALL], ground)
        else:
            ground = marked(ground, [ring for scale, ring in reversed(rings) if scale == level.scale])
        yield Picture(file=f"selected-{level.scale:g}.png", section="selected", title=_title(level), image=ground)


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
    found: "Inspection", photo: "Image.Image", section: str, map_of: "Callable[[LevelMaps], NDArray[np.float32] | None]"
) -> Iterator[Picture]:
    """Yield a picture of each scale, all in one range of colours."""
    maps = [(level, values) for level in found.levels if (values := map_of(level)) is not None]
    if not maps:
        return
    low = min(float(values.min()) for _, values in maps)
    high = max(float(values.max()) for _, values in maps)
    for level, values in maps:
        yield Picture(
            file=f"{section}-{level.scale:g}.png",
            section=section,
            title=_title(level),
            image=over_photo(normalised(values, low, high), photo),
            values=_three(values),
            ends=(low, high),
        )


def _super_features(found: "Inspection", photo: "Image.Image") -> Iterator[Picture]:
    level = found.levels[found.level]
    if level.super_features is None:
        return
    chosen = found.chosen
    cell = None if chosen is None else (chosen.row, chosen.column)
    marks = [] if chosen is None else _chosen(chosen, level)
    for rank, number in enumerate(level.super_features.strongest(_SUPER_FEATURES, cell), 1):
        # In multiples of the mean share, which is what a position gives to all super-features alike.
        shares = level.super_features.shares[number] * np.float32(level.super_features.shares[number].size)
        ends = (0.0, float(shares.max()))
        strength = float(level.super_features.strengths[number])
        yield Picture(
            file=f"superfeature-{rank}.png",
            section="superfeatures",
            title=f"super-feature {number}, attention {strength:.4g}",
            image=marked(over_photo(normalised(shares, *ends), photo), marks),
            values=_three(shares),
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
    if level.attention is None:
        return f"scale {level.scale:g}"
    rows, columns = level.attention.shape
    return f"scale {level.scale:g}, {columns}×{rows} cells"


def _columns(level: "LevelMaps", width: int) -> int:
    """Return the cells in a row; where the graph does not show them, a mark of 16 pixels is a cell."""
    return level.attention.shape[1] if level.attention is not None else max(width // 16, 1)


def _chosen(chosen: "Chosen", level: "LevelMaps") -> list[Mark]:
    return _frame(chosen.row, chosen.column, (1, 1) if level.attention is None else level.attention.shape)


def _draw_edges(
    photo: "Image.Image", number: int, block: "BlockEdges", strongest: "Sequence[Edge]"
) -> Iterator[Picture]:
    """Yield the strongest edges of a block, and the similarities that they are made from."""
    weights = np.array([edge.weight for edge in strongest])
    low, high = (float(weights.min()), float(weights.max())) if strongest else (0.0, 0.0)
    shape = block.similarity.shape
    marks: list[Mark] = []
    here = _centre(block.row, block.column, shape)
    for edge in reversed(strongest):
        share = float(normalised(np.array(edge.weight), low, high))
        colour = colour_of(FAINTEST + (1 - FAINTEST) * share)
        there = _centre(edge.row, edge.column, shape)
        marks.append(Line(start=here, end=there, width=_THIN + (_THICK - _THIN) * share, colour=colour))
        marks.append(Frame(edges=_cell_edges(edge.row, edge.column, shape), width=2, colour=colour))
    marks += _frame(block.row, block.column, shape)
    yield Picture(
        file=f"edges-{number}.png",
        section="edges",
        title=f"block {number}: the strongest edges",
        image=marked(grey(photo, _GROUND), marks),
        large=True,
        values=_three(weights) if strongest else None,
        ends=(low, high) if strongest else None,
        percent=True,
        note=f"{len(strongest):,} of {block.count:,} edges; {100 * block.own:.1f} % is its own",
    )
    # Its similarity to itself, 1, would leave the others in the dark.
    others = np.delete(block.similarity.reshape(-1), block.row * shape[1] + block.column)
    low, high = (float(others.min()), float(others.max())) if len(others) else (0.0, 1.0)
    ground = over_photo(normalised(block.similarity, low, high), photo)
    yield Picture(
        file=f"similarity-{number}.png",
        section="edges",
        title=f"block {number}: similarity of the others to the position",
        image=marked(ground, _frame(block.row, block.column, shape)),
        large=True,
        values=_three(others if len(others) else block.similarity),
        ends=(low, high),
        note=_rule(block),
    )


def _rule(block: "BlockEdges") -> str:
    kind = block.block
    if kind.edges == "softmax":
        return f"every position is joined to every other, by softmax(similarity / {kind.parameter:.4g})"
    if kind.edges == "attention":
        return f"every position is joined to every other, by softmax(query · key / {kind.parameter:.4g})"
    if kind.edges == "topk":
        return f"edges go to the {kind.neighbours} most similar positions, by their similarity"
    return f"edges go to positions more similar than τ = {kind.parameter:.4g}, by how much they exceed it"


def _centre(row: int, column: int, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return x and y of a cell's centre, in shares of the picture."""
    return (column + 0.5) / shape[1], (row + 0.5) / shape[0]


def _cell_edges(row: int, column: int, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return left, upper, right and lower edge of a cell, in shares of the picture."""
    return column / shape[1], row / shape[0], (column + 1) / shape[1], (row + 1) / shape[0]


def _frame(row: int, column: int, shape: tuple[int, ...]) -> list[Mark]:
    """Return the frame of the position that is looked at closely."""
    edges = _cell_edges(row, column, shape)
    return [Frame(edges=edges, width=7, colour=_BLACK), Frame(edges=edges, width=4, colour=_CHOSEN)]


def _three(values: NDArray[Any]) -> tuple[float, float, float]:
    """Return smallest, median and largest."""
    return float(values.min()), float(np.median(values)), float(values.max())
