"""Random views of a photo: homographies that map a square view onto a part of it, drawn from a numpy generator."""

import numpy as np
from numpy.typing import NDArray

Matrices = NDArray[np.float64]
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def homographies(corners: Matrices) -> Matrices:
    """Return the matrices that map the unit square's corners to ``corners``.

    Args:
        corners: B×4×2, x then y, of the top left, top right, bottom right and bottom left corner.

    Returns:
        B×3×3; the last entry of each is 1.
    """
    batch = len(corners)
    system = np.zeros((batch, 8, 8))
    for i, (u, v) in enumerate(CORNERS):
        x, y = corners[:, i, 0], corners[:, i, 1]
        system[:, 2 * i, :3] = system[:, 2 * i + 1, 3:6] = (u, v, 1)
        system[:, 2 * i, 6], system[:, 2 * i, 7] = -u * x, -v * x
        system[:, 2 * i + 1, 6], system[:, 2 * i + 1, 7] = -u * y, -v * y
    solved = np.linalg.solve(system, corners.reshape(batch, 8, 1))[:, :, 0]
    return np.concatenate([solved, np.ones((batch, 1))], axis=1).reshape(batch, 3, 3)


def apply(matrices: Matrices, points: Matrices) -> Matrices:
    """Return the points B×N×2 of each matrix's image of B×N×2."""
    moved = np.concatenate([points, np.ones_like(points[..., :1])], axis=2) @ matrices.transpose(0, 2, 1)
    last = moved[..., 2:]
    return np.asarray(moved[..., :2] / np.where(np.abs(last) < 1e-9, 1e-9, last))


def random_corners(
    rng: np.random.Generator, centre: NDArray[np.float64], side: NDArray[np.float64], *, perspective: float, turn: float
) -> Matrices:
    """Return the corners of randomly distorted squares.

    Args:
        rng: what it is drawn from.
        centre: B×2.
        side: B, of the square before its distortion.
        perspective: how far a corner moves, in sides, at most.
        turn: standard deviation of the rotation in degrees.
    """
    batch = len(side)
    aspect = np.exp(rng.uniform(-0.25, 0.25, batch) / 2)
    extent = np.stack([side * aspect, side / aspect], axis=1)
    offsets = (CORNERS - 0.5)[None] + rng.uniform(-perspective, perspective, (batch, 4, 2))
    rotation = _rotations(rng.normal(0.0, turn, batch))
    return np.asarray(centre[:, None] + (offsets * extent[:, None]) @ rotation)


def slanted_corners(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    side: NDArray[np.float64],
    *,
    slant: NDArray[np.float64],
    perspective: float,
    turn: float,
) -> Matrices:
    """Return the corners of squares that see a plane from aside: foreshortened along one axis, one end farther away.

    Args:
        rng: what it is drawn from.
        centre: B×2.
        side: B; the root of the area that a view covers.
        slant: B, how many times as much of the photo a view covers along the axis as across it.
        perspective: how far a corner moves besides, in sides, at most.
        turn: standard deviation of the rotations in degrees, one of the camera and one of the axis.
    """
    batch = len(side)
    root = np.where(rng.random(batch) < 0.5, np.sqrt(slant), 1 / np.sqrt(slant))
    corners = (CORNERS - 0.5)[None] + rng.uniform(-perspective, perspective, (batch, 4, 2))
    corners = corners @ _rotations(rng.normal(0.0, turn, batch))
    # The end that is farther away shows more of the plane across the axis: the more, the more it is slanted.
    wider = rng.uniform(-1, 1, batch) * (1 - 1 / slant)
    along = np.where(root[:, None] > 1, corners[:, :, 0], corners[:, :, 1])
    across = 1 + wider[:, None] * np.clip(along, -0.5, 0.5)
    scale = np.where((root > 1)[:, None, None], np.stack([np.ones_like(across), across], -1), 1.0)
    scale = np.where((root < 1)[:, None, None], np.stack([across, np.ones_like(across)], -1), scale)
    extent = np.stack([side * root, side / root], axis=1)
    turned = (corners * scale * extent[:, None]) @ _rotations(rng.normal(0.0, turn, batch))
    return np.asarray(centre[:, None] + turned)


def _rotations(degrees: NDArray[np.float64]) -> Matrices:
    """Return B×2×2, to be multiplied from the right."""
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], 1)
