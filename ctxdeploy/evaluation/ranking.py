"""Queries to rankings, of one archive or of two together, in each framework; and the file that takes them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np

from ctxdeploy.archive import check_model
from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.errors import MismatchError
from ctxdeploy.core.files import replacing
from ctxdeploy.core.text import json_text
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.evaluation.dataset import Query
from ctxdeploy.evaluation.frameworks import Method
from ctxdeploy.evaluation.published import GLOBAL, LOCAL
from ctxdeploy.evaluation.query_cache import QueryCache
from ctxdeploy.evaluation.reranking import Reranking
from ctxdeploy.index import Hit, SearchThreads, refined_scores
from ctxdeploy.judgement import judge_archive
from ctxdeploy.query import GEOMETRY
from ctxdeploy.querying.first_stage import vector_of

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Bundle
    from ctxdeploy.index import Index

# Queries searched at once, and photos ranked for them all: a hit takes 0.1 KB.
_MAX_QUERIES, _MAX_HITS = 64, 2_000_000
# Settings of an archive that change no score.
_WITHOUT_EFFECT = ("shard_images", "geometry")
_GLOBAL = ("global_vectors", "global_dim")


class Ranked(NamedTuple):
    """A photo of a ranking; a distractor may be named like a photo of the database."""

    name: str
    score: float
    distractor: bool = False


def open_distractors(path: Path, bundle: "Bundle") -> "Index":
    """Open an archive of distractors for reading.

    Args:
        path: its folder.
        bundle: that must have made it.

    Raises:
        MismatchError: another model or preprocessing, or settings that make scores depend on all photos.
        ArchiveError: it is not an archive, or damaged.
    """
    from ctxdeploy.index import Index

    index = Index.open(path)
    try:
        if index.source is None:
            raise MismatchError(f"--distractors {path} does not say which model made it: index the photos again")
        check_model(index, bundle)
        if index.config.idf:
            raise MismatchError(
                f"--distractors {path} weighs words by rarity, which depends on all photos of an archive: make it "
                "without"
            )
    except BaseException:
        index.close()
        raise
    return index


def check_codebook(distractors: "Index", codebook: str) -> None:
    """Raise ``MismatchError`` unless the distractors' archive has the codebook of this id."""
    if not distractors.keeps_local:
        raise MismatchError(f"--distractors {distractors.path} keeps global vectors alone: say --rank global")
    if distractors.codebook.id != codebook:
        raise MismatchError(
            f"--distractors {distractors.path} was made with codebook {distractors.codebook.id}, the evaluation uses "
            f"{codebook}: leave out --codebook, or index the distractors with it"
        )


def check_alike(index: "Index", distractors: "Index", *, with_global: bool) -> None:
    """Raise ``MismatchError`` unless two archives give a photo the same score, by global vectors as well if asked."""
    without = _WITHOUT_EFFECT if with_global else (*_WITHOUT_EFFECT, *_GLOBAL)
    settings = [{k: v for k, v in i.config.metadata().items() if k not in without} for i in (index, distractors)]
    if index.keeps_local:
        check_codebook(distractors, index.codebook.id)
    if settings[0] != settings[1]:
        raise MismatchError(
            f"--distractors {distractors.path} has other settings than {index.path} ({settings[1]}, {settings[0]}): "
            "make both with the same"
        )


