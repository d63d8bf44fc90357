"""From the values of a graph, run in ONNX Runtime on the CPU, to the maps of a photo."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import OUTPUT_NAMES, Bundle
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.extras import require_onnxruntime
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.runtime.backends.base import first_line
from ctxdeploy.runtime.backends.onnxruntime import PROVIDERS, run_session, session_options
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.inspection.graph import BundleGraph, Level
from ctxdeploy.runtime.inspection.maps import Chosen, LevelMaps, SuperFeatures, edges_of

Values = Mapping[str, NDArray[np.float32]]


def values_of(graph: BundleGraph, names: Iterable[str], pixels: NDArray[np.uint8], threads: int | None) -> Values:
    """Return the outputs of a graph, and these values, for one image.

    Args:
        graph: of a bundle.
        names: of values in it, float32.
        pixels: H×W×3 uint8, RGB, already scaled.
        threads: ONNX Runtime's own choice if None, or a CPU quota's.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        BackendError: it cannot run the graph, or an output is NaN or infinite.
    """
    ort = require_onnxruntime()
    wanted = list(dict.fromkeys((*OUTPUT_NAMES, *names)))
    try:
        session = ort.InferenceSession(graph.exposing(wanted), session_options(ort, threads), providers=list(PROVIDERS))
        values = dict(zip(wanted, run_session(session, ort.RunOptions(), wanted, pixels[None]), strict=True))
    except Exception as error:  # ONNX Runtime's classes share no base but Exception
        raise BackendError(f"onnxruntime cannot run {graph.path}: {first_line(error)}") from error
    for name in OUTPUT_NAMES:
        if not np.isfinite(values[name]).all():
            raise BackendError(f"the network returned NaN or infinity in {name}")
    return values


def names_of(levels: Sequence[Level], number: int) -> list[str]:
    """Return the values that are read: of all scales the maps, of one scale what enters its graph's blocks."""
    names = [
        name
        for level in levels
        for name in (level.attention, level.bandwidth, level.confidence, level.shares)
        if name is not None
    ]
    return names + [block.nodes for level in levels[number : number + 1] for block in level.blocks]


def read_descriptors(values: Values, photo: Pixels) -> tuple[LocalDescriptors, NDArray[np.float32]]:
    """Return the descriptors as an ``Extractor`` returns them, and their positions in pixels of the input."""
    attention = values["attention"][0]
    keep = attention != 0
    positions = values["positions"][0][keep]
    descriptors = LocalDescriptors(
        vectors=values["descriptors"][0][keep],
        attention=attention[keep],
        positions=photo.to_original(positions),
        scales=values["scales"][0][keep],
    )
    return descriptors, positions


def read_level(
    bundle: Bundle, number: int, level: Level | None, values: Values, photo: Pixels, positions: NDArray[np.float32]
) -> LevelMaps:
    """Return the maps of a scale.

    Args:
        bundle: of the graph.
        number: of the scale.
        level: names of its values; None where the graph does not show them.
        values: of the graph.
        photo: that it ran on.
        positions: n×2, of the descriptors of this scale, in pixels of the input.
    """
    scale = bundle.extraction.scales[number]
    height, width = photo.pixels.shape[:2]
    size = (_scaled(width, scale), _scaled(height, scale))
    if level is None:
        return LevelMaps(scale=scale, size=size, selected=len(positions))
    attention = values[level.attention][0]
    if level.shares is not None:
        super_features = _super_features(attention[:, 0], values[level.shares][0], size, bundle)
        gathered = None if super_features is None else super_features.gathered()
        return LevelMaps(
            scale=scale, size=size, selected=len(positions), attention=gathered, super_features=super_features
        )
    rows, columns = cells_of(positions, attention.shape, (height, width))
    chosen = np.zeros(attention.shape, bool)
    chosen[rows, columns] = True
    return LevelMaps(
        scale=scale,
        size=size,
        selected=len(positions),
        attention=attention,
        chosen=chosen,
        bandwidth=None if level.bandwidth is None else values[level.bandwidth][0, 0],
        confidence=None if level.confidence is None else values[level.confidence][0, 0],
        kernel_size=level.kernel_size,
    )


