"""What a model's decoder makes of photos beside libjpeg: levels of the pixels, and what they do to the descriptors."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.text import counted
from ctxdeploy.core.types import LIBJPEG
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.parity.matching import Matching, match, rows_of
from ctxdeploy.export.parity.parity import Run
from ctxdeploy.export.parity.photos import MAX_COMPARED, photos_of
from ctxdeploy.export.parity.verify import reference_run

# Levels of 255 that two good decoders are apart at most, but for single samples.
NEAR = 2


@dataclass(frozen=True, kw_only=True)
class DecoderDifference:
    """A decoder beside libjpeg on the CPU.

    Attributes:
        decoder: which.
        photos: that were compared.
        on_gpu: of them, those that do not have libjpeg's very pixels.
        largest: difference of a sample, in levels of 255.
        mean: of the differences of all samples.
        beyond: share of the samples that are more than 2 levels apart.
        cosine_min, cosine_mean: of descriptors of the same places, or of the global descriptors where a model gives no
            others; 1 where there are none.
        overlap: least share of the places of a photo that are found in both; 1 of a model without local descriptors.
    """

    decoder: str
    photos: int
    on_gpu: int
    largest: int
    mean: float
    beyond: float
    cosine_min: float
    cosine_mean: float
    overlap: float

    def metadata(self) -> dict[str, Any]:
        """Return the figures as JSON prints them."""
        return asdict(self)

    @property
    def line(self) -> str:
        """The figures for people."""
        return (
            f"decoder {self.decoder} beside libjpeg: {self.on_gpu} of {counted(self.photos, 'photo')} decoded by it, "
            f"pixels {self.mean:.3f} levels apart, at most {self.largest}, {100 * self.beyond:.3f} % of them more than "
            f"{NEAR}; cosine of descriptors ≥ {self.cosine_min:.5f}, its mean {self.cosine_mean:.5f}, places in common "
            f"≥ {self.overlap:.4f}"
        )


def compare_decoders(bundle: Bundle, folder: Path) -> DecoderDifference | None:
    """Decode photos of a folder as a bundle wants it and with libjpeg, and describe both; None if that is the same.

    Raises:
        NoPhotosError, PhotoError, ConfigError: about the photos.
        BackendError, MissingExtraError: the decoder does not run on this machine.
    """
    from ctxdeploy.runtime import decode_photo

    preprocessing = bundle.preprocessing
    if preprocessing.decoder == LIBJPEG:
        return None
    run, _ = reference_run(bundle)
    matching = Matching.of(NetworkConfig.parse(bundle.network))
    levels, described, on_gpu = [], [], 0
    for path in photos_of(folder, MAX_COMPARED):
        both = [decode_photo(path, settings).pixels for settings in (preprocessing, preprocessing.on_cpu())]
        apart = np.abs(both[0].astype(np.int16) - both[1])
        on_gpu += bool(apart.any())
        levels.append(np.bincount(apart.reshape(-1), minlength=256))
        described.append(_described(run, both, matching))
    counts = np.sum(levels, axis=0)
    cosines = np.concatenate([cosine for cosine, _ in described])
    return DecoderDifference(
        decoder=preprocessing.decoder,
        photos=len(described),
        on_gpu=on_gpu,
        largest=int(np.flatnonzero(counts).max()),
        mean=float(counts @ np.arange(256) / counts.sum()),
        beyond=float(counts[NEAR + 1 :].sum() / counts.sum()),
        cosine_min=float(cosines.min(initial=1.0)),
        cosine_mean=float(cosines.mean()) if cosines.size else 1.0,
        overlap=min(share for _, share in described),
    )


def _described(run: Run, photos: Sequence[NDArray[np.uint8]], matching: Matching) -> tuple[NDArray[np.float64], float]:
    """Return the cosines of what both photos give, and the share of places that are in both."""
    left, right = (run(photo[np.newaxis]) for photo in photos)
    if len(left) < _LOCAL:
        return _cosines(left[-1].astype(np.float64), right[-1].astype(np.float64)), 1.0
    sides = [rows_of(outputs[:_LOCAL]) for outputs in (left, right)]
    rows, columns = match(sides[0], sides[1], matching)
    most = max(len(side.vectors) for side in sides)
    return _cosines(sides[0].vectors[rows], sides[1].vectors[columns]), len(rows) / most if most else 1.0


# Descriptors, attention, positions, scales.
_LOCAL = 4


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / np.maximum(lengths, 1e-30))
