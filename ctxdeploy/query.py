"""Photos to answers from an archive."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.settings import setting
from ctxdeploy.core.types import Box, LocalDescriptors

if TYPE_CHECKING:
    from ctxdeploy.index import Hit, Index
    from ctxdeploy.runtime import Extractor

# Queries that wait for each other at most.
_TOGETHER = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a query found.

    Attributes:
        photo: the query's file.
        box: its part that was searched for; None for the whole photo.
        hits: best first.
        descriptors: of the query.
        extract_seconds: reading, decoding and network.
        search_seconds: assignment, aggregation and search; of several searched for at once, each its share.
    """

    photo: Path
    box: Box | None
    hits: list["Hit"]
    descriptors: LocalDescriptors
    extract_seconds: float
    search_seconds: float

    def metadata(self) -> dict[str, Any]:
        """Return the answer as ``ctxdeploy query --json`` prints it."""
        box = None if self.box is None else [self.box.x0, self.box.y0, self.box.x1, self.box.y1]
        return {
            "query": str(self.photo),
            "box": box,
            "results": [{"rank": i + 1, "name": hit.name, "score": hit.score} for i, hit in enumerate(self.hits)],
            "descriptors": len(self.descriptors),
            "seconds": {"extract": self.extract_seconds, "search": self.search_seconds},
        }


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """What is asked of an archive.

    Attributes:
        box: the part of a photo to search for; the whole photo if None.
        top: hits at most.
        alpha, threshold, idf: of the scores; None for the archive's settings.
    """

    box: Box | None = setting(
        None, "--box", "Search for this part of the photo (pixels).", metavar="x0,y0,x1,y1", parse=Box.parse
    )
    top: int = setting(10, "--top", "Results of a query.")
    alpha: float | None = setting(
        None, "--alpha", "Selectivity: higher counts close matches more.", default_text="the archive's"
    )
    threshold: float | None = setting(
        None, "--threshold", "Similarities below it count nothing.", default_text="the archive's"
    )
    idf: bool | None = setting(None, "--idf/--no-idf", "Weigh visual words by rarity.", default_text="the archive's")

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"--top {self.top} is not positive: ask for at least one result")


def ask(index: "Index", extractor: "Extractor", photo: Path, config: QueryConfig) -> Answer:
    """Query an archive with a photo.

    Args:
        index: the archive; its model must have been checked against the extractor's.
        extractor: the model.
        photo: the file.
        config: what is asked.

    Raises:
        PhotoError: the photo cannot be read, or the box does not lie in it.
    """
    return _search(index, [_extract(extractor, photo, config)], config)[0]


def ask_many(
    index: "Index", extractor: "Extractor", photos: Iterable[Path], config: QueryConfig
) -> Iterator[Answer | PhotoError]:
    """Query an archive with photos; yields an answer for each, or why it cannot be read, in order.

    Searching for several at once reads every posting once. Where the network is slower than the search, nothing is won
    by that, so an answer waits for others no longer than the last search took.
    """
    waiting: list[_Extracted | PhotoError] = []
    patience = 0.0
    since = time.perf_counter()
    for photo in photos:
        try:
            waiting.append(_extract(extractor, photo, config))
        except PhotoError as error:
            waiting.append(error)
        now = time.perf_counter()
        if now - since >= patience or len(waiting) >= _TOGETHER:
            yield from _answers(index, waiting, config)
            waiting = []
            since = time.perf_counter()
            patience = since - now
    yield from _answers(index, waiting, config)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Extracted:
    photo: Path
    descriptors: LocalDescriptors
    seconds: float


def _extract(extractor: "Extractor", photo: Path, config: QueryConfig) -> _Extracted:
    start = time.perf_counter()
    descriptors = extractor.extract_one(photo, config.box)
    return _Extracted(photo=photo, descriptors=descriptors, seconds=time.perf_counter() - start)


def _answers(
    index: "Index", waiting: Sequence[_Extracted | PhotoError], config: QueryConfig
) -> Iterator[Answer | PhotoError]:
    answers = iter(_search(index, [item for item in waiting if isinstance(item, _Extracted)], config))
    for item in waiting:
        yield item if isinstance(item, PhotoError) else next(answers)


def _search(index: "Index", queries: Sequence[_Extracted], config: QueryConfig) -> list[Answer]:
    if not queries:
        return []
    start = time.perf_counter()
    found = index.search_batch(
        [query.descriptors for query in queries],
        config.top,
        alpha=config.alpha,
        threshold=config.threshold,
        idf=config.idf,
    )
    seconds = (time.perf_counter() - start) / max(len(queries), 1)
    return [
        Answer(
            photo=query.photo,
            box=config.box,
            hits=hits,
            descriptors=query.descriptors,
            extract_seconds=query.seconds,
            search_seconds=seconds,
        )
        for query, hits in zip(queries, found, strict=True)
    ]
