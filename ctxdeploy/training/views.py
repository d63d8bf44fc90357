"""Square views of photos: where they are cut out (numpy, from a generator) and their pixels (torch)."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctxdeploy.training.geometry import CORNERS, Matrices, apply, homographies, random_corners, slanted_corners
from ctxdeploy.training.photos import Image, PhotoStore

# Pixels of the photo for one of the view from which on the photo is halved first, so that nothing is skipped.
_HALVED_FROM = 1.6
_MIRROR = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How far views of a photo differ.

    Attributes:
        min_share, max_share: side of the square as a share of the photo's shorter side.
        perspective: how far a corner moves, in sides, at most.
        turn: standard deviation of the rotation in degrees.
    """

    min_share: float
    max_share: float
    perspective: float
    turn: float


# Two photos of a landmark differ by themselves; two views of one photo only as far as they are made to.
SAME_PHOTO = Framing(min_share=0.4, max_share=1.0, perspective=0.12, turn=12.0)
SAME_LANDMARK = Framing(min_share=0.65, max_share=1.1, perspective=0.06, turn=5.0)
# The second view of a photo: its centre moves by this share of the first one's side, its side by this factor, at most.
_SHIFT, _ZOOM = 0.2, 2.0


def sizes_of(images: list[Image]) -> NDArray[np.float64]:
    """Return B×2, width and height."""
    return np.array([(image.shape[1], image.shape[0]) for image in images], np.float64).reshape(-1, 2)


def frame(rng: np.random.Generator, sizes: NDArray[np.float64], framing: Framing) -> Matrices:
    """Return B×3×3 matrices that map the unit square into photos of the sizes B×2 (width, height)."""
    centre, side = _squares(rng, sizes, framing)
    return homographies(random_corners(rng, centre, side, perspective=framing.perspective, turn=framing.turn))


def frame_twice(
    rng: np.random.Generator, sizes: NDArray[np.float64], framing: Framing, *, zoom: float = _ZOOM
) -> tuple[Matrices, Matrices]:
    """Return the matrices of two overlapping views of each photo, their sides up to the factor ``zoom`` apart."""
    centre, side = _squares(rng, sizes, framing)
    factor = np.exp(rng.uniform(-1, 1, len(side)) * np.log(zoom))
    moved = centre + rng.uniform(-_SHIFT, _SHIFT, (len(side), 2)) * side[:, None]
    other = np.minimum(side * factor, sizes.min(axis=1) * 1.1)
    distorted = [
        homographies(random_corners(rng, c, s, perspective=framing.perspective, turn=framing.turn))
        for c, s in ((centre, side), (moved, other))
    ]
    return distorted[0], distorted[1]


def slanted(
    rng: np.random.Generator,
    matrices: Matrices,
    sizes: NDArray[np.float64],
    framing: Framing,
    *,
    share: float,
    slant: float,
) -> Matrices:
    """Return the matrices of views of which a share sees the photo from aside, foreshortened up to ``slant`` times.

    A slanted view has the centre of the one that it replaces, and its area as far as it fits into the photo.
    """
    chosen = rng.random(len(sizes)) < share
    ratio = np.exp(rng.uniform(0.3, 1, len(sizes)) * np.log(slant))
    corners = apply(matrices, np.repeat(CORNERS[None], len(matrices), axis=0))
    extent = corners.max(axis=1) - corners.min(axis=1)
    side = np.minimum(extent.mean(axis=1), 1.15 * sizes.min(axis=1) / np.sqrt(ratio))
    seen = slanted_corners(
        rng, corners.mean(axis=1), side, slant=ratio, perspective=framing.perspective, turn=framing.turn
    )
    return np.where(chosen[:, None, None], homographies(seen), matrices)


def whole(sizes: NDArray[np.float64]) -> Matrices:
    """Return the matrices of the largest square in the middle of each photo."""
    side = sizes.min(axis=1)
    corner = (sizes - side[:, None]) / 2
    matrices = np.zeros((len(sizes), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = side
    matrices[:, :2, 2], matrices[:, 2, 2] = corner, 1
    return matrices


def mirrored(matrices: Matrices, which: NDArray[np.bool_]) -> Matrices:
    """Return the matrices of views of which some are mirrored, left to right."""
    return np.where(which[:, None, None], matrices @ _MIRROR, matrices)


def render(images: list[Image], matrices: Matrices, size: int) -> Tensor:
    """Return the pixels of the views.

    Args:
        images: B photos, H×W×3 uint8.
        matrices: B×3×3, from the unit square to pixels of the photo.
        size: side of the views.

    Returns:
        B×3×size×size float32 in 0..1; 0 beyond the photo.
    """
    ticks = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    points = torch.stack([ticks.repeat(size), ticks.repeat_interleave(size), torch.ones(size * size)], dim=1)
    views = torch.empty(len(images), 3, size, size)
    for i, (image, matrix) in enumerate(zip(images, matrices, strict=True)):
        height, width = image.shape[:2]
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
        if _reduction(matrix, size) > _HALVED_FROM and min(height, width) > 1:
            pixels = F.avg_pool2d(pixels, 2)
            height, width = height // 2 * 2, width // 2 * 2
        unit = np.array([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]]) @ matrix
        projected = points @ torch.from_numpy(unit.T.astype(np.float32))
        grid = (projected[:, :2] / projected[:, 2:]).reshape(1, size, size, 2)
        views[i] = F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False)[0]
    return views / 255


def middles(
    photos: PhotoStore, numbers: NDArray[np.int64], size: int, batch: int, *, threads: int
) -> Iterator[tuple[NDArray[np.bool_], Tensor | None]]:
    """Yield the largest squares in the middle of photos, a batch at a time, while later ones are made.

    Args:
        photos: by number.
        numbers: which.
        size: side of the views.
        batch: photos at a time.
        threads: that make batches.

    Yields:
        which of the photos can be read, and the n×3×size×size views of these, as ``render``; None if there are none.
    """

    def make(part: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Tensor | None]:
        loaded = [photos.load(int(number)) for number in part]
        images = [image for image in loaded if image is not None]
        there = np.array([image is not None for image in loaded], bool)
        return there, render(images, whole(sizes_of(images)), size) if images else None

    parts = [numbers[first : first + batch] for first in range(0, len(numbers), batch)]
    with ThreadPoolExecutor(threads, "views") as executor:
        under_way = deque(executor.submit(make, part) for part in parts[: 2 * threads])
        for part in [*parts[2 * threads :], *[None] * min(len(parts), 2 * threads)]:
            found = under_way.popleft().result()
            if part is not None:
                under_way.append(executor.submit(make, part))
            yield found


def _squares(
    rng: np.random.Generator, sizes: NDArray[np.float64], framing: Framing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centres B×2 and sides B of squares inside the photos as far as they fit."""
    side = rng.uniform(framing.min_share, framing.max_share, len(sizes)) * sizes.min(axis=1)
    extent = np.minimum(side[:, None], sizes)
    return rng.random((len(sizes), 2)) * (sizes - extent) + extent / 2, side


def _reduction(matrix: NDArray[np.float64], size: int) -> float:
    """Return pixels of the photo for one of the view, along the longer side of the view in the photo."""
    corners = np.array([[0.0, 0, 1], [1, 0, 1], [0, 1, 1]]) @ matrix.T
    origin, right, down = corners[:, :2] / corners[:, 2:]
    return float(max(np.linalg.norm(right - origin), np.linalg.norm(down - origin))) / size
