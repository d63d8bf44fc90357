"""Random views of a photo: homographies that map a square view onto a part of it, drawn from a numpy generator."""

import numpy as np
from numpy.typing import NDArray

Matrices = NDArray[np.float64]
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def homographies(corners: Matrices) -> Matrices:
    """Return the matrices that map the unit square's corners to ``corners``.

    Args:
        corners: B×4×2, x then y, of the top left, top right, bottom right and bottom left corner.

    Returns:
        B×3×3; the last entry of each is 1.
    """
    batch = len(corners)
    system = np.zeros((batch, 8, 8))
    for i, (u, v) in enumerate(_CORNERS):
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
    offsets = (_CORNERS - 0.5)[None] + rng.uniform(-perspective, perspective, (batch, 4, 2))
    angle = np.deg2rad(rng.normal(0.0, turn, batch))
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], 1)
    return np.asarray(centre[:, None] + (offsets * extent[:, None]) @ rotation)
