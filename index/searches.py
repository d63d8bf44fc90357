"""What can be asked of an archive: photos like a query, a stored photo or all of them, and how two photos agree."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.all_pairs import search_all
from ctxdeploy.index.asked import Asked, Query, checked_top, find_words
from ctxdeploy.index.codebook.aggregation import Aggregated
from ctxdeploy.index.config import Hit, Progress
from ctxdeploy.index.expansion import checked_expand, search_expanded
from ctxdeploy.index.global_index import checked_probes, search_global, vectors_of
from ctxdeploy.index.inputs import as_global
from ctxdeploy.index.search import Combination, Searcher
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.stored import Chosen, aggregated, by_shard
from ctxdeploy.index.subset import Subset, select
from ctxdeploy.index.threads import SearchThreads


@dataclass(frozen=True, kw_only=True, eq=False)
class CommonWords:
    """The visual words that a query and a photo share.

    Attributes:
        words: U int32, rising.
        scores: U float64, what each adds to the score; their sum is the score but for rounding.
    """

    words: NDArray[np.int32]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.words)


class Searches(ABC):
    """The questions of a ``Reader``.

    A *query* is an array of n×D descriptors or anything with an attribute ``vectors``; an ``Aggregated`` or an
    ``Asked``; or the name of a stored photo, which is asked with its stored codes, with the same scores as with them
    from outside.

    Args:
        folder: the archive.
        state: opened.
        threads: of a search, the calling one included.
    """

    def __init__(self, folder: Path, state: State, threads: int) -> None:
        self._folder = folder
        self._threads = SearchThreads(threads)
        self._searcher = Searcher(state)

    @abstractmethod
    def _committed(self) -> Searcher:
        """Return what a search goes over; a writer's changes are committed first."""

    def search(
        self,
        query: Query,
        top: int = 10,
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
        among: Collection[str] | Subset | None = None,
        expand: int = 0,
        unit: float | None = None,
    ) -> list[Hit]:
        """Return the best photos for a query, by falling score; equal scores: by name (its bytes).

        Args:
            query: descriptors, an ``Aggregated`` or the name of a stored photo, which then finds itself too.
            top: hits at most; only photos with a score above 0 are hits.
            idf: weigh words by rarity; None for the archive's setting.
            alpha, threshold: of the selectivity s^alpha where s ≥ threshold, else 0; None for the archive's settings.
            among: the photos that may be hits, by name or as ``subset`` returns them; None for all.
            expand: hits that ask too, with their stored codes (``expansion.py``), 0..64. Scores are sums then.
            unit: what unrelated photos may score for the query, above 0: hits above it ask. None for what random codes
                say.

        A writer's changes are committed first. Without descriptors there are no hits. Scores do not depend on the order
        of addition, on shards, on threads or on other queries of a batch; nor, unless expanded, on ``among``.

        Raises:
            ConfigError: the query does not fit the codebook, or a name is not in the archive.
        """
        units = None if unit is None else [unit]
        return self.search_batch(
            [query], top, idf=idf, alpha=alpha, threshold=threshold, among=among, expand=expand, units=units
        )[0]

    def search_batch(
        self,
        queries: Sequence[Query],
        top: int = 10,
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
        among: Collection[str] | Subset | None = None,
        expand: int = 0,
        units: Sequence[float] | None = None,
        first: tuple[int, Sequence[list[Hit]]] | None = None,
    ) -> list[list[Hit]]:
        """As ``search`` for several queries, with the same hits; from 32 on, a posting is read once for all of them.

        ``units`` are the unit of each. ``first``: so many hits at most of each that such a search without ``expand``
        found: where these are enough to expand by, it is not done again.
        """
        scoring = self._searcher.state.manifest.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        wanted, count = checked_top(top), checked_expand(expand)
        searcher = self._committed()
        ready = self._asked(searcher.state, queries, own=count > 0)
        chosen = self._chosen(searcher.state, among, len(ready) * (1 + count))

        def search(
            combinations: Sequence[Combination], top: int, added: Sequence[Mapping[str, float]] | None
        ) -> list[list[Hit]]:
            more = None if added is None else [self._numbered(searcher.state, one) for one in added]
            return searcher.search_combined(
                combinations, top, scoring=scoring, threads=self._threads, among=chosen, added=more
            )

        return search_expanded(
            ready,
            min(wanted, max(len(searcher.state), 1)),
            count,
            units=units,
            first=first,
            scoring=scoring,
            searcher=searcher,
            search=search,
            stored=partial(self._stored, searcher.state),
        )

    def asked(self, queries: Sequence[Query]) -> list[Asked]:
        """Return queries with their words and codes, which every search finds anew otherwise: 5 to 20 ms each."""
        return self._asked(self._committed().state, queries, own=True)

    def subset(self, *, prefixes: Sequence[str] = (), names: Sequence[str] | None = None) -> Subset:
        """Return the photos whose names begin with one of the prefixes, if any are given, and are among ``names``.

        It serves searches of the state in force. What the archive does not hold is left out, and said in the result.
        """
        return select(self._committed().state, prefixes, names)

    def search_combined(
        self,
        combinations: Sequence[Sequence[tuple[Query, float]]],
        top: int = 10,
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
        among: Collection[str] | Subset | None = None,
    ) -> list[list[Hit]]:
        """As ``search_batch``, each search for several queries at once.

        Args:
            combinations: for each search its queries and what each counts. A photo's score is the sum of its scores for
                the queries, each times its coefficient: in float64, in this order, over all photos.
            top, idf, alpha, threshold, among: as for ``search``.
        """
        scoring = self._searcher.state.manifest.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        wanted = checked_top(top)
        searcher = self._committed()
        queries = [query for combination in combinations for query, _ in combination]
        ready = iter(self._asked(searcher.state, queries))
        asked = [[(next(ready).query, float(part)) for _, part in combination] for combination in combinations]
        chosen = self._chosen(searcher.state, among, len(queries))
        top = min(wanted, max(len(searcher.state), 1))
        return searcher.search_combined(asked, top, scoring=scoring, threads=self._threads, among=chosen)

    def search_all(
        self,
        top: int = 10,
        *,
        names: Collection[str] | None = None,
        among: Collection[str] | Subset | None = None,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
        progress: Progress | None = None,
    ) -> Iterator[tuple[str, list[Hit]]]:
        """Return the name and hits of stored photos, each asked with its codes and left out of its own hits.

        In the order of the archive. Memory: 34 MB a thread, up to 60 MB for hits of photos whose turn is to come
        (``mirror.py``), and what ``top`` hits of some hundred photos take, however many photos there are.

        Args:
            top: hits at most; more than there are photos gives all with a score above 0.
            names: photos to ask for; None for all.
            among: photos that may be hits; None for all.
            idf, alpha, threshold: as for ``search``.
            progress: called with photos that are done, and of how many.

        Raises:
            ConfigError: a name is not in the archive.
        """
        scoring = self._searcher.state.manifest.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        wanted = checked_top(top)
        searcher = self._committed()
        searcher.state.check_local()
        return search_all(
            searcher,
            min(wanted, max(len(searcher.state), 1)),
            scoring=scoring,
            threads=self._threads,
            asked=self._chosen(searcher.state, names),
            among=self._chosen(searcher.state, among, len(searcher.state if names is None else names)),
            progress=progress,
        )

    def scores(
        self,
        names: Sequence[str],
        others: Sequence[str],
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
    ) -> NDArray[np.float64]:
        """Return the score of each of ``others`` for each of ``names``, len(names)×len(others) float64; 0 for none.

        Those of ``search``, and 1 for a photo and itself, but for rounding.

        Raises:
            ConfigError: a name is not in the archive.
        """
        scoring = self._searcher.state.manifest.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        searcher = self._committed()
        searcher.state.check_local()
        places = self._places(searcher.state, others)
        queries = aggregated(searcher.state, self._places(searcher.state, names), self._threads)
        chosen = Chosen(searcher.state, by_shard(searcher.state, places), len(queries), self._threads)
        columns = np.array([chosen.column(place) for place in places], np.int64)
        found = searcher.matrix(queries, chosen, scoring=scoring, threads=self._threads)
        return np.ascontiguousarray(found[:, columns])

    def aggregated(self, names: Iterable[str]) -> list[Aggregated]:
        """Return words and codes of stored photos, as they were added.

        One photo among 65,536 of a shard takes 5 ms, for the list of each of 65,536 words is looked into; for more of
        them all lists are read once, in 12 ms, and 0.1 ms each. Side by side they take 0.1 ms each, and with geometry,
        where a photo's words are known, 0.3 ms.

        Raises:
            ConfigError: a name is not in the archive.
        """
        state = self._committed().state
        state.check_local()
        return self._stored(state, names)

    def common_words(
        self,
        query: Query,
        name: str,
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
    ) -> CommonWords:
        """Return the visual words that a query shares with a stored photo, and what each adds to the score.

        Raises:
            ConfigError: the query does not fit the codebook, or a name is not in the archive.
        """
        scoring = self._searcher.state.manifest.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        searcher = self._committed()
        searcher.state.check_local()
        (place,) = self._places(searcher.state, [name])
        (photo,) = aggregated(searcher.state, [place], self._threads)
        (asked,) = self._asked(searcher.state, [query])
        words, scores = searcher.parts(asked.query, photo, scoring)
        return CommonWords(words=words, scores=scores)

    def search_global(
        self, queries: Any, top: int = 10, *, among: Collection[str] | Subset | None = None, probes: int | None = None
    ) -> list[list[Hit]]:
        """Return for each query the photos whose global vectors have the largest inner products with its own.

        Args:
            queries: Q×D' float32, or Q names of stored photos, which then find themselves too.
            top: hits at most. A score is the inner product, with vectors of length 1 the cosine, and may be below 0.
            among: the photos that may be hits, as for ``search``, each of which is then compared; None for all.
            probes: cells to look into, in an archive whose ``global_search`` is "ivf"; 0 to compare all photos; None
                for a sixteenth of the cells from 32,768 photos on, and for all photos below.

        By falling score; equal scores: by name (its bytes). A writer's changes are committed first. Hits and scores do
        not depend on the order of addition, on shards, on threads or on other queries of the call.

        Raises:
            ConfigError: the archive keeps no global vectors, a query does not fit them, or a name is not there.
        """
        self.check_keeps_global()
        wanted = checked_top(top)
        state = self._committed().state
        if isinstance(queries, str) or are_names(queries):
            vectors = self._global_vectors(state, [queries] if isinstance(queries, str) else queries)
        else:
            vectors = as_global(queries, state.manifest.config, "query")
        cells = checked_probes(state, probes)
        return search_global(
            state,
            vectors,
            wanted,
            among=None if among is None else self._photos(state, among),
            threads=self._threads,
            probes=cells,
        )

    def global_vectors(self, names: Iterable[str]) -> NDArray[np.float32]:
        """Return the global vectors of stored photos, N×D' float32, as they are kept: fp16 and int8 are rounded.

        Raises:
            ConfigError: the archive keeps no global vectors, or a name is not in the archive.
        """
        self.check_keeps_global()
        return self._global_vectors(self._committed().state, names)

    def _global_vectors(self, state: State, names: Iterable[str]) -> NDArray[np.float32]:
        places = np.array(self._places(state, names), np.int64).reshape(-1, 2)
        return vectors_of(state, state.bases[places[:, 0]] + places[:, 1])

    def check_keeps_global(self) -> None:
        """Raise ``ConfigError`` unless the archive keeps global vectors."""
        if not self._searcher.state.manifest.config.keeps_global:
            raise ConfigError(
                f"{self._folder} keeps no global vectors: make an archive that does with  ctxdeploy index --global"
            )

    def _numbered(self, state: State, values: Mapping[str, float]) -> dict[int, float]:
        """Return values of photos by their numbers in the state."""
        places = self._places(state, values)
        return {int(state.bases[shard]) + n: value for (shard, n), value in zip(places, values.values(), strict=True)}

    def _asked(self, state: State, queries: Sequence[Query], *, own: bool = False) -> list[Asked]:
        state.check_local()
        return find_words(state, queries, self._threads, partial(self._stored, state), own=own)

    def _stored(self, state: State, names: Iterable[str]) -> list[Aggregated]:
        return aggregated(state, self._places(state, names), self._threads)

    def _chosen(self, state: State, among: Collection[str] | Subset | None, queries: int = 1) -> Chosen | None:
        return None if among is None else Chosen(state, self._photos(state, among), queries, self._threads)

    def _photos(self, state: State, among: Collection[str] | Subset) -> Sequence[NDArray[np.int64]]:
        """Return the rising numbers of photos in each shard."""
        if not isinstance(among, Subset):
            return by_shard(state, self._places(state, among))
        if among.state is not state:
            raise ConfigError(f"the photos to search among are those of another state of {self._folder}: choose anew")
        return among.photos

    def no_photo(self, name: object) -> ConfigError:
        """Return the error of a name that the archive does not hold."""
        return ConfigError(
            f"{name!r} is not in {self._folder}:  ctxdeploy names {self._folder}  lists the photos that are"
        )

    def _places(self, state: State, names: Iterable[str]) -> list[tuple[int, int]]:
        """Return shard and number of stored photos."""
        places = []
        for name in [names] if isinstance(names, str) else names:
            place = state.find(name) if isinstance(name, str) else None
            if place is None:
                raise self.no_photo(name)
            places.append(place)
        return places


def are_names(queries: Any) -> bool:
    """Return whether queries are names of photos."""
    return isinstance(queries, (list, tuple)) and len(queries) > 0 and all(isinstance(one, str) for one in queries)