def cells_of(
    positions: NDArray[np.float32], shape: tuple[int, ...], size: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of the cells that hold positions.

    Args:
        positions: n×2, x then y, in pixels of the input.
        shape: rows and columns of the map.
        size: height and width of the input.
    """
    found = []
    for axis, (cells, pixels) in enumerate(zip(shape, size, strict=True)):
        index = np.floor(positions[:, 1 - axis].astype(np.float64) * cells / pixels).astype(np.intp)
        found.append(np.clip(index, 0, cells - 1))
    return found[0], found[1]


def read_chosen(
    maps: Sequence[LevelMaps],
    levels: Sequence[Level],
    number: int,
    values: Values,
    photo: Pixels,
    selected: tuple[LocalDescriptors, NDArray[np.float32]],
    asked: tuple[float, float] | None,
) -> Chosen | None:
    """Return the position of one scale that is looked at closely, with its edges.

    Args:
        maps: of all scales.
        levels: names of their values.
        number: of the scale.
        values: of the graph.
        photo: that it ran on.
        selected: the descriptors, and their positions in pixels of the input.
        asked: position in pixels of the original photo, which lies in the part that the network saw.

    Returns:
        None where the graph shows no maps, and for super-features if none is asked for: they have no cell.
    """
    attention = maps[number].attention
    if attention is None or (asked is None and maps[number].super_features is not None):
        return None
    height, width = photo.pixels.shape[:2]
    shape = (attention.shape[0], attention.shape[1])
    if asked is None:
        row, column = divmod(int(attention.argmax()), shape[1])
    else:
        rows, columns = cells_of(_to_input(photo, asked)[None], shape, (height, width))
        row, column = int(rows[0]), int(columns[0])
    centre = photo.to_original([[(column + 0.5) * width / shape[1], (row + 0.5) * height / shape[0]]])[0]
    return Chosen(
        level=number,
        row=row,
        column=column,
        asked=asked,
        position=(float(centre[0]), float(centre[1])),
        rank=_rank(maps[number], selected, (row, column), (height, width)),
        blocks=tuple(edges_of(values[block.nodes][0], block, (row, column), shape) for block in levels[number].blocks),
    )


def contains(photo: Pixels, position: tuple[float, float]) -> bool:
    """Return whether a position of the original photo lies in the part that the network saw."""
    left, upper, right, lower = photo.region
    return left <= position[0] <= right and upper <= position[1] <= lower


def _to_input(photo: Pixels, position: tuple[float, float]) -> NDArray[np.float32]:
    """Return a position of the original photo in pixels of the input: the inverse of ``Pixels.to_original``."""
    left, upper, right, lower = photo.region
    height, width = photo.pixels.shape[:2]
    x, y = position
    return np.array([(x - left) * width / (right - left), (y - upper) * height / (lower - upper)], np.float32)


def _rank(
    level: LevelMaps,
    selected: tuple[LocalDescriptors, NDArray[np.float32]],
    cell: tuple[int, int],
    size: tuple[int, int],
) -> int | None:
    if level.chosen is None or not level.chosen[cell]:
        return None
    descriptors, positions = selected
    rows, columns = cells_of(positions, level.chosen.shape, size)
    here = (rows == cell[0]) & (columns == cell[1]) & (descriptors.scales == np.float32(level.scale))
    return int(np.flatnonzero(here)[0]) + 1


def _super_features(
    strengths: NDArray[np.float32], shares: NDArray[np.float32], size: tuple[int, int], bundle: Bundle
) -> SuperFeatures | None:
    """Return the super-features with their shares as maps; None if the size of the feature map is not the expected."""
    stride = 32 >> int(bundle.network.get("skip_layer", 0))
    columns, rows = (-(-side // stride) for side in size)
    if rows * columns != len(shares):
        return None
    return SuperFeatures(strengths=strengths, shares=np.ascontiguousarray(shares.T).reshape(-1, rows, columns))


def _scaled(size: int, scale: float) -> int:
    """Return ⌊size·scale⌋, at least 1, in integers as the graph computes it."""
    return max(size * round(scale * 1000) // 1000, 1)
