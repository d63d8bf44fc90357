"""From a query to its answer: describe, search, expand, verify, judge, and turn where nothing was found upright.

local                                     search of all ─┐
global-then-local   global search ─ search of the first ─┴─ expand ─ verify ─ judge
global              global search
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.text import counted, photo_name, printable
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.index import Hit, Subset
from ctxdeploy.judgement import Judgement, is_usual
from ctxdeploy.query import EXPAND, EXPANDED_FROM, GEOMETRY, GLOBAL, LOCAL, Answer, Query, QueryConfig
from ctxdeploy.querying.first_stage import FirstStage, vector_of
from ctxdeploy.querying.found import Found, Ranking
from ctxdeploy.querying.judging import judged
from ctxdeploy.querying.photo import IndexedPhoto, Photo, indexed_source, photo_source
from ctxdeploy.querying.turning import choose, further_turns
from ctxdeploy.querying.verifying import HitVerifier, PhotoFeatures, ranked_by

if TYPE_CHECKING:
    from ctxdeploy.index import Asked, QueriedIndex
    from ctxdeploy.runtime import Extractor

# Queries that may wait for each other.
MAX_WAITING = 64
# Photos that a remark names.
_NAMED = 3
# What searches for several described queries at once.
Find = Callable[[Sequence[Found]], list[Found]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answerer:
    """What answers queries.

    Attributes:
        index: the archive, in one state.
        name: of the archive, for messages.
        network: returns the model that made it; called when the first photo is to be described.
        judgement: returns that of the archive; called when the first hits are to be judged.
        image_size: returns the longest side in pixels of photos as the model sees them.
        folder: that the names of its photos are paths in; None if there is none, or it is not known.
        files: features of its photos' files.
        among: the photos that may be hits; None for all.
        first: what ranks by global vectors, where that is asked for.
        config: what is asked.
    """

    index: "QueriedIndex"
    name: str
    network: "Callable[[], Extractor]"
    judgement: Callable[[], Judgement]
    image_size: Callable[[], int]
    folder: Path | None
    files: PhotoFeatures
    config: QueryConfig
    among: Subset | None = None
    first: FirstStage | None = None

    @property
    def rank(self) -> str:
        """What orders the answers, one of ``RANKS``."""
        if self.config.rank is not None:
            return self.config.rank
        return LOCAL if self.index.keeps_local else GLOBAL

    def checked(self) -> "Answerer":
        """Return itself; ``ConfigError`` if the archive cannot be asked so."""
        if self.rank == GLOBAL:
            self.config.check_global()
        elif not self.index.keeps_local:
            raise ConfigError(
                f"{self.name} keeps global vectors alone: ask it with --rank {GLOBAL}, or index the photos with a "
                "model that gives local descriptors"
            )
        if self.rank != LOCAL:
            self._first.check(self.config.global_probes)
        return self

    @property
    def _comparison(self) -> HitVerifier:
        return HitVerifier(
            index=self.index,
            name=self.name,
            network=self.network,
            image_size=self.image_size,
            folder=self.folder,
            files=self.files,
            config=self.config,
        )

    @property
    def _first(self) -> FirstStage:
        return self.first or FirstStage(index=self.index, name=self.name, network=self.network)

    def answer(
        self, photo: "Photo | IndexedPhoto", *, deadline: Deadline | None = None, find: Find | None = None
    ) -> Answer:
        """Return the answer to a query.

        Args:
            photo: a photo; a text may name one of the archive, where no file is called so.
            deadline: until when it is wanted; looked at before each step.
            find: what searches, such as one that asks together with other threads; ``self.find`` if None.

        Raises:
            PhotoError: the photo cannot be read, or the box does not lie in it.
            ConfigError: the archive lacks what is asked of it.
            DeadlineError: the deadline was over before.
        """
        search = find or self.find
        described = self.described(photo, deadline)

        def found() -> Found:
            (upright,) = search([described])
            turned = self.turned(upright, deadline)
            return self.best(upright, search(turned)) if turned else upright

        return self.answered(self.index.settled(found))

    def answers(self, photos: "Iterable[Photo | IndexedPhoto]") -> Iterator[Answer | PhotoError]:
        """Yield an answer for each photo, or why there is none, in order.

        Searching for several at once reads every posting once. Where the network is slower than the search, nothing is
        won by that, so an answer waits for others no longer than the last search took.
        """
        waiting: list[Found | PhotoError] = []
        max_wait = 0.0
        since = time.perf_counter()
        for photo in photos:
            try:
                waiting.append(self.described(photo))
            except PhotoError as error:
                waiting.append(error)
            now = time.perf_counter()
            if now - since >= max_wait or len(waiting) >= MAX_WAITING:
                yield from self._in_order(waiting)
                waiting = []
                since = time.perf_counter()
                max_wait = since - now
        yield from self._in_order(waiting)

    def _in_order(self, waiting: Sequence[Found | PhotoError]) -> Iterator[Answer | PhotoError]:
        answerer = self._anew_from_all()
        found = [item for item in waiting if isinstance(item, Found)]
        answers = iter(answerer.index.settled(lambda: answerer._answers(found)))
        for item in waiting:
            yield item if isinstance(item, PhotoError) else next(answers)

    def _anew_from_all(self) -> "Answerer":
        """Return what asks all parts of the archive again, those that failed before included."""
        index = self.index.for_query()
        if index is self.index:
            return self
        first = None if self.first is None else self.first if self.first.is_other else replace(self.first, index=index)
        return replace(self, index=index, among=subset_of(index, self.config), first=first)

    def _answers(self, queries: Sequence[Found]) -> list[Answer]:
        """Return the answers to described queries, of which some may be asked once more, turned."""
        found = self.find(queries)
        for row, upright in enumerate(found):
            turned = self.turned(upright)
            if turned:
                found[row] = self.best(upright, self.find(turned))
        return [self.answered(one) for one in found]

    def _query(self, photo: "Photo | IndexedPhoto") -> Query:
        """Return what to ask with; a photo of the archive needs its file where it is asked in part, or turned."""
        if isinstance(photo, IndexedPhoto):
            name = photo.name
            if name not in self.index:
                name = self.index.printed_name(name)
            if name not in self.index:
                archive = printable(self.name)
                raise PhotoError(
                    f"{printable(photo.name)}: the archive holds no photo of this name; see  ctxdeploy names {archive}"
                )
        elif isinstance(photo, str) and not _is_there(photo) and (name := photo_name(photo)) in self.index:
            pass
        else:
            return Query(photo=photo_source(photo))
        stored = self.config.box is None and self.config.turn != "all"
        if self.rank != LOCAL and stored and name not in self._first.index:
            raise PhotoError(f"{printable(name)}: {self._first.name} (--global-from) holds no photo of this name")
        return Query(photo=indexed_source(name, self.folder), indexed=stored)

    def described(self, photo: "Photo | IndexedPhoto", deadline: Deadline | None = None) -> Found:
        """Return a query with what the network found in it, or with the name of the photo of the archive that it is.

        Raises:
            PhotoError, DeadlineError: as ``answer``.
        """
        query = self._query(photo)
        return Found(query=query) if query.indexed else self._turned(query, (0,), deadline)[0]

    def turned(self, upright: Found, deadline: Deadline | None = None) -> list[Found]:
        """Return a query that was found upright once more for each turn that is to be asked beside it."""
        # Nothing is ever certain by global vectors.
        turn = "none" if self.rank == GLOBAL or upright.photo is None or not len(self.index) else self.config.turn
        turns = further_turns(upright, turn)
        return self._turned(upright.query, turns, deadline) if turns else []

    def _turned(self, query: Query, turns: tuple[int, ...], deadline: Deadline | None) -> list[Found]:
        extractor, box = self.network(), self.config.box
        start = time.perf_counter()
        try:
            photos = extractor.extract_turned(query.photo, box, turns=turns, deadline=deadline)
        except PhotoError as error:
            path = query.photo.path
            if path is None or query.photo.name == fspath(path) or path.exists():
                raise
            moved = f"ctxdeploy index FOLDER -o {printable(self.name)} --moved"
            raise PhotoError(f"{error}: {path}; if the photos were moved, say where they are with  {moved}") from error
        vectors = self._vectors(query, turns, photos, deadline)
        seconds = (time.perf_counter() - start) / len(turns)
        part = box if box is not None else query.photo.box
        return [
            Found(query=query, box=part, photo=photo, vector=vector, turn=turn, extract_seconds=seconds)
            for turn, photo, vector in zip(turns, photos, vectors, strict=True)
        ]

    def _vectors(
        self, query: Query, turns: tuple[int, ...], photos: Sequence[PhotoDescriptors], deadline: Deadline | None
    ) -> Sequence[NDArray[np.float32] | None]:
        """Return the global vectors that the first stage is asked with."""
        if self.rank == LOCAL:
            return [None] * len(turns)
        if self._first.is_other:
            return self._first.described(query.photo, self.config.box, turns, deadline)
        return [vector_of(photo) for photo in photos]

    def best(self, upright: Found, turned: Sequence[Found]) -> Found:
        """Return what to answer of what was found upright and turned, with the seconds of all."""
        best = choose(upright, turned)
        extract = upright.extract_seconds + sum(item.extract_seconds for item in turned)
        search = upright.search_seconds + sum(item.search_seconds for item in turned)
        return replace(best, extract_seconds=extract, search_seconds=search)

    def answered(self, found: Found) -> Answer:
        """Return the answer to a query that was found."""
        notes = () if self.first is None else self.first.remarks
        state = self.index.manifest.number
        answer = found.answer(self.config, rank=self.rank, state=state, notes=(*notes, *self._left_out()))
        missing = tuple(map(str, self.index.missing))
        return replace(answer, photos=len(self.index), searched=self.index.reached(self.among), missing=missing)

    def _left_out(self) -> tuple[str, ...]:
        """Return what is said of shards that did not answer, and of names to search among that are not there."""
        notes = []
        if missing := self.index.missing:
            searched = self.index.reached(None)
            notes.append(
                f"{counted(len(missing), 'part')} of the shards did not answer ({', '.join(map(str, missing))}): "
                f"{searched:,} of {counted(len(self.index), 'photo')} were searched"
            )
        if self.among is None:
            return tuple(notes)
        notes += [
            f"no photo of the archive has a name that begins with {printable(prefix)}" for prefix in self.among.unused
        ]
        unknown = self.among.unknown
        if unknown:
            names = ", ".join(map(printable, unknown[:_NAMED])) + (", …" if len(unknown) > _NAMED else "")
            notes.append(
                f"{len(unknown):,} of {counted(len(self.config.among), 'name')} to search among not in the archive: "
                f"{names}"
            )
        return tuple(notes)

    def find(self, queries: Sequence[Found]) -> list[Found]:
        """Return described queries with their hits: as many as are wanted, or verified, or needed to judge.

        Each finds what it finds alone; several at once take less time.
        """
        if not queries:
            return []
        start = time.perf_counter()
        found = self._by_global_vectors(queries) if self.rank == GLOBAL else self._by_local_descriptors(queries)
        seconds = (time.perf_counter() - start) / len(queries)
        return [replace(item, search_seconds=seconds) for item in found]

    def _first_hits(self, queries: Sequence[Found], top: int) -> list[list[Hit]]:
        """Return what the first stage finds."""
        first = self._first
        among = self.among if first.index is self.index else subset_of(first.index, self.config)
        return first.search([item.key for item in queries], top, self.config, among)

    def _by_global_vectors(self, queries: Sequence[Found]) -> list[Found]:
        found = self._first_hits(queries, self.config.top)
        return [replace(item, hits=hits) for item, hits in zip(queries, found, strict=True)]

    def _by_local_descriptors(self, queries: Sequence[Found]) -> list[Found]:
        config = self.config
        judgement = self.judgement() if config.is_judged and len(self.index) else None
        most = max(config.top, config.compared)
        asked = self.index.asked([item.asked for item in queries])
        units = None
        if judgement is not None:
            units = [judgement.unit(len(self.index), stored=item.photo is None) for item in queries]
        if self.rank == LOCAL:
            depth = most if judgement is None else max(most, judgement.depth(len(self.index)) + 1)
            rankings = self._searched(asked, most, depth, units)
        else:
            rankings = self._searched_among_first(queries, asked, max(most, config.rerank), units)
        found, compare = [], self._comparison
        for item, ready, ranking in zip(queries, asked, rankings, strict=True):
            verified = compare.verified(item, ranking.hits[: config.compared])
            ranked = [*ranked_by(verified, ranking.hits, config), *ranking.behind][:most]
            ranked = self._with_own_scores(ready, ranked, ranking)
            best = max((hit.score for hit in ranking.own or ranked), default=0.0)
            one = replace(item, hits=ranked, best_score=best, remarks=compare.remarks(verified))
            if judgement is not None:
                around = [] if self.among is None else ranking.own[:most]
                one = judged(one, ranking.own, verified, judgement, self.index, around=around)
            found.append(one)
        return found

    def _searched(
        self, asked: "Sequence[Asked]", most: int, depth: int, units: Sequence[float] | None
    ) -> list[Ranking]:
        """Return what is found among all photos that may be hits, and among all."""
        expand = self._expand()
        # Most of what expansion finds is among twice as many, so that its own scores need not be asked for.
        whole = depth + most if expand and self.among is None else depth
        own = shown = self._search(asked, whole)
        if expand or self.among is not None:
            first = (whole, own) if self.among is None else None
            shown = self._search(asked, most, expand=expand, units=units, among=self.among, first=first)
        pairs = zip(shown, own, strict=True)
        return [Ranking(hits=hits[:most], own=plain[:depth], more=plain[depth:]) for hits, plain in pairs]

    def _searched_among_first(
        self, queries: Sequence[Found], asked: "Sequence[Asked]", most: int, units: Sequence[float] | None
    ) -> list[Ranking]:
        """Return what is found among the first photos of the first stage, and those behind them in its order."""
        firsts = self._first_hits(queries, most)
        if self._first.is_other:
            held = self.index.held_names([hit.name for hits in firsts for hit in hits])
            firsts = [[hit for hit in hits if hit.name in held] for hits in firsts]
        parts = [None] * len(asked) if units is None else [[unit] for unit in units]
        return [self._anew(ready, hits, unit) for ready, hits, unit in zip(asked, firsts, parts, strict=True)]

    def _anew(self, asked: "Asked", hits: list[Hit], units: Sequence[float] | None) -> Ranking:
        """Return the first hits of the first stage, ordered by their local descriptors, and the others."""
        config, expand = self.config, self._expand()
        if not hits:
            return Ranking(hits=[])
        names = [hit.name for hit in hits]
        own = self._search([asked], len(names), among=names)[0]
        scores = {hit.name: hit.score for hit in own}
        known = {hit.name: replace(hit, score=scores.get(hit.name, 0.0)) for hit in hits}
        head, behind = hits[: config.rerank], hits[config.rerank :]
        ranked = [known[hit.name] for hit in head]
        if config.rerank_by != GEOMETRY:
            among = {hit.name for hit in head}
            found = own
            if expand:
                found = self._search([asked], len(among), expand=expand, units=units, among=among)[0]
            first = {hit.name: replace(known[hit.name], score=hit.score) for hit in found if hit.name in among}
            ranked = [*first.values(), *(hit for hit in ranked if hit.name not in first)]
        return Ranking(hits=ranked, behind=[known[hit.name] for hit in behind], scores=scores)

    def _search(
        self,
        asked: "Sequence[Asked]",
        top: int,
        *,
        expand: int = 0,
        units: Sequence[float] | None = None,
        among: Collection[str] | Subset | None = None,
        first: tuple[int, Sequence[list[Hit]]] | None = None,
    ) -> list[list[Hit]]:
        alpha, threshold, idf = self.config.alpha, self.config.threshold, self.config.idf
        return self.index.search_batch(
            asked, top, alpha=alpha, threshold=threshold, idf=idf, expand=expand, units=units, among=among, first=first
        )

    def _expand(self) -> int:
        """Return how many hits ask too."""
        if self.config.expand is not None:
            return self.config.expand
        is_known = self.config.is_judged and len(self.index) >= EXPANDED_FROM
        return EXPAND if is_known or is_usual(self.index) else 0

    def _with_own_scores(self, asked: "Asked", hits: Sequence[Hit], ranking: Ranking) -> list[Hit]:
        """Return hits with their own scores for the query, by which people and judgements know them, not expanded."""
        if not self._expand():
            return list(hits)
        scores = dict(ranking.scores or {hit.name: hit.score for hit in (*ranking.own, *ranking.more)})
        unknown = [hit.name for hit in hits if hit.name not in scores]
        if unknown and ranking.scores is None:
            scores |= {hit.name: hit.score for hit in self._search([asked], len(unknown), among=unknown)[0]}
        return [replace(hit, score=scores.get(hit.name, 0.0)) for hit in hits]


def subset_of(index: "QueriedIndex", config: QueryConfig) -> Subset | None:
    """Return the photos of an archive that may be hits; None for all."""
    if not config.is_restricted:
        return None
    return index.subset(prefixes=config.prefix, names=config.among or None)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long for a path, or in a folder that may not be looked into
        return False
