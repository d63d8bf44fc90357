"""A query on its way to its answer, and what its searches found."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.types import Box, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Hit
from ctxdeploy.query import Answer, Query, QueryConfig
from ctxdeploy.querying.first_stage import Key


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A query on its way to its answer.

    Attributes:
        query: what is asked with.
        box: its part.
        photo: what the network found in it; None for a photo of the archive.
        vector: its global vector, D float32; None where it is not needed, and for a photo of the archive.
        turn: by which it was turned for that.
        hits: so far, best first.
        best_score: the first hit's own score, before any expansion.
        surest: the highest probability of all photos that may be hits or would be where all may; None without a
            judgement.
        remarks: what the user may not expect.
        extract_seconds, search_seconds: as in ``Answer``.
    """

    query: Query
    box: Box | None = None
    photo: PhotoDescriptors | None = None
    vector: NDArray[np.float32] | None = None
    turn: int = 0
    hits: list[Hit] = field(default_factory=list)
    best_score: float = 0.0
    surest: float | None = None
    remarks: tuple[str, ...] = ()
    extract_seconds: float = 0.0
    search_seconds: float = 0.0

    @property
    def asked(self) -> str | LocalDescriptors:
        """What the index is asked with."""
        return self.query.photo.name if self.photo is None else self.photo.descriptors

    @property
    def key(self) -> Key:
        """What the first stage is asked with."""
        return self.query.photo.name if self.vector is None else self.vector

    @property
    def best_probability(self) -> float | None:
        return max((hit.probability for hit in self.hits if hit.probability is not None), default=None)

    def answer(self, config: QueryConfig, *, rank: str, state: int, notes: tuple[str, ...]) -> Answer:
        least = config.min_probability or 0.0
        hits = [hit for hit in self.hits if least == 0 or (hit.probability is not None and hit.probability >= least)]
        return Answer(
            photo=self.query.photo,
            box=self.box,
            descriptors=None if self.photo is None else self.photo.descriptors,
            hits=hits[: config.top],
            best_probability=self.best_probability,
            rank=rank,
            turn=self.turn,
            size=None if self.photo is None else self.photo.size,
            state=state,
            remarks=self.remarks,
            notes=notes,
            extract_seconds=self.extract_seconds,
            search_seconds=self.search_seconds,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """What the searches of a query found.

    Attributes:
        hits: to be verified, best first.
        behind: photos of the first stage that are not ordered anew, in its order.
        own: the archive's own ranking of all its photos, not expanded; none where only some were searched.
        more: the hits behind these whose own scores are known as well.
        scores: own scores by name; None if those of ``hits`` are, or others are to be asked for.
    """

    hits: list[Hit]
    behind: list[Hit] = field(default_factory=list)
    own: list[Hit] = field(default_factory=list)
    more: list[Hit] = field(default_factory=list)
    scores: Mapping[str, float] | None = None
