"""Scores of photos to hits: the best of all parts of an archive, by score, then by name."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.config import Hit
from ctxdeploy.index.storage.names import decode_name
from ctxdeploy.index.storage.state import State

# Scores above 0 of photos, and the photos' numbers.
Part = tuple[NDArray[np.float64], NDArray[np.int64]]


def joined(parts: Sequence[Part]) -> Part:
    """Return parts as one."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def merge(state: State, parts: Sequence[Part], top: int, *, without: int = -1) -> list[Hit]:
    """Return the best photos of all parts but for one; names are read of those alone, and of their equals at the last
    place."""
    if not parts:
        return []
    scores, numbers = joined(parts)
    if without >= 0:
        others = numbers != without
        scores, numbers = scores[others], numbers[others]
    if len(scores) > top:
        good = scores >= np.partition(scores, -top)[-top]
        scores, numbers = scores[good], numbers[good]
    order = np.argsort(-scores, kind="stable")
    scores, numbers = scores[order], numbers[order]
    if not (scores[1:] == scores[:-1]).any():
        return list(map(Hit, map(decode_name, state.names_of(numbers[:top])), scores[:top].tolist()))
    pairs = sorted(zip((-scores).tolist(), state.names_of(numbers), strict=True))  # equal scores: by the names' bytes
    return [Hit(decode_name(name), -score) for score, name in pairs[:top]]
