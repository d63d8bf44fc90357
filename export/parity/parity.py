"""What an artefact computes against what PyTorch computes, in the figures that decide about retrieval.

Three levels: the cosine between both sides' descriptors of the same position and scale; the overlap of the selected
positions; and the agreement of the answers in a small retrieval run. An artefact that misses the tolerance of its
precision is rejected.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ParityError
from ctxdeploy.core.types import Precision
from ctxdeploy.export.parity.agreement import Agreement
from ctxdeploy.export.parity.global_parity import GlobalParity
from ctxdeploy.export.parity.matching import Matching, match, rows_of

Image = NDArray[np.uint8]
# As the graph of a network gives them: descriptors, attention, positions and scales, then global vectors; or one kind.
Outputs = tuple[NDArray[np.float32], ...]
# Images B×H×W×3 to outputs with a leading B.
Run = Callable[[Image], Outputs]


def local_of(outputs: Outputs) -> Outputs | None:
    """Return descriptors, attention, positions and scales; None of a network that gives no local descriptors."""
    return outputs[:4] if len(outputs) >= 4 else None


def global_of(outputs: Outputs) -> NDArray[np.float32] | None:
    """Return the global vectors, B×D; None of a network that gives none."""
    return outputs[-1] if len(outputs) in (1, 5) else None


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What a precision must reach.

    Attributes:
        cosine: least cosine of any descriptor.
        cosine_p1, cosine_mean: least first percentile and mean of the cosines of all descriptors.
        overlap: least share of selected positions in common, of any photo.
        length_error: largest relative difference of lengths.
        attention_error: largest difference of attention, relative to the strongest of the photo.
        top_ten: least mean overlap of the ten best answers.
        map_drop: by how much the mAP may fall, where there is ground truth, beside a swap in one query.
    """

    cosine: float
    cosine_p1: float
    cosine_mean: float
    overlap: float
    length_error: float
    attention_error: float
    top_ten: float
    map_drop: float


