"""What an exported graph computes against what PyTorch computes, in the two figures that decide about retrieval.

Per descriptor: the cosine between both sides' descriptors of the same position and scale. Per photo: the overlap of the
selected positions. A graph that misses the tolerance of its precision is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ParityError

Image = NDArray[np.uint8]
Outputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
# Images B×H×W×3 to descriptors, attention, positions and scales with a leading B.
Run = Callable[[Image], Outputs]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What a precision must reach: cosine and errors of every descriptor, overlap of every photo."""

    cosine: float
    overlap: float
    length_error: float
    attention_error: float


TOLERANCES = {"fp32": Tolerance(cosine=0.9999, overlap=0.99, length_error=0.01, attention_error=0.001)}
# Attentions this near the least selected one, relatively, may change sides by rounding; equal ones have no order.
_TIE = 1e-5


@dataclass(frozen=True, kw_only=True)
class PhotoParity:
    """Figures of one photo.

    Attributes:
        photo: its name.
        shape: height and width in pixels.
        descriptors: rows that PyTorch selects (padding not counted).
        overlap: share of positions (with scale) selected by both, of the larger selection. Of positions that tie for
            the last places, any are as good as any others.
        cosine_min, cosine_p1, cosine_mean: over the descriptors at those positions.
        length_error: largest relative difference of their lengths, which ASMK's residuals depend on.
        attention_error: largest difference of their attention.
    """

    photo: str
    shape: tuple[int, int]
    descriptors: int
    overlap: float
    cosine_min: float
    cosine_p1: float
    cosine_mean: float
    length_error: float
    attention_error: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Figures of all photos, and the tolerance they were held against."""

    photos: tuple[PhotoParity, ...]
    tolerance: Tolerance

    @property
    def cosine(self) -> float:
        """Least cosine of any descriptor."""
        return min(photo.cosine_min for photo in self.photos)

    @property
    def overlap(self) -> float:
        """Least overlap of any photo."""
        return min(photo.overlap for photo in self.photos)

    def metadata(self) -> dict[str, Any]:
        """Return the figures as they stand in ``bundle.json``."""
        return {
            "reference": "PyTorch fp32, CPU",
            "cosine_min": self.cosine,
            "cosine_mean": float(np.mean([photo.cosine_mean for photo in self.photos])),
            "overlap_min": self.overlap,
            "length_error_max": max(photo.length_error for photo in self.photos),
            "attention_error_max": max(photo.attention_error for photo in self.photos),
            "tolerance": asdict(self.tolerance),
            "photos": [{**asdict(photo), "shape": list(photo.shape)} for photo in self.photos],
        }

    def check(self) -> None:
        """Raise ``ParityError``, naming the worst photo, unless every figure is within the tolerance (NaN is not)."""
        tolerance = self.tolerance
        limits = (
            ("cosine_min", 1, tolerance.cosine),
            ("overlap", 1, tolerance.overlap),
            ("length_error", -1, tolerance.length_error),
            ("attention_error", -1, tolerance.attention_error),
        )
        for figure, sign, limit in limits:
            worst = min(self.photos, key=lambda photo: np.nan_to_num(sign * getattr(photo, figure), nan=-np.inf))
            value = getattr(worst, figure)
            if not sign * value >= sign * limit:
                raise ParityError(
                    f"the exported graph differs from PyTorch: {figure.replace('_', ' ')} {value:.6f} on {worst.photo} "
                    f"({worst.shape[1]}×{worst.shape[0]}), but at {'least' if sign > 0 else 'most'} {limit} is needed; "
                    "no bundle was written"
                )


def compare(
    photos: Mapping[str, Image], reference: Run, candidate: Run, tolerance: Tolerance, *, max_batch: int = 2
) -> Parity:
    """Run both sides on every photo, alone, and the candidate once more on a pair of each size that occurs twice.

    Args:
        photos: H×W×3 uint8 by name, at the size at which they enter the network.
        reference: the network in PyTorch.
        candidate: the graph in the runtime that will run it.
        tolerance: what ``Parity.check`` demands.
        max_batch: largest batch that the candidate takes; with 1 there are no pairs.
    """
    wanted = {name: reference(image[None]) for name, image in photos.items()}
    found = [compare_photo(name, image, wanted[name], candidate(image[None])) for name, image in photos.items()]
    for names in _pairs(photos) if max_batch > 1 else ():
        outputs = candidate(np.stack([photos[name] for name in names]))
        for row, name in enumerate(names):
            single = tuple(array[row : row + 1] for array in outputs)
            found.append(compare_photo(f"{name} in a batch of {len(names)}", photos[name], wanted[name], single))
    return Parity(photos=tuple(found), tolerance=tolerance)


def compare_photo(
    name: str, image: Image, wanted: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]]
) -> PhotoParity:
    """Return the figures of one photo from both sides' outputs, each with a leading 1."""
    left, right = _rows(wanted), _rows(given)
    _, rows, columns = np.intersect1d(left.keys, right.keys, assume_unique=True, return_indices=True)
    a, b = left.vectors[rows], right.vectors[columns]
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-30) if len(rows) else np.full(1, np.nan)
    error = np.abs(lengths[1] / np.maximum(lengths[0], 1e-30) - 1) if len(rows) else np.full(1, np.nan)
    exchanged = min(left.last_places(rows), right.last_places(columns))
    return PhotoParity(
        photo=name,
        shape=(image.shape[0], image.shape[1]),
        descriptors=len(left.keys),
        overlap=(len(rows) + exchanged) / max(len(left.keys), len(right.keys), 1),
        cosine_min=float(cosine.min()),
        cosine_p1=float(np.percentile(cosine, 1)),
        cosine_mean=float(cosine.mean()),
        length_error=float(error.max()),
        attention_error=float(np.abs(left.attention[rows] - right.attention[columns]).max(initial=0.0)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """Rows that are no padding: vectors n×D, one number for each row's position and scale, and attention."""

    vectors: NDArray[np.float64]
    keys: NDArray[np.int64]
    attention: NDArray[np.float64]
    cut: bool  # whether there was no padding, so that weaker positions may have been left out

    def last_places(self, matched: NDArray[np.int64]) -> int:
        """Return how many rows tie for the last places and have no counterpart among ``matched``."""
        if not self.cut or not len(self.attention):
            return 0
        tied = self.attention <= self.attention.min() * (1 + _TIE)
        tied[matched] = False
        return int(tied.sum())


def _rows(outputs: Sequence[NDArray[Any]]) -> _Rows:
    """Return the rows of one photo.

    Positions are rounded to 1/16 pixel: cells are at least 4 pixels apart and rounding errors below 0.001.
    """
    descriptors, attention, positions, scales = (array[0] for array in outputs)
    valid = attention > 0
    xy = np.rint(positions[valid].astype(np.float64) * 16).astype(np.int64)
    scale = np.rint(scales[valid].astype(np.float64) * 1000).astype(np.int64)
    return _Rows(
        vectors=descriptors[valid].astype(np.float64),
        keys=(scale << 40) + (xy[:, 1] << 20) + xy[:, 0],
        attention=attention[valid].astype(np.float64),
        cut=bool(valid.all()),
    )


def _pairs(photos: Mapping[str, Image]) -> list[list[str]]:
    """Return the names of two photos of each size that occurs more than once."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, image in photos.items():
        groups.setdefault(image.shape, []).append(name)
    return [names[:2] for names in groups.values() if len(names) > 1]
