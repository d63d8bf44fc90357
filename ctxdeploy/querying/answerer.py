"""From a query to its answer: describe, search, expand, verify, judge, and turn where nothing was found upright."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.text import counted, photo_name, printable, printed_names
from ctxdeploy.core.types import Box, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Features, Hit, SearchThreads, rank
from ctxdeploy.judgement import LINKS, Judgement, is_usual
from ctxdeploy.query import EXPAND, EXPANDED_FROM, Answer, Query, QueryConfig
from ctxdeploy.querying.photo import IndexedPhoto, Photo, indexed_source, photo_source
from ctxdeploy.querying.turning import choose, further_turns
from ctxdeploy.querying.verifying import NO_MAP, PhotoFeatures, Verified, verify_hits

if TYPE_CHECKING:
    from ctxdeploy.index import Asked, Index
    from ctxdeploy.runtime import Extractor

# Queries that may wait for each other.
_MAX_WAITING = 64
# Photos that a remark names.
_NAMED = 3
_OTHERWISE = "compare their files with --verify-from photos; or leave out --verify-by"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """A query on its way to its answer.

    Attributes:
        query: what is asked with.
        box: its part.
        photo: what the network found in it; None for a photo of the archive.
        turn: by which it was turned for that.
        hits: so far, best first.
        best_score: the first hit's own score, before any expansion.
        remarks: what the user may not expect.
        extract_seconds, search_seconds: as in ``Answer``.
    """

    query: Query
    box: Box | None = None
    photo: PhotoDescriptors | None = None
    turn: int = 0
    hits: list[Hit] = field(default_factory=list)
    best_score: float = 0.0
    remarks: tuple[str, ...] = ()
    extract_seconds: float = 0.0
    search_seconds: float = 0.0

    @property
    def asked(self) -> str | LocalDescriptors:
        """What the index is asked with."""
        return self.query.photo.name if self.photo is None else self.photo.descriptors

    @property
    def best_probability(self) -> float | None:
        return max((hit.probability for hit in self.hits if hit.probability is not None), default=None)

    def answer(self, config: QueryConfig) -> Answer:
        least = config.min_probability or 0.0
        hits = [hit for hit in self.hits if least == 0 or (hit.probability is not None and hit.probability >= least)]
        return Answer(
            photo=self.query.photo,
            box=self.box,
            descriptors=None if self.photo is None else self.photo.descriptors,
            hits=hits[: config.top],
            best_probability=self.best_probability,
            turn=self.turn,
            remarks=self.remarks,
            extract_seconds=self.extract_seconds,
            search_seconds=self.search_seconds,
        )


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
        config: what is asked.
    """

    index: "Index"
    name: str
    network: "Callable[[], Extractor]"
    judgement: Callable[[], Judgement]
    image_size: Callable[[], int]
    folder: Path | None
    files: PhotoFeatures
    config: QueryConfig

    def answer(self, photo: "Photo | IndexedPhoto") -> Answer:
        """Return the answer to a query.

        Args:
            photo: a photo; a text may name one of the archive, where no file is called so.

        Raises:
            PhotoError: the photo cannot be read, or the box does not lie in it.
            ConfigError: the archive lacks what is asked of it.
        """
        return self._answers([self._described(photo)])[0]

    def answers(self, photos: "Iterable[Photo | IndexedPhoto]") -> Iterator[Answer | PhotoError]:
        """Yield an answer for each photo, or why there is none, in order.

        Searching for several at once reads every posting once. Where the network is slower than the search, nothing is
        won by that, so an answer waits for others no longer than the last search took.
        """
        waiting: list[_Found | PhotoError] = []
        max_wait = 0.0
        since = time.perf_counter()
        for photo in photos:
            try:
                waiting.append(self._described(photo))
            except PhotoError as error:
                waiting.append(error)
            now = time.perf_counter()
            if now - since >= max_wait or len(waiting) >= _MAX_WAITING:
                yield from self._in_order(waiting)
                waiting = []
                since = time.perf_counter()
                max_wait = since - now
        yield from self._in_order(waiting)

    def _in_order(self, waiting: Sequence[_Found | PhotoError]) -> Iterator[Answer | PhotoError]:
        answers = iter(self._answers([item for item in waiting if isinstance(item, _Found)]))
        for item in waiting:
            yield item if isinstance(item, PhotoError) else next(answers)

    def _query(self, photo: "Photo | IndexedPhoto") -> Query:
        """Return what to ask with; a photo of the archive needs its file where it is asked in part, or turned."""
        if isinstance(photo, IndexedPhoto):
            name = photo.name
            if name not in self.index:
                name = printed_names([name], self.index.names()).get(name, name)
            if name not in self.index:
                archive = printable(self.name)
                raise PhotoError(
                    f"{printable(photo.name)}: the archive holds no photo of this name; see  ctxdeploy names {archive}"
                )
        elif isinstance(photo, str) and (name := photo_name(photo)) in self.index and not _is_there(photo):
            pass
        else:
            return Query(photo=photo_source(photo))
        stored = self.config.box is None and self.config.turn != "all"
        return Query(photo=indexed_source(name, self.folder), indexed=stored)

    def _described(self, photo: "Photo | IndexedPhoto") -> _Found:
        query = self._query(photo)
        if query.indexed:
            return _Found(query=query)
        return self._turned(query, (0,))[0]

    def _turned(self, query: Query, turns: tuple[int, ...]) -> list[_Found]:
        extractor, box = self.network(), self.config.box
        start = time.perf_counter()
        try:
            photos = extractor.extract_turned(query.photo, box, turns=turns)
        except PhotoError as error:
            path = query.photo.path
            if path is None or query.photo.name == fspath(path) or path.exists():
                raise
            moved = f"ctxdeploy index FOLDER -o {printable(self.name)} --moved"
            raise PhotoError(f"{error}: {path}; if the photos were moved, say where they are with  {moved}") from error
        seconds = (time.perf_counter() - start) / len(turns)
        part = box if box is not None else query.photo.box
        return [
            _Found(query=query, box=part, photo=photo, turn=turn, extract_seconds=seconds)
            for turn, photo in zip(turns, photos, strict=True)
        ]

    def _answers(self, queries: Sequence[_Found]) -> list[Answer]:
        """Return the answers to described queries, which may be asked once more, turned."""
        found = self._find(queries)
        turns = [() if item.photo is None else further_turns(item, self.config.turn) for item in found]
        if len(self.index):
            for row, more in enumerate(turns):
                if more:
                    found[row] = self._best_turn(found[row], more)
        return [item.answer(self.config) for item in found]

    def _best_turn(self, upright: _Found, turns: tuple[int, ...]) -> _Found:
        turned = self._find(self._turned(upright.query, turns))
        best = choose(upright, turned)
        extract = upright.extract_seconds + sum(item.extract_seconds for item in turned)
        search = upright.search_seconds + sum(item.search_seconds for item in turned)
        return replace(best, extract_seconds=extract, search_seconds=search)

    def _find(self, queries: Sequence[_Found]) -> list[_Found]:
        """Return queries with their hits: as many as are wanted, or verified, or needed to judge."""
        if not queries:
            return []
        config, start = self.config, time.perf_counter()
        judgement = self.judgement() if config.is_judged and len(self.index) else None
        most, expand = max(config.top, config.verify), self._expand()
        depth = most if judgement is None else max(most, judgement.depth(len(self.index)) + 1)
        asked = self.index.asked([item.asked for item in queries])
        own = self._search(asked, depth)
        units = None
        if judgement is not None:
            units = [judgement.unit(len(self.index), stored=item.photo is None) for item in queries]
        shown = self._search(asked, most, expand=expand, units=units) if expand else own
        found = []
        for item, ready, plain, hits in zip(queries, asked, own, shown, strict=True):
            verified = self._verified(item, hits[: config.verify])
            ranked = self._with_own_scores(ready, _ranked(hits, verified, config)[:most], plain)
            if judgement is not None:
                ranked = self._judged(item, ranked, plain, verified, judgement)
            best = plain[0].score if plain else 0.0
            found.append(replace(item, hits=ranked, best_score=best, remarks=self._remarks(verified)))
        seconds = (time.perf_counter() - start) / len(queries)
        return [replace(item, search_seconds=seconds) for item in found]

    def _search(
        self,
        asked: "Sequence[Asked]",
        top: int,
        *,
        expand: int = 0,
        units: Sequence[float] | None = None,
        among: Collection[str] | None = None,
    ) -> list[list[Hit]]:
        alpha, threshold, idf = self.config.alpha, self.config.threshold, self.config.idf
        return self.index.search_batch(
            asked, top, alpha=alpha, threshold=threshold, idf=idf, expand=expand, units=units, among=among
        )

    def _expand(self) -> int:
        """Return how many hits ask too."""
        if self.config.expand is not None:
            return self.config.expand
        is_known = self.config.is_judged and len(self.index) >= EXPANDED_FROM
        return EXPAND if is_known or is_usual(self.index) else 0

    def _verified(self, item: _Found, hits: Sequence[Hit]) -> Verified:
        if not hits:
            return Verified()
        names = [hit.name for hit in hits]
        files = self._files(names, item)
        photos = {name: files[name] if name in files else self.index.features(name) for name in names}
        query = self._features(item, files)
        if query is None or all(photo is None for photo in photos.values()):
            otherwise = "compare their files with --verify-from photos"
            if self.config.verify_from == "photos":  # and none of them could be read
                otherwise = f"say where their files are now:  ctxdeploy index FOLDER -o {self.name} --moved"
            raise self.index.keeps_too_little("positions", "--verify", otherwise=otherwise)
        wanted = self.config.verification.matches
        if wanted in ("codes", "descriptors") and not _have(wanted, [query, *photos.values()]):
            raise self.index.keeps_too_little(wanted, f"--verify-by {wanted}", otherwise=_OTHERWISE)
        turn = (360 - item.turn) // 90 % 4
        config = replace(self.config.verification, turn=turn, image_size=self.image_size())
        verified = verify_hits(query, photos, config, _threads(), part=item.box)
        gone = [name for name in names if name not in files] if self.config.verify_from == "photos" else []
        unknown = sum(name not in verified.by_name for name in gone)
        return replace(verified, missing=tuple(gone), unknown=unknown)

    def _files(self, names: list[str], item: _Found) -> dict[str, Features]:
        """Return the features of photos' files, by name, and of the query's if it is of the archive."""
        if self.config.verify_from != "photos":
            return {}
        asked = names if item.photo is not None else [*names, item.query.photo.name]
        return self.files.of(asked, self.folder, self.index, self.network)

    def _features(self, item: _Found, files: Mapping[str, Features]) -> Features | None:
        if item.photo is not None:
            return self.index.features(item.photo.descriptors, size=item.photo.size)
        name = item.query.photo.name
        return files[name] if name in files else self.index.features(name)

    def _with_own_scores(self, asked: "Asked", hits: Sequence[Hit], own: Sequence[Hit]) -> list[Hit]:
        """Return hits with their own scores for the query, by which people and judgements know them, not expanded."""
        if not self._expand():
            return list(hits)
        scores = {hit.name: hit.score for hit in own}
        unknown = [hit.name for hit in hits if hit.name not in scores]
        if unknown:
            scores |= {hit.name: hit.score for hit in self._search([asked], len(unknown), among=unknown)[0]}
        return [replace(hit, score=scores.get(hit.name, 0.0)) for hit in hits]

    def _judged(
        self, item: _Found, hits: Sequence[Hit], own: Sequence[Hit], verified: Verified, judgement: Judgement
    ) -> list[Hit]:
        """Return hits with their probabilities: by their own scores, by their inliers, by the hits that they match."""
        if not hits:
            return []
        names = [hit.name for hit in hits]
        stored = item.photo is None
        ranking = [hit.score for hit in own if not (stored and hit.name == item.query.photo.name)]
        links = self.index.scores(names[:LINKS], names)
        links[np.arange(len(links)), np.arange(len(links))] = 0.0
        found = np.zeros(len(hits))
        kinds = [verified.matches.get(name, "") for name in names]
        for kind in set(kinds):
            inliers = [-1 if hit.verification is None else hit.verification.inliers for hit in hits]
            probabilities = judgement.probabilities(
                np.array([hit.score for hit in hits]),
                photos=len(self.index),
                ranking=np.array(ranking),
                stored=stored,
                inliers=np.array(inliers, np.int64) if kind else None,
                matches=kind or "codes",
                links=links,
                turned=item.turn != 0,
            )
            found = np.where(np.array([other == kind for other in kinds]), probabilities, found)
        return [replace(hit, probability=float(value)) for hit, value in zip(hits, found, strict=True)]

    def _remarks(self, verified: Verified) -> tuple[str, ...]:
        if not verified.missing:
            return ()
        where = "no folder of the photos is known" if self.folder is None else f"not in {self.folder}, or unreadable"
        names = ", ".join(map(printable, verified.missing[:_NAMED])) + (", …" if len(verified.missing) > _NAMED else "")
        kept = "what the archive keeps of them was"
        if verified.unknown:
            kept += f", but of {verified.unknown:,} it keeps nothing, and they lose places to what was compared"
        return (
            f"the files of {counted(len(verified.missing), 'result')} could not be compared ({where}): {names}; {kept}",
        )


def _ranked(hits: Sequence[Hit], verified: Verified, config: QueryConfig) -> list[Hit]:
    """Return hits in the order of their scores and of what was verified."""
    known = verified.by_name
    if not known:
        return list(hits)
    first = [known.get(hit.name) or NO_MAP for hit in hits[: config.verify]]
    ranked = rank(hits, first, config.verification)
    return [replace(hit, verification=known.get(hit.name)) for hit in ranked]


def _have(kind: str, features: Iterable[Features | None]) -> bool:
    """Return whether all features that are known have descriptors, or codes."""
    known = [one for one in features if one is not None]
    return all((one.vectors if kind == "descriptors" else one.codes) is not None for one in known)


@cache
def _threads() -> SearchThreads:
    """Return the threads that verify, for all archives of this process."""
    return SearchThreads(checked_threads(None))


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long for a path, or in a folder that may not be looked into
        return False
