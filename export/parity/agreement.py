"""How far the answers of two sides agree in a small retrieval run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.scoring import GroundTruth

# What it costs a query when its first answer, a right one, and the second, a wrong one of almost the same score, trade
# places. Near ties moved the mAP of 24 queries by 0.0105 in an untrained FIRe whose descriptors were equal to 1.7e-5.
_ONE_SWAP = 0.5
_BEST = 10


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the answers agree.

    Attributes:
        photos: in the archive; each is a query too.
        queries: number of them that the figures are means of.
        overlap: mean share of the ten best answers (the query itself left out) that both sides name.
        reference_map, map: mean average precision of both sides, 0 to 1; None without ground truth.
    """

    photos: int
    queries: int
    overlap: float
    reference_map: float | None = None
    map: float | None = None

    @property
    def map_drop(self) -> float | None:
        """By how much the mAP is lower than the reference's; None without ground truth."""
        return None if self.map is None or self.reference_map is None else self.reference_map - self.map

    def problem(self, top_ten: float, map_drop: float) -> str | None:
        """Return what is outside the tolerance: the fall of the mAP where there is ground truth, else the overlap."""
        drop = self.map_drop
        if drop is not None:
            limit = map_drop + _ONE_SWAP / self.queries
            return None if drop <= limit else f"the mAP fell by {drop:.4f}, but at most {limit:.4f} is allowed"
        if self.overlap >= top_ten:
            return None
        return f"overlap of the ten best answers {self.overlap:.4f}, but at least {top_ten} is needed"

    def metadata(self) -> dict[str, Any]:
        """Return the figures for ``bundle.json``."""
        return {"kind": "overlap" if self.map is None else "map", **asdict(self)}


class GlobalAnswers:
    """The reference's answers by global descriptors: inner products of all photos with all others.

    Args:
        vectors: D of each photo, by name.
        truth: of the photos; None where there is none.
    """

    def __init__(self, vectors: Mapping[str, NDArray[np.float32]], truth: GroundTruth | None = None) -> None:
        self._names = sorted(vectors)
        truth = None if truth is None else truth.restricted(self._names)
        self._truth = truth if truth is not None and truth.scenes else None
        self._wanted = self._answers(vectors)

    def agreement(self, vectors: Mapping[str, NDArray[np.float32]]) -> Agreement:
        """Return how far the answers from these vectors agree with the reference's."""
        found = self._answers(vectors)
        shares = []
        for name, wanted in self._wanted.items():
            best, others = wanted[:_BEST], found[name][:_BEST]
            shares.append(len(set(best) & set(others)) / max(len(best), 1))
        return Agreement(
            photos=len(self._names),
            queries=len(shares),
            overlap=float(np.mean(shares)),
            reference_map=self._map(self._wanted),
            map=self._map(found),
        )

    def _map(self, answers: Mapping[str, Sequence[str]]) -> float | None:
        return None if self._truth is None else self._truth.mean_average_precision(answers)

    def _answers(self, vectors: Mapping[str, NDArray[np.float32]]) -> dict[str, list[str]]:
        """Return the names of the other photos, best first, of every photo; ties by name.

        A photo whose vector is not finite finds nothing, and nothing finds it.
        """
        rows = np.stack([vectors[name] for name in self._names]).astype(np.float64)
        sound = np.array([bool(np.isfinite(row).all()) for row in rows])
        rows[~sound] = 0
        # As texts of seven digits: what differs less is a tie on either side.
        products = np.round(rows @ rows.T, 7)
        answers = {}
        for row, name in enumerate(self._names):
            order = np.argsort(-products[row], kind="stable")
            answers[name] = [self._names[i] for i in order if i != row and sound[i] and sound[row]]
        return answers
