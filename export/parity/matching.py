"""Which row of one artefact's outputs is which row of another's."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.export.networks.config import NetworkConfig

# Attentions this near the least selected one, relatively, may change sides by rounding; equal ones have no order.
_TIE = 1e-5


class Matching(Enum):
    """How rows are known again: by position and scale, or as each other's most similar descriptor of a scale.

    Super-features (FIRe) have no position of their own: their centres move with every rounding and may coincide.
    """

    POSITION = "position"
    DESCRIPTOR = "descriptor"

    @classmethod
    def of(cls, config: NetworkConfig) -> "Matching":
        """Return the way that suits a network."""
        return cls.POSITION if config.lit is None else cls.DESCRIPTOR


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The n rows of a photo that are not padding.

    Attributes:
        vectors: n×D.
        scales: n, in thousandths.
        positions: n×2 in sixteenths of a pixel: cells are at least 4 pixels apart and rounding errors below 0.001.
        attention: n.
        cut: whether there was no padding, so that weaker positions may have been left out.
    """

    vectors: NDArray[np.float64]
    scales: NDArray[np.int64]
    positions: NDArray[np.int64]
    attention: NDArray[np.float64]
    cut: bool

    def last_places(self, matched: NDArray[np.int64]) -> int:
        """Return how many rows tie for the last places and have no counterpart among ``matched``."""
        if not self.cut or not len(self.attention):
            return 0
        tied = self.attention <= self.attention.min() * (1 + _TIE)
        tied[matched] = False
        return int(tied.sum())


def rows_of(outputs: Sequence[NDArray[Any]]) -> Rows:
    """Return the rows of one photo from descriptors, attention, positions and scales, each with a leading 1."""
    descriptors, attention, positions, scales = (array[0] for array in outputs)
    valid = attention > 0
    return Rows(
        vectors=descriptors[valid].astype(np.float64),
        scales=np.rint(scales[valid].astype(np.float64) * 1000).astype(np.int64),
        positions=np.rint(positions[valid].astype(np.float64) * 16).astype(np.int64),
        attention=attention[valid].astype(np.float64),
        cut=bool(valid.all()),
    )


def match(left: Rows, right: Rows, matching: Matching) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the rows that are on both sides, pair by pair."""
    if matching is Matching.DESCRIPTOR:
        return _by_descriptor(left, right)
    a, b = ((side.scales << 40) + (side.positions[:, 1] << 20) + side.positions[:, 0] for side in (left, right))
    # A broken artefact may give a position twice: the second one has no match.
    _, rows, columns = np.intersect1d(a, b, return_indices=True)
    return rows, columns


def _by_descriptor(left: Rows, right: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pairs = [np.zeros((2, 0), np.int64)]
    for scale in np.intersect1d(left.scales, right.scales):
        rows, columns = (np.flatnonzero(side.scales == scale) for side in (left, right))
        cosine = _unit(left.vectors[rows]) @ _unit(right.vectors[columns]).T
        best = cosine.argmax(axis=1)
        mutual = cosine.argmax(axis=0)[best] == np.arange(len(rows))
        pairs.append(np.stack((rows[mutual], columns[best[mutual]])))
    rows, columns = np.concatenate(pairs, axis=1)
    return rows, columns


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return unit
