"""What an artefact's global descriptors are beside those of PyTorch: cosine, length, and the answers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.types import Precision
from ctxdeploy.export.parity.agreement import Agreement


@dataclass(frozen=True, kw_only=True)
class GlobalTolerance:
    """What the global descriptors of a precision must reach.

    Attributes:
        cosine: least cosine of any photo.
        cosine_mean: least mean.
        length_error: largest difference of a length from 1.
        top_ten: least mean overlap of the ten best answers.
        map_drop: by how much the mAP may fall, where there is ground truth, beside a swap in one query.
    """

    cosine: float
    cosine_mean: float
    length_error: float
    top_ten: float
    map_drop: float


# Without training the vectors of all photos are nearly one, and a whitening that takes their mean off is left with what
# they differ by: its error is many times that of the pooled vector. Mean cosine of such a ResNet-50 (whitening of 2048,
# three scales at 320 pixels): fp16 .9983, bf16 .955, int8 .934 (OpenVINO) and .958, with .97 to 1.0 of the ten best
# answers in common; of a half-width ResNet-18 .999997, .9997, .9933, without whitening .99998 (bf16), .9994 (int8). So
# the cosines only catch what is broken, and the answers decide.
GLOBAL_TOLERANCES = {
    Precision.FP32: GlobalTolerance(cosine=0.9999, cosine_mean=0.9999, length_error=1e-4, top_ten=0.98, map_drop=0.005),
    Precision.FP16: GlobalTolerance(cosine=0.95, cosine_mean=0.995, length_error=0.001, top_ten=0.95, map_drop=0.01),
    Precision.BF16: GlobalTolerance(cosine=0.7, cosine_mean=0.93, length_error=0.01, top_ten=0.9, map_drop=0.02),
    Precision.INT8: GlobalTolerance(cosine=0.5, cosine_mean=0.9, length_error=0.01, top_ten=0.9, map_drop=0.02),
    Precision.FP8: GlobalTolerance(cosine=0.5, cosine_mean=0.9, length_error=0.01, top_ten=0.9, map_drop=0.02),
}


@dataclass(frozen=True, kw_only=True)
class GlobalPhoto:
    """Figures of one photo.

    Attributes:
        photo: its name.
        shape: height and width in pixels.
        cosine: between both sides' vectors; NaN where one of them is not finite or zero.
        length_error: difference of the artefact's length from 1.
    """

    photo: str
    shape: tuple[int, int]
    cosine: float
    length_error: float

    @classmethod
    def compared(
        cls, name: str, image: NDArray[np.uint8], wanted: NDArray[np.float32], given: NDArray[np.float32]
    ) -> "GlobalPhoto":
        """Return the figures of both sides' vectors, 1×D each; ``ValueError`` where their shapes differ."""
        if wanted.shape != given.shape:
            raise ValueError(f"global descriptors of shape {given.shape} instead of {wanted.shape}")
        a, b = wanted[0].astype(np.float64), given[0].astype(np.float64)
        lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        both = lengths[0] * lengths[1]
        # Of a photo in which the network sees nothing both are 0, and neither finds anything.
        cosine = 1.0 if lengths == (0.0, 0.0) else float(a @ b / both) if both > 0 else float("nan")
        error = 0.0 if lengths == (0.0, 0.0) else abs(lengths[1] - 1)
        return cls(photo=name, shape=(image.shape[0], image.shape[1]), cosine=cosine, length_error=error)

    def metadata(self) -> dict[str, Any]:
        """Return the figures; those that are not finite are None (JSON has no NaN)."""
        figures = {name: value if np.isfinite(value) else None for name, value in self._figures().items()}
        return {"photo": self.photo, "shape": list(self.shape), **figures}

    def _figures(self) -> Mapping[str, float]:
        return {"cosine": self.cosine, "length_error": self.length_error}


@dataclass(frozen=True, kw_only=True)
class GlobalParity:
    """Figures of all photos' global descriptors, and the tolerance they are held against.

    Attributes:
        photos: one for each photo, and for each photo of a batch.
        tolerance: of the precision.
        ranking: agreement of the answers; None where no retrieval was run.
    """

    photos: tuple[GlobalPhoto, ...]
    tolerance: GlobalTolerance
    ranking: Agreement | None = None

    def metadata(self) -> dict[str, Any]:
        """Return the figures as they stand in ``bundle.json``."""
        cosines = np.array([photo.cosine for photo in self.photos])
        finite = bool(np.isfinite(cosines).all())
        length = float(np.max([photo.length_error for photo in self.photos]))
        return {
            "cosine_min": float(cosines.min()) if finite else None,
            "cosine_mean": float(cosines.mean()) if finite else None,
            "length_error_max": length if np.isfinite(length) else None,
            "ranking": None if self.ranking is None else self.ranking.metadata(),
            "tolerance": asdict(self.tolerance),
            "photos": [photo.metadata() for photo in self.photos],
        }

    def problem(self) -> str | None:
        """Return the first figure that is outside its tolerance (NaN is), and where; None if all are within."""
        found = self._problem()
        return None if found is None else f"of the global descriptors, {found}"

    def _problem(self) -> str | None:
        worst = min(self.photos, key=lambda photo: np.nan_to_num(photo.cosine, nan=-np.inf))
        where = f"on {worst.photo} ({worst.shape[1]}×{worst.shape[0]})"
        if not worst.cosine >= self.tolerance.cosine:
            return f"cosine {worst.cosine:.6f} {where}, but at least {self.tolerance.cosine} is needed"
        mean = float(np.mean([photo.cosine for photo in self.photos]))
        if not mean >= self.tolerance.cosine_mean:
            return f"mean cosine {mean:.6f}, but at least {self.tolerance.cosine_mean} is needed"
        length = float(np.max([photo.length_error for photo in self.photos]))
        if not length <= self.tolerance.length_error:
            return f"a length differs from 1 by {length:.6f}, but at most {self.tolerance.length_error} is allowed"
        if self.ranking is None:
            return None
        return self.ranking.problem(self.tolerance.top_ten, self.tolerance.map_drop)
