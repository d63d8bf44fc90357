"""Queries to rankings: of the archive, of it and an archive of distractors together, and by global descriptors."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.archive import check_model
from ctxdeploy.core.errors import MismatchError
from ctxdeploy.core.extras import require
from ctxdeploy.evaluation.dataset import Query
from ctxdeploy.evaluation.pooling import pooled
from ctxdeploy.evaluation.store import QueryCache

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Bundle
    from ctxdeploy.index import Index

# Queries searched at once, and photos ranked for them all: a hit takes 0.1 KB.
_TOGETHER, _MOST_HITS = 64, 2_000_000
# Settings of an archive that change no score.
_INDIFFERENT = ("shard_images", "geometry")


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
        ArchiveError: no archive, or damaged.
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
    settings = [{k: v for k, v in i.config.metadata().items() if k not in _INDIFFERENT} for i in (index, distractors)]
    check_codebook(distractors, index.codebook.id)
    if settings[0] != settings[1]:
        raise MismatchError(
            f"--distractors {distractors.path} has other settings than {index.path} ({settings[1]}, {settings[0]}): "
            "make both with the same"
        )


def asmk_rankings(
    index: "Index", distractors: "Index | None", queries: Sequence[Query], store: QueryCache
) -> Iterator[tuple[Query, list[Ranked]]]:
    """Yield every photo that shares something with a query, best first, with the archive's default settings.

    A photo's score depends on it and the query alone, so that two archives are merged into what one would answer: by
    score, then by name (its bytes).
    """
    together = max(1, min(_TOGETHER, _MOST_HITS // max(len(index), 1)))
    for start in range(0, len(queries), together):
        group = queries[start : start + together]
        vectors = [store.descriptors(query) for query in group]
        for query, asked, hits in zip(group, vectors, index.search_batch(vectors, max(len(index), 1)), strict=True):
            ranked = [Ranked(hit.name, hit.score) for hit in hits]
            if distractors is not None:
                # One query at a time: all of a million photos, for each query, do not fit into memory.
                others = distractors.search(asked, max(len(distractors), 1))
                ranked += [Ranked(hit.name, hit.score, True) for hit in others]
                ranked.sort(key=_order)
            yield query, ranked


def global_rankings(
    names: Sequence[str], queries: Sequence[Query], store: QueryCache
) -> Iterator[tuple[Query, list[Ranked]]]:
    """Yield all photos that have a global descriptor by their inner product with the query's; equal ones by name.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    faiss = require("faiss", "eval")
    found = store.global_descriptors(names)
    if not found:
        yield from ((query, []) for query in queries)
        return
    ordered = list(found)
    matrix = np.ascontiguousarray(np.stack(list(found.values())))
    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(matrix)
    for query in queries:
        vector = pooled(store.descriptors(query))
        yield query, [] if vector is None else _found(index.search(vector[np.newaxis], len(ordered)), ordered)


def _found(result: tuple[NDArray[np.float32], NDArray[np.int64]], names: Sequence[str]) -> list[Ranked]:
    scores, places = result
    ranked = [Ranked(names[int(p)], float(s)) for s, p in zip(scores[0], places[0], strict=True) if p >= 0]
    return sorted(ranked, key=_order)


def _order(ranked: Ranked) -> tuple[float, bytes, bool]:
    return -ranked.score, ranked.name.encode("utf-8", "surrogateescape"), ranked.distractor
