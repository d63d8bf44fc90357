"""A parity run: the photos on which artefacts are compared, and what the reference made of them, computed once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, ParityError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.scoring import GroundTruth
from ctxdeploy.export.parity.matching import Matching
from ctxdeploy.export.parity.parity import Agreement, Image, Outputs, Parity, PhotoParity, Run, Tolerance, compare_photo

Vectors = NDArray[np.float32]


class Ranking(Protocol):
    """The reference's answers in a small retrieval run."""

    def agreement(self, descriptors: Mapping[str, Vectors]) -> Agreement:
        """Return how far the answers from these descriptors, n×D of each photo, agree with the reference's."""


# Retrieval stands above this package, as it needs an index: the commands give ``ctxdeploy.evaluation.AsmkRetrieval``.
# It takes the reference's descriptors of each photo, those that a codebook is trained with, and the ground truth.
Retrieval = Callable[[Mapping[str, Vectors], Vectors, GroundTruth | None], Ranking]


@dataclass(frozen=True, kw_only=True, eq=False)
class ParityPhotos:
    """What is compared.

    Attributes:
        parity: photos by name, H×W×3 uint8, not larger than the network takes, for descriptors and positions.
        retrieval: photos for the small retrieval run; none skip it.
        ground_truth: of the photos of the retrieval run.
    """

    parity: Mapping[str, Image]
    retrieval: Mapping[str, Image]
    ground_truth: GroundTruth | None = None


class ParityRun:
    """Photos, and the outputs of the reference for them.

    Args:
        photos: at least one for parity.
        reference: the network in PyTorch, or the fp32 graph.
        retrieval: makes the small retrieval run; None only where there are no photos for it.
        matching: how rows of the outputs are known again.
        label: what the reference is, for reports.
        display: shows how far it is; None shows nothing.

    Raises:
        ParityError: the reference's outputs are not finite, or nothing.
    """

    def __init__(
        self,
        photos: ParityPhotos,
        reference: Run,
        *,
        retrieval: Retrieval | None = None,
        matching: Matching = Matching.POSITION,
        label: str = "PyTorch fp32, CPU",
        display: Display | None = None,
    ) -> None:
        if not photos.parity:
            raise ConfigError("no photo to compare with: give a folder of photos with --photos")
        if len(photos.retrieval) > 1 and retrieval is None:
            raise ConfigError("there are photos for a retrieval run, but nothing that runs it: give retrieval")
        self.photos = photos
        self.label = label
        self.matching = matching
        self._display = display or Display(quiet=True)
        self._wanted = self._outputs(label, reference, photos.parity)
        self._check_reference()
        self._ranking: Ranking | None = None
        training = np.concatenate([_vectors(outputs) for outputs in self._wanted.values()])
        if retrieval is not None and len(photos.retrieval) > 1 and len(training):
            self._ranking = retrieval(self._descriptors(label, reference), training, photos.ground_truth)

    def _check_reference(self) -> None:
        """Raise ``ParityError`` where the reference's own descriptors are none: there is nothing to compare with."""
        for name, outputs in self._wanted.items():
            if not all(np.isfinite(array).all() for array in outputs):
                raise ParityError(
                    f"{self.label} itself gives NaN or infinity on {name}: no archive can be made with this network, "
                    "its weights are damaged or were never trained"
                )
        if not any(_vectors(outputs).any() for outputs in self._wanted.values()):
            raise ParityError(
                f"{self.label} itself gives descriptors of zeros alone on every photo: no archive can be made with "
                "this network, its weights are damaged or were never trained"
            )

    def compare(self, candidate: Run, tolerance: Tolerance, *, measured_with: str, max_batch: int = 2) -> Parity:
        """Run an artefact on every photo, alone, and on a pair of each size that occurs twice.

        Args:
            candidate: the artefact in the engine that will run it.
            tolerance: that it is held against.
            measured_with: engine and device.
            max_batch: largest batch that the candidate takes; with 1 there are no pairs.

        Raises:
            ParityError: the outputs cannot be compared at all.
        """
        found = self.photo_parities(candidate, measured_with, max_batch)
        ranking = None
        # Where descriptors are not finite, the verdict is known without a retrieval run.
        if self._ranking is not None and all(np.isfinite(photo.cosine_min) for photo in found if photo.descriptors):
            ranking = self._agreement(self._ranking, measured_with, candidate)
        return Parity(
            photos=tuple(found),
            tolerance=tolerance,
            ranking=ranking,
            reference=self.label,
            measured_with=measured_with,
        )

    def photo_parities(self, candidate: Run, label: str, max_batch: int = 1) -> list[PhotoParity]:
        """Return the figures of the photos alone: no retrieval run."""
        photos = self.photos.parity
        try:
            found = [
                compare_photo(name, photos[name], self._wanted[name], given, matching=self.matching)
                for name, given in self._outputs(label, candidate, photos).items()
            ]
            for names in _pairs(photos) if max_batch > 1 else ():
                outputs = candidate(np.stack([photos[name] for name in names]))
                for row, name in enumerate(names):
                    single = tuple(array[row : row + 1] for array in outputs)
                    what = f"{name} in a batch of {len(names)}"
                    found.append(compare_photo(what, photos[name], self._wanted[name], single, matching=self.matching))
        except ValueError as error:
            raise ParityError(f"{label} cannot be compared with {self.label}: {error}") from error
        return found

    def _agreement(self, ranking: Ranking, label: str, candidate: Run) -> Agreement:
        """Return the agreement of the answers; photos count as empty where descriptors cannot be indexed."""
        descriptors = self._descriptors(label, candidate)
        try:
            return ranking.agreement(descriptors)
        except ConfigError:
            return ranking.agreement({name: vectors[:0] for name, vectors in descriptors.items()})

    def _outputs(self, label: str, run: Run, photos: Mapping[str, Image]) -> dict[str, Outputs]:
        outputs = {}
        with self._display.progress(label, len(photos)) as bar:
            for name, image in photos.items():
                outputs[name] = run(image[None])
                bar.advance()
        return outputs

    def _descriptors(self, label: str, run: Run) -> dict[str, Vectors]:
        outputs = self._outputs(f"{label}, retrieval", run, self.photos.retrieval)
        return {name: _vectors(found) for name, found in outputs.items()}


def _vectors(outputs: Outputs) -> Vectors:
    """Return the descriptors of one photo without padding, n×D."""
    vectors: Vectors = outputs[0][0][outputs[1][0] > 0]
    return vectors


def _pairs(photos: Mapping[str, Image]) -> list[list[str]]:
    """Return the names of two photos of each size that occurs more than once."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, image in photos.items():
        groups.setdefault(image.shape, []).append(name)
    return [names[:2] for names in groups.values() if len(names) > 1]
