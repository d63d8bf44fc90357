"""A part of an archive's shards, opened alone: what a server of shards searches.

Opening a part reads ``CURRENT``, the manifest, codebook, quantiser, failures and statistics, and of the part's own
shards header, offsets, tombstones and header of the global vectors; files of other shards, and lists of names, are not
looked for. A ``BareIndex`` is all that but shards: what asks the servers needs it.

Counts of photos are those of the whole archive (``len``), and so are idf's statistics, so that scores, hits and the
cells that are looked into are those of the whole. Names that the part does not hold are left out of what is asked, and
of the answer.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.part import Part
from ctxdeploy.core.types import FileState
from ctxdeploy.index.asked import Asked, Query, find_words
from ctxdeploy.index.codebook.aggregation import Aggregated
from ctxdeploy.index.config import Hit, Scoring
from ctxdeploy.index.global_index import checked_probes
from ctxdeploy.index.inputs import as_global
from ctxdeploy.index.maintenance.snapshots import pin_state
from ctxdeploy.index.reader import Reader
from ctxdeploy.index.search import Combination, Searcher
from ctxdeploy.index.searches import are_names
from ctxdeploy.index.storage.manifest import read_pointer
from ctxdeploy.index.storage.pins import Pin
from ctxdeploy.index.storage.positions import PackedFeatures
from ctxdeploy.index.storage.state import State, open_bare_state, open_state
from ctxdeploy.index.storage.statistics import count_words
from ctxdeploy.index.stored import Chosen, aggregated, by_shard
from ctxdeploy.index.subset import Subset


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoFacts:
    """What a shard says of a photo.

    Attributes:
        size: (width, height) in pixels; None where it is not kept or not known.
        file: state of its file as it was indexed; None if it is not known.
    """

    size: tuple[int, int] | None
    file: FileState | None


class _Held(Reader):
    """A state of which some shards are open, held until ``close``.

    Args:
        folder: the archive.
        state: opened.
        threads: of a search, the calling one included.
        pin: holds the state.
    """

    def __init__(self, folder: Path, state: State, threads: int, pin: Pin) -> None:
        super().__init__(folder, state, threads)
        self._pin = pin

    @classmethod
    def _opened(
        cls, path: str | os.PathLike[str], threads: int | None, open_held: Callable[[Path, Pin], State]
    ) -> Self:
        folder, count = Path(path), checked_threads(threads)
        pin = pin_state(folder, None)
        try:
            return cls(folder, open_held(folder, pin), count, pin)
        except BaseException:
            pin.release()
            raise

    def is_newest(self) -> bool:
        """Whether no newer state has been committed, nor another archive put in its place; ``ArchiveError`` if it is
        gone."""
        return read_pointer(self._folder) == self._pin.pointer

    def close(self) -> None:
        """Release the threads, and the state for garbage collection; may be called twice."""
        super().close()
        self._pin.release()


class BareIndex(_Held):
    """A state of an archive without any shard: what asks servers of shards needs of it."""

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, threads: int | None = None) -> Self:
        """Open the state in force without its shards.

        Raises:
            ArchiveError: not an archive, damaged, or of a newer format.
        """
        return cls._opened(path, threads, open_bare_state)

    def asked_with(self, queries: Sequence[Query], stored: Callable[[Sequence[str]], list[Aggregated]]) -> list[Asked]:
        """Return ``asked``; ``stored`` returns words and codes of photos by name."""
        state = self._committed().state
        state.check_local()
        return find_words(state, queries, self._threads, stored, own=True)

    def searching(self, scoring: Scoring, counts: Callable[[], NDArray[np.int64]]) -> Searcher:
        """Return what compares queries with themselves.

        Args:
            scoring: how.
            counts: called where idf needs to know how many photos have each word, and the archive does not say.
        """
        searcher = self._committed()
        if not scoring.idf or not searcher.state.needs_counts:
            return searcher
        return searcher.over(searcher.state.counting(counts()))

    def names_in(self, queries: Any) -> list[str] | None:
        """Return the names of photos that ``search_global`` is asked with; None if that is something else."""
        return [queries] if isinstance(queries, str) else list(queries) if are_names(queries) else None

    def checked_vectors(self, queries: Any) -> NDArray[np.float32]:
        """Return global vectors of queries, Q×D' float32; ``ConfigError`` if they do not fit."""
        return as_global(queries, self.config, "query")

    def checked_probes(self, probes: int | None) -> int:
        """Return into how many cells a search looks, as ``search_global`` takes ``probes``."""
        self.check_keeps_global()
        return checked_probes(self.state, probes)