# The few worst descriptors of a low precision do not matter for retrieval (bf16, untrained: least cosine .997 on
# ResNet-18, .93 on R50-, .82 with FIRe, whose means were .999, .985 and .996), so their limits only catch what is
# broken; the percentile, the mean and the answers decide.
TOLERANCES = {
    Precision.FP32: Tolerance(
        cosine=0.9999,
        cosine_p1=0.9999,
        cosine_mean=0.9999,
        overlap=0.99,
        length_error=0.01,
        attention_error=0.001,
        top_ten=0.98,
        map_drop=0.005,
    ),
    Precision.FP16: Tolerance(
        cosine=0.9,
        cosine_p1=0.99,
        cosine_mean=0.999,
        overlap=0.95,
        length_error=0.1,
        attention_error=0.02,
        top_ten=0.95,
        map_drop=0.01,
    ),
    Precision.BF16: Tolerance(
        cosine=0.5,
        cosine_p1=0.93,
        cosine_mean=0.98,
        overlap=0.9,
        length_error=0.3,
        attention_error=0.1,
        top_ten=0.9,
        map_drop=0.02,
    ),
    # 255 steps, or three bits of mantissa.
    **dict.fromkeys(
        (Precision.INT8, Precision.FP8),
        Tolerance(
            cosine=0.0,
            cosine_p1=0.8,
            cosine_mean=0.985,
            overlap=0.8,
            length_error=1.0,
            attention_error=0.3,
            top_ten=0.9,
            map_drop=0.02,
        ),
    ),
}
# Parts into which the descriptors of a photo are divided by their rank.
_RANKS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """The n positions that both sides selected: cosine, scale, rank by the reference's attention (0 is strongest)."""

    cosine: NDArray[np.float64]
    scale: NDArray[np.float64]
    rank: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PhotoParity:
    """Figures of one photo.

    Attributes:
        photo: its name.
        shape: height and width in pixels.
        descriptors: rows that PyTorch selects (padding not counted).
        overlap: share of positions (with scale), or of super-features, selected by both, of the larger selection. Of
            those that tie for the last places, any are as good as any others.
        cosine_min, cosine_p1, cosine_mean: over the descriptors at those positions.
        length_error: largest relative difference of their lengths, which ASMK's residuals depend on.
        attention_error: largest difference of their attention, relative to the strongest of the photo.
        matched: the positions themselves.
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
    matched: Matched = field(repr=False, compare=False)

    def metadata(self) -> dict[str, Any]:
        """Return the figures, without the positions; those that are not finite are None (JSON has no NaN)."""
        figures = {name: _finite(value) for name, value in vars(self).items() if name != "matched"}
        return {**figures, "shape": list(self.shape)}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Figures of all photos and of the retrieval run, and the tolerance they are held against.

    Attributes:
        photos: one for each photo, and for each photo of a batch; none of a network without local descriptors.
        tolerance: of the precision.
        ranking: agreement of the answers; None where no retrieval was run.
        whole: of the global descriptors; None of a network that gives none.
        reference: what the other side was.
        measured_with: engine and device that ran the artefact.
    """

    photos: tuple[PhotoParity, ...]
    tolerance: Tolerance
    ranking: Agreement | None = None
    whole: GlobalParity | None = None
    reference: str = "PyTorch fp32, CPU"
    measured_with: str = ""

    @property
    def cosine(self) -> float:
        """Least cosine of any descriptor."""
        return min(photo.cosine_min for photo in self.photos)

    @property
    def overlap(self) -> float:
        """Least overlap of any photo."""
        return min(photo.overlap for photo in self.photos)

    def metadata(self) -> dict[str, Any]:
        """Return the figures as they stand in ``bundle.json``; those of one kind only where there is such a kind."""
        return {
            "reference": self.reference,
            "measured_with": self.measured_with,
            **(self._local() if self.photos else {}),
            **({} if self.whole is None else {"global": self.whole.metadata()}),
            "verdict": self.verdict(),
        }

    def _local(self) -> dict[str, Any]:
        cosine, scale, rank = self._matched()
        scales = sorted(set(scale.tolist()), reverse=True)
        step = -(-(int(rank.max(initial=0)) + 1) // _RANKS)
        parts = [(first, rank // step == first // step) for first in range(0, int(rank.max(initial=0)) + 1, step)]
        return {
            **_cosines(cosine),
            "overlap_min": self.overlap,
            "overlap_mean": float(np.mean([photo.overlap for photo in self.photos])),
            # numpy's maximum hands NaN on, max() only from the first photo.
            "length_error_max": _finite(float(np.max([photo.length_error for photo in self.photos]))),
            "attention_error_max": _finite(float(np.max([photo.attention_error for photo in self.photos]))),
            # Of one run they said nothing of speed, which ``ctxdeploy bench`` measures. Readers know the keys.
            "seconds": None,
            "reference_seconds": None,
            "ranking": None if self.ranking is None else self.ranking.metadata(),
            "tolerance": asdict(self.tolerance),
            "by_scale": [
                {"scale": s, "descriptors": int((scale == s).sum()), **_cosines(cosine[scale == s])} for s in scales
            ],
            "by_rank": [
                {"first": first, "last": first + step - 1, **_cosines(cosine[part])}
                for first, part in parts
                if part.any()
            ],
            "photos": [photo.metadata() for photo in self.photos],
        }

    def verdict(self) -> str:
        """Return ``passed``, or ``failed: `` and the first figure that is outside its tolerance (NaN is)."""
        problem = None
        if self.photos:
            problem = self._photo_problem() or self._cosine_problem() or self._ranking_problem()
        if problem is None and self.whole is not None:
            problem = self.whole.problem()
        return f"failed: {problem}" if problem else "passed"

    def check(self) -> None:
        """Raise ``ParityError``, naming the figure and the worst photo, unless every figure is within the tolerance."""
        verdict = self.verdict()
        if verdict != "passed":
            raise ParityError(f"the artefact differs from {self.reference}: {verdict.removeprefix('failed: ')}")

    def _matched(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        parts = [photo.matched for photo in self.photos]
        cosine = np.concatenate([part.cosine for part in parts])
        return cosine, np.concatenate([part.scale for part in parts]), np.concatenate([part.rank for part in parts])

    def _photo_problem(self) -> str | None:
        limits = (
            ("cosine_min", 1, self.tolerance.cosine),
            ("overlap", 1, self.tolerance.overlap),
            ("length_error", -1, self.tolerance.length_error),
            ("attention_error", -1, self.tolerance.attention_error),
        )
        for figure, sign, limit in limits:
            worst = min(self.photos, key=lambda photo: np.nan_to_num(sign * getattr(photo, figure), nan=-np.inf))
            value = getattr(worst, figure)
            if not sign * value >= sign * limit:
                return (
                    f"{figure.replace('_', ' ')} {value:.6f} on {worst.photo} "
                    f"({worst.shape[1]}×{worst.shape[0]}), but at {'least' if sign > 0 else 'most'} {limit} is needed"
                )
        return None

    def _cosine_problem(self) -> str | None:
        found = _cosines(self._matched()[0])
        for figure, limit in (("cosine_p1", self.tolerance.cosine_p1), ("cosine_mean", self.tolerance.cosine_mean)):
            value = found[figure]
            if value is None or not value >= limit:
                return f"{figure.replace('_', ' ')} {value or 0:.6f}, but at least {limit} is needed"
        return None

    def _ranking_problem(self) -> str | None:
        if self.ranking is None:
            return None
        return self.ranking.problem(self.tolerance.top_ten, self.tolerance.map_drop)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _cosines(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Return least, first percentile and mean; None where there is nothing (JSON has no NaN)."""
    if not len(values) or not np.isfinite(values).all():
        return {"cosine_min": None, "cosine_p1": None, "cosine_mean": None}
    return {
        "cosine_min": float(values.min()),
        "cosine_p1": float(np.percentile(values, 1)),
        "cosine_mean": float(values.mean()),
    }


def compare_photo(
    name: str,
    image: Image,
    wanted: Sequence[NDArray[Any]],
    given: Sequence[NDArray[Any]],
    *,
    matching: Matching = Matching.POSITION,
) -> PhotoParity:
    """Return the figures of one photo from both sides' outputs, each with a leading 1."""
    left, right = rows_of(wanted), rows_of(given)
    rows, columns = match(left, right, matching)
    a, b = left.vectors[rows], right.vectors[columns]
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    exchanged = min(left.last_places(rows), right.last_places(columns))
    strongest = max(left.attention.max(initial=0.0), 1e-30)
    attention = left.attention[rows], right.attention[columns]
    if len(rows):
        cosine = (a * b).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-30)
        error = np.abs(lengths[1] / np.maximum(lengths[0], 1e-30) - 1)
    elif exchanged == len(left.vectors) == len(right.vectors) > 0:
        # Both chose among equals, and each chose others: one descriptor of a photo of one pixel is that of any scale.
        cosine, error, attention = np.ones(1), np.zeros(1), (np.sort(left.attention), np.sort(right.attention))
    else:
        cosine, error = np.full(1, np.nan), np.full(1, np.nan)
    ranks = np.empty(len(left.vectors), np.int64)
    ranks[np.argsort(-left.attention, kind="stable")] = np.arange(len(ranks))
    matched = Matched(cosine=cosine[: len(rows)], scale=left.scales[rows] / 1000, rank=ranks[rows])
    return PhotoParity(
        photo=name,
        shape=(image.shape[0], image.shape[1]),
        descriptors=len(left.vectors),
        overlap=(len(rows) + exchanged) / max(len(left.vectors), len(right.vectors), 1),
        cosine_min=float(cosine.min()),
        cosine_p1=float(np.percentile(cosine, 1)),
        cosine_mean=float(cosine.mean()),
        length_error=float(error.max()),
        attention_error=float(np.abs(attention[0] - attention[1]).max(initial=0.0) / strongest),
        matched=matched,
    )