def asmk_rankings(
    index: "Index",
    distractors: "Index | None",
    queries: Sequence[Query],
    cache: QueryCache,
    reranking: Reranking,
    seconds: list[float],
) -> Iterator[tuple[Query, list[Ranked]]]:
    """Yield every photo that shares something with a query, best first, with the archive's default settings.

    A photo's score depends on it and the query alone, so that two archives are merged into what one would answer: by
    score, then by name (its bytes). Where hits ask too, or are verified, there are no distractors.
    """
    threads = SearchThreads(checked_threads(None))
    unit = judge_archive(index).unit(len(index)) if reranking.expand else None
    together = max(1, min(_MAX_QUERIES, _MAX_HITS // max(len(index), 1)))
    for start in range(0, len(queries), together):
        group = queries[start : start + together]
        vectors = [cache.photo(query).descriptors for query in group]
        start_search = time.perf_counter()
        units = None if unit is None else [unit] * len(vectors)
        found = index.search_batch(vectors, max(len(index), 1), expand=reranking.expand, units=units)
        share = (time.perf_counter() - start_search) / len(group)
        for query, asked, hits in zip(group, vectors, found, strict=True):
            start_rest = time.perf_counter()
            final = reranking.ranked(index, asked, hits, threads, part=query.box)
            ranked = [Ranked(hit.name, hit.score) for hit in final]
            if distractors is not None:
                # One query at a time: all of a million photos, for each query, do not fit into memory.
                others = distractors.search(asked, max(len(distractors), 1))
                ranked += [Ranked(hit.name, hit.score, True) for hit in others]
                ranked.sort(key=_order)
            seconds.append(share + time.perf_counter() - start_rest)
            yield query, ranked


def rankings(
    method: Method,
    index: "Index",
    distractors: "Index | None",
    queries: Sequence[Query],
    cache: QueryCache,
    seconds: list[float],
) -> Iterator[tuple[Query, list[Ranked]]]:
    """Yield what a method finds for each query; ``seconds`` takes what its searches took, without the network."""
    if method.rank == GLOBAL:
        return global_rankings(index, distractors, queries, cache, seconds, method.refine)
    if method.rank == LOCAL:
        return asmk_rankings(index, distractors, queries, cache, method.reranking, seconds)
    return two_stage_rankings(method, index, distractors, queries, cache, seconds)


def global_rankings(
    index: "Index",
    distractors: "Index | None",
    queries: Sequence[Query],
    cache: QueryCache,
    seconds: list[float],
    refine: int = 0,
) -> Iterator[tuple[Query, list[Ranked]]]:
    """Yield all photos by the inner products of their global vectors with the query's; equal ones by name.

    The first ``refine`` of them are then ordered by vectors that are refined by their neighbours; scores stay.
    """
    for query in queries:
        start = time.perf_counter()
        ranked = _globally(index, distractors, cache.photo(query), refine)
        seconds.append(time.perf_counter() - start)
        yield query, ranked


def two_stage_rankings(
    method: Method,
    index: "Index",
    distractors: "Index | None",
    queries: Sequence[Query],
    cache: QueryCache,
    seconds: list[float],
) -> Iterator[tuple[Query, list[Ranked]]]:
    """Yield all photos by global vectors, the first of them ordered anew by local descriptors.

    Scores are those of ASMK, and 0 of the photos that are not ordered anew, or share nothing with the query.
    """
    threads = SearchThreads(checked_threads(None))
    unit = judge_archive(index).unit(len(index)) if method.reranking.expand else None
    for query in queries:
        photo = cache.photo(query)
        start = time.perf_counter()
        ranked = _globally(index, distractors, photo, method.refine)
        head, behind = ranked[: method.rerank], ranked[method.rerank :]
        if method.rerank_by == GEOMETRY:
            hits = [Hit(place.name, place.score) for place in head]
            ordered = method.reranking.by_geometry(index, photo.descriptors, hits, threads, part=query.box)
            anew = [Ranked(hit.name, 0.0) for hit in ordered]
        else:
            anew = _by_asmk(method, index, distractors, query, photo, head, unit, threads)
        seconds.append(time.perf_counter() - start)
        yield query, [*anew, *(place._replace(score=0.0) for place in behind)]


def _globally(index: "Index", distractors: "Index | None", photo: PhotoDescriptors, refine: int = 0) -> list[Ranked]:
    vector = vector_of(photo)
    asked = vector[np.newaxis]
    ranked = [Ranked(hit.name, hit.score) for hit in index.search_global(asked, max(len(index), 1))[0]]
    if distractors is not None:
        others = distractors.search_global(asked, max(len(distractors), 1))[0]
        ranked += [Ranked(hit.name, hit.score, True) for hit in others]
        ranked.sort(key=_order)
    first = ranked[:refine]
    if not first:
        return ranked
    vectors = np.empty((len(first), len(vector)), np.float32)
    for archive in (index, distractors):
        rows = [row for row, place in enumerate(first) if place.distractor == (archive is not index)]
        if archive is not None and rows:
            vectors[rows] = archive.global_vectors([first[row].name for row in rows])
    order = np.argsort(-refined_scores(vector, vectors), kind="stable")
    return [*(first[place] for place in order), *ranked[refine:]]


def _by_asmk(
    method: Method,
    index: "Index",
    distractors: "Index | None",
    query: Query,
    photo: PhotoDescriptors,
    head: Sequence[Ranked],
    unit: float | None,
    threads: SearchThreads,
) -> list[Ranked]:
    """Return the first photos by ASMK, and then those of them that share nothing with the query, as they were."""
    asked, here = photo.descriptors, [place.name for place in head if not place.distractor]
    hits: list[Hit] = []
    if here:
        units = None if unit is None else [unit]
        hits = index.search_batch([asked], len(here), among=here, expand=method.reranking.expand, units=units)[0]
    found = [
        Ranked(hit.name, hit.score) for hit in method.reranking.ranked(index, asked, hits, threads, part=query.box)
    ]
    there = [place.name for place in head if place.distractor]
    if distractors is not None and there:
        found += [Ranked(hit.name, hit.score, True) for hit in distractors.search(asked, len(there), among=there)]
        found.sort(key=_order)
    known = {(place.name, place.distractor) for place in found}
    return [*found, *(place._replace(score=0.0) for place in head if (place.name, place.distractor) not in known)]


def _order(ranked: Ranked) -> tuple[float, bytes, bool]:
    return -ranked.score, ranked.name.encode("utf-8", "surrogateescape"), ranked.distractor


class RankingsFile:
    """Takes rankings, one JSON object a line, to a file that exists when all of them are in it; a context manager.

    Args:
        path: the file; nothing is written if None.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "RankingsFile":
        if self._path is not None:
            with ExitStack() as stack:
                partial = stack.enter_context(replacing(self._path, advice="choose another --rankings"))
                self._file = stack.enter_context(partial.open("w", encoding="ascii"))
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, query: Query, ranked: Sequence[Ranked], method: str) -> None:
        """Append a ranking."""
        if self._file is None:
            return
        photos = [[photo.name, photo.score, *(["distractor"] if photo.distractor else [])] for photo in ranked]
        self._file.write(json_text({"method": method, "query": query.key, "ranked": photos}) + "\n")