class IndexPart(_Held):
    """Some shards of a state of an archive. Several threads may call every method at once."""

    # With the counts of words that a search under idf came with last.
    _counted: tuple[bytes, Searcher] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], part: Part, *, threads: int | None = None) -> Self:
        """Open every ``part.count``-th shard of the state in force, the first being the ``part.number``-th of all.

        Raises:
            ArchiveError: not an archive, damaged, or of a newer format.
        """
        return cls._opened(path, threads, partial(open_state, part=part))

    @property
    def photos(self) -> int:
        """Photos of the part."""
        return sum(len(shard) - len(shard.removed) for shard in self.state.shards)

    def held(self, names: Sequence[str]) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
        """Return which of these names the part holds, by their rising places in the list, and shard and number of
        each."""
        places = self._committed().state.find_all(names)
        rows = np.flatnonzero(places[:, 0] >= 0)
        return rows, [(int(shard), int(number)) for shard, number in places[rows]]

    def search_part(
        self,
        combinations: Sequence[Combination],
        top: int,
        *,
        scoring: Scoring,
        among: Subset | None = None,
        added: Sequence[Mapping[str, float]] | None = None,
        counts: NDArray[np.int64] | None = None,
    ) -> list[list[Hit]]:
        """Return the best photos of the part for combinations of queries; see ``Searcher.search_combined``.

        Args:
            combinations: of queries that fit the codebook, and what each counts.
            top: hits at most.
            scoring: how words and codes are compared.
            among: the photos that may be hits, as ``subset`` returns them; None for all.
            added: what photos have more, by name, for each combination.
            counts: W int64, photos of the whole archive with each word: for idf where the archive stores none.
        """
        searcher = self.searching(scoring, counts)
        state = searcher.state
        chosen = None
        if among is not None:
            chosen = Chosen(state, among.photos, sum(map(len, combinations)), self._threads)
        more = None
        if added is not None:
            more = [self._numbered_here(one) for one in added]
        return searcher.search_combined(
            combinations, top, scoring=scoring, threads=self._threads, among=chosen, added=more
        )

    def scores_part(
        self,
        queries: Sequence[Aggregated],
        names: Sequence[str],
        *,
        scoring: Scoring,
        counts: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return which of some photos the part holds, M places in the list, and their scores for queries, Q×M."""
        searcher = self.searching(scoring, counts)
        rows, places = self.held(names)
        chosen = Chosen(searcher.state, by_shard(searcher.state, places), len(queries), self._threads)
        found = searcher.matrix(queries, chosen, scoring=scoring, threads=self._threads)
        return rows, np.ascontiguousarray(found[:, np.array([chosen.column(place) for place in places], np.int64)])

    def stored_part(self, names: Sequence[str]) -> tuple[NDArray[np.int64], list[Aggregated]]:
        """Return which of some photos the part holds, and their words and codes."""
        rows, places = self.held(names)
        return rows, aggregated(self.state, places, self._threads)

    def vectors_part(self, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return which of some photos the part holds, M, and their global vectors, M×D' float32."""
        rows, _ = self.held(names)
        return rows, self.global_vectors([names[row] for row in rows.tolist()])

    def packed_part(self, names: Sequence[str]) -> tuple[NDArray[np.int64], list[PackedFeatures]]:
        """Return which of some photos the part holds with features, and these as they stand in their shards."""
        rows, places = self.held(names)
        found = [self.state.shards[shard].packed_features(number) for shard, number in places]
        return (rows if self.config.keeps("positions") else rows[:0]), [one for one in found if one is not None]

    def facts_part(self, names: Sequence[str]) -> tuple[NDArray[np.int64], list[PhotoFacts]]:
        """Return which of some photos the part holds, and what is known of each."""
        rows, places = self.held(names)
        return rows, [
            PhotoFacts(size=self._size_at((shard, number)), file=self.state.shards[shard].file(number))
            for shard, number in places
        ]

    def word_counts(self) -> NDArray[np.int64]:
        """Return how many photos of the part have each word, W int64."""
        return count_words(self._committed().state.shards, self.state.manifest.words)

    def searching(self, scoring: Scoring, counts: NDArray[np.int64] | None) -> Searcher:
        """Return what searches so, with idf's statistics of the whole archive; see ``search_part``."""
        searcher = self._committed()
        if not scoring.idf or counts is None or not searcher.state.needs_counts:
            return searcher
        key = hashlib.sha256(counts.tobytes()).digest()
        known = self._counted
        if known is None or known[0] != key:
            known = self._counted = (key, searcher.over(searcher.state.counting(counts)))
        return known[1]

    def _numbered_here(self, values: Mapping[str, float]) -> dict[int, float]:
        """Return values of those photos that the part holds, by their numbers in the state."""
        rows, places = self.held(list(values))
        given: list[Any] = list(values.values())
        bases = self.state.bases
        return {
            int(bases[shard]) + number: given[row] for row, (shard, number) in zip(rows.tolist(), places, strict=True)
        }
