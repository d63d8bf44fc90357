"""A parity run: the photos on which artefacts are compared, and what the reference made of them, computed once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, ParityError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.scoring import GroundTruth
from ctxdeploy.core.types import Precision
from ctxdeploy.export.parity.agreement import Agreement, GlobalAnswers
from ctxdeploy.export.parity.global_parity import GLOBAL_TOLERANCES, GlobalParity, GlobalPhoto, GlobalTolerance
from ctxdeploy.export.parity.matching import Matching
from ctxdeploy.export.parity.parity import (
    Image,
    Outputs,
    Parity,
    PhotoParity,
    Run,
    Tolerance,
    compare_photo,
    global_of,
    local_of,
)

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
        self._global_answers: GlobalAnswers | None = None
        if retrieval is not None and len(photos.retrieval) > 1:
            self._prepare(retrieval, self._outputs(f"{label}, retrieval", reference, photos.retrieval))

    def _prepare(self, retrieval: Retrieval, found: Mapping[str, Outputs]) -> None:
        """Note the reference's answers, by local descriptors and by global ones, as far as there are any."""
        training = np.concatenate([_vectors(outputs) for outputs in self._wanted.values()])
        if len(training):
            self._ranking = retrieval(_by_name(found), training, self.photos.ground_truth)
        if self._gives_global:
            self._global_answers = GlobalAnswers(_globals(found), self.photos.ground_truth)

    @property
    def _gives_global(self) -> bool:
        return all(global_of(outputs) is not None for outputs in self._wanted.values())

    def _check_reference(self) -> None:
        """Raise ``ParityError`` where the reference's own descriptors are none: there is nothing to compare with."""
        for name, outputs in self._wanted.items():
            if not all(np.isfinite(array).all() for array in outputs):
                raise ParityError(
                    f"{self.label} itself gives NaN or infinity on {name}: no archive can be made with this network, "
                    "its weights are damaged or were never trained"
                )
        local = [_vectors(outputs) for outputs in self._wanted.values() if local_of(outputs) is not None]
        for kind in (local, list(_globals(self._wanted).values())):
            if not kind or any(vectors.any() for vectors in kind):
                continue
            raise ParityError(
                f"{self.label} itself gives descriptors of zeros alone on every photo: no archive can be made with "
                "this network, its weights are damaged or were never trained"
            )

    def compare(
        self,
        candidate: Run,
        tolerance: Tolerance,
        *,
        measured_with: str,
        max_batch: int = 2,
        whole: GlobalTolerance = GLOBAL_TOLERANCES[Precision.FP32],
    ) -> Parity:
        """Run an artefact on every photo, alone, and on a pair of each size that occurs twice.

        Args:
            candidate: the artefact in the engine that will run it.
            tolerance: that it is held against.
            measured_with: engine and device.
            max_batch: largest batch that the candidate takes; with 1 there are no pairs.
            whole: that its global descriptors are held against, where it gives any.

        Raises:
            ParityError: the outputs cannot be compared at all.
        """
        found, wholes = self._compared(candidate, measured_with, max_batch)
        # Where descriptors are not finite, the verdict is known without a retrieval run.
        finite = all(np.isfinite(photo.cosine_min) for photo in found if photo.descriptors)
        finite = finite and all(np.isfinite(photo.cosine) for photo in wholes)
        ranking, answers = None, None
        if finite and (self._ranking is not None or self._global_answers is not None):
            retrieved = self._outputs(f"{measured_with}, retrieval", candidate, self.photos.retrieval)
            if self._ranking is not None:
                ranking = _agreement(self._ranking, _by_name(retrieved))
            if self._global_answers is not None:
                answers = self._global_answers.agreement(_globals(retrieved))
        return Parity(
            photos=tuple(found),
            tolerance=tolerance,
            ranking=ranking,
            whole=GlobalParity(photos=tuple(wholes), tolerance=whole, ranking=answers) if wholes else None,
            reference=self.label,
            measured_with=measured_with,
        )

    def photo_parities(self, candidate: Run, label: str, max_batch: int = 1) -> list[PhotoParity]:
        """Return the figures of the photos' local descriptors alone: no retrieval run."""
        return self._compared(candidate, label, max_batch)[0]

    def _compared(self, candidate: Run, label: str, max_batch: int) -> tuple[list[PhotoParity], list[GlobalPhoto]]:
        """Return the figures of photos, alone and in pairs, of local descriptors and of global ones."""
        photos = self.photos.parity
        found: list[PhotoParity] = []
        wholes: list[GlobalPhoto] = []

        def compare(what: str, name: str, given: Outputs) -> None:
            wanted = self._wanted[name]
            if len(wanted) != len(given):
                raise ValueError(f"{len(given)} outputs instead of {len(wanted)}")
            local, whole = local_of(wanted), global_of(wanted)
            if local is not None:
                found.append(compare_photo(what, photos[name], local, given[:4], matching=self.matching))
            if whole is not None:
                wholes.append(GlobalPhoto.compared(what, photos[name], whole, given[-1]))

        try:
            for name, given in self._outputs(label, candidate, photos).items():
                compare(name, name, given)
            for names in _pairs(photos) if max_batch > 1 else ():
                outputs = candidate(np.stack([photos[name] for name in names]))
                for row, name in enumerate(names):
                    single = tuple(array[row : row + 1] for array in outputs)
                    compare(f"{name} in a batch of {len(names)}", name, single)
        except ValueError as error:
            raise ParityError(f"{label} cannot be compared with {self.label}: {error}") from error
        return found, wholes

    def _outputs(self, label: str, run: Run, photos: Mapping[str, Image]) -> dict[str, Outputs]:
        outputs = {}
        with self._display.progress(label, len(photos)) as bar:
            for name, image in photos.items():
                outputs[name] = run(image[None])
                bar.advance()
        return outputs


def _agreement(ranking: Ranking, descriptors: Mapping[str, Vectors]) -> Agreement:
    """Return the agreement of the answers; photos count as empty where descriptors cannot be indexed."""
    try:
        return ranking.agreement(descriptors)
    except ConfigError:
        return ranking.agreement({name: vectors[:0] for name, vectors in descriptors.items()})


def _vectors(outputs: Outputs) -> Vectors:
    """Return the local descriptors of one photo without padding, n×D; 0×0 of a network that gives none."""
    local = local_of(outputs)
    if local is None:
        return np.zeros((0, 0), np.float32)
    vectors: Vectors = local[0][0][local[1][0] > 0]
    return vectors


def _by_name(found: Mapping[str, Outputs]) -> dict[str, Vectors]:
    return {name: _vectors(outputs) for name, outputs in found.items()}


def _globals(found: Mapping[str, Outputs]) -> dict[str, Vectors]:
    """Return the global vector of each photo, D; nothing of a network that gives none."""
    vectors = {name: global_of(outputs) for name, outputs in found.items()}
    return {name: vector[0] for name, vector in vectors.items() if vector is not None}


def _pairs(photos: Mapping[str, Image]) -> list[list[str]]:
    """Return the names of two photos of each size that occurs more than once."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, image in photos.items():
        groups.setdefault(image.shape, []).append(name)
    return [names[:2] for names in groups.values() if len(names) > 1]
