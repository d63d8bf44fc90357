"""A small retrieval run: do the descriptors of an artefact find what those of the reference find?"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import GroundTruth
from ctxdeploy.export.parity import Agreement

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook

Vectors = NDArray[np.float32]
TOP = 10
# Words of the codebook at most, and descriptors a word at least.
_MAX_WORDS, _DESCRIPTORS_PER_WORD = 4096, 4


class AsmkRetrieval:
    """The ``Retrieval`` of a parity run, with ASMK: the reference's answers, and the codebook that both sides use.

    The codebook is trained with noise added (a third of the deviation of each dimension). Without it a word that has a
    single descriptor would be that descriptor, and the signs of their difference nothing but rounding.

    Args:
        reference: descriptors of each photo, n×D float32, n may be 0; two photos at least.
        training: descriptors that the codebook is trained with, m×D float32; they may be of the same photos.
        ground_truth: of the photos.

    Raises:
        ConfigError: there are fewer than two photos, or no descriptors to train with.
    """

    def __init__(
        self, reference: Mapping[str, Vectors], training: Vectors, ground_truth: GroundTruth | None = None
    ) -> None:
        from ctxdeploy.index import Codebook

        if len(reference) < 2 or not len(training):
            raise ConfigError(
                f"{len(reference)} photos and {len(training)} descriptors are too few for a retrieval run"
            )
        words = max(1, min(_MAX_WORDS, len(training) // _DESCRIPTORS_PER_WORD))
        noise = np.random.default_rng(0).standard_normal(training.shape, np.float32) * training.std(axis=0) / 3
        self._codebook = Codebook.train(training + noise, words=words, seed=0)
        truth = None if ground_truth is None else ground_truth.restricted(list(reference))
        self._truth = truth if truth is not None and truth.scenes else None
        self._answers = rankings(self._codebook, reference)

    def agreement(self, descriptors: Mapping[str, Vectors]) -> Agreement:
        """Return how far the answers from these descriptors, of the same photos, agree with the reference's."""
        answers = rankings(self._codebook, descriptors)
        shares = [_share(self._answers[name], answers[name], name) for name in answers]
        truth = self._truth
        return Agreement(
            photos=len(answers),
            queries=len(shares) if truth is None else sum(map(len, truth.scenes.values())),
            overlap=float(np.mean(shares)),
            reference_map=None if truth is None else truth.mean_average_precision(self._answers),
            map=None if truth is None else truth.mean_average_precision(answers),
        )


def asmk_scores(
    descriptors: Mapping[str, Vectors], training: Vectors, words: int, ground_truth: GroundTruth
) -> dict[str, float]:
    """Return the mAP, 0 to 1, of ASMK with the photos of the ground truth as queries and all photos as the archive.

    Args:
        descriptors: of each photo, n×D float32.
        training: descriptors that the codebook is trained with, m×D float32, of other photos.
        words: of the codebook; fewer where that leaves less than four descriptors a word.
        ground_truth: of the photos; those that are not in ``descriptors`` are left out.

    Returns:
        By the names of ``GroundTruth.parts``: ``map``, the kinds of scenes, ``small``.
    """
    from ctxdeploy.index import Codebook

    truth = ground_truth.restricted(list(descriptors))
    queries = [name for files in truth.scenes.values() for name in files]
    words = min(words, max(1, len(training) // _DESCRIPTORS_PER_WORD))
    answers = rankings(Codebook.train(training, words=words, seed=0), descriptors, queries)
    return {name: part.mean_average_precision(answers) for name, part in truth.parts().items()}


def rankings(
    codebook: "Codebook", descriptors: Mapping[str, Vectors], queries: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Return for every photo (or some) all photos, best first, by ASMK with its default parameters."""
    from ctxdeploy.index import Index

    names = list(descriptors)
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-") as folder:
        with Index.create(Path(folder) / "a.ctxindex", codebook) as index:
            index.add_many(descriptors.items())
        with Index.open(Path(folder) / "a.ctxindex") as index:
            asked = names if queries is None else queries
            return {name: [hit.name for hit in index.search(descriptors[name], len(names))] for name in asked}


def _share(wanted: Sequence[str], given: Sequence[str], query: str) -> float:
    left, right = (set([name for name in ranked if name != query][:TOP]) for ranked in (wanted, given))
    return len(left & right) / max(len(left), len(right)) if left or right else 1.0
