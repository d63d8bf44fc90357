"""Queries to rankings, of one archive, of two together, and by global descriptors; and the file that takes them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.archive import check_model
from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.errors import MismatchError
from ctxdeploy.core.extras import require
from ctxdeploy.core.files import replacing
from ctxdeploy.core.text import json_text
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.evaluation.dataset import Query
from ctxdeploy.evaluation.query_cache import QueryCache, pooled
from ctxdeploy.evaluation.reranking import Reranking
from ctxdeploy.index import SearchThreads
from ctxdeploy.judgement import judge_archive

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Bundle
    from ctxdeploy.index import Index

# Queries searched at once, and photos ranked for them all: a hit takes 0.1 KB.
_MAX_QUERIES, _MAX_HITS = 64, 2_000_000
# Settings of an archive that change no score.
_WITHOUT_EFFECT = ("shard_images", "geometry")


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
    if distractors.codebook.id != codebook:
        raise MismatchError(
            f"--distractors {distractors.path} was made with codebook {distractors.codebook.id}, the evaluation uses "
            f"{codebook}: leave out --codebook, or index the distractors with it"
        )


def check_alike(index: "Index", distractors: "Index") -> None:
    """Raise ``MismatchError`` unless two archives give a photo the same score."""
    settings = [
        {k: v for k, v in i.config.metadata().items() if k not in _WITHOUT_EFFECT} for i in (index, distractors)
    ]
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
        vectors = [cache.descriptors(query) for query in group]
        units = None if unit is None else [unit] * len(vectors)
        found = index.search_batch(vectors, max(len(index), 1), expand=reranking.expand, units=units)
        for query, asked, hits in zip(group, vectors, found, strict=True):
            final = reranking.ranked(index, asked, hits, threads, part=query.box)
            ranked = [Ranked(hit.name, hit.score) for hit in final]
            if distractors is not None:
                # One query at a time: all of a million photos, for each query, do not fit into memory.
                others = distractors.search(asked, max(len(distractors), 1))
                ranked += [Ranked(hit.name, hit.score, True) for hit in others]
                ranked.sort(key=_order)
            yield query, ranked


def global_rankings(
    names: Sequence[str], queries: Sequence[Query], cache: QueryCache
) -> Iterator[tuple[Query, list[Ranked]]]:
    """Yield all photos that have a global descriptor by their inner product with the query's; equal ones by name.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    faiss = require("faiss", "eval")
    found = cache.global_descriptors(names)
    if not found:
        yield from ((query, []) for query in queries)
        return
    ordered = list(found)
    matrix = np.ascontiguousarray(np.stack(list(found.values())))
    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(matrix)
    for query in queries:
        vector = pooled(PhotoDescriptors(name=query.key, descriptors=cache.descriptors(query)))
        yield query, [] if vector is None else _found(index.search(vector[np.newaxis], len(ordered)), ordered)


def _found(result: tuple[NDArray[np.float32], NDArray[np.int64]], names: Sequence[str]) -> list[Ranked]:
    scores, places = result
    ranked = [Ranked(names[int(p)], float(s)) for s, p in zip(scores[0], places[0], strict=True) if p >= 0]
    return sorted(ranked, key=_order)


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
