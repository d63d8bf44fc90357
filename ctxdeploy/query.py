"""Queries to answers from an archive.

A query is a file, the bytes of one, a PIL image or an array, which all go through the decoder of indexed photos; or a
photo of the archive, of which nothing but its stored codes is needed.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.types import Box, LocalDescriptors

if TYPE_CHECKING:
    from ctxdeploy.index import Hit, Index
    from ctxdeploy.runtime import Extractor, PhotoSource

# Queries that may wait for each other.
_MAX_WAITING = 64


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked with.

    Attributes:
        photo: its name, and its file or bytes.
        indexed: ask with what the archive holds of the photo of this name; ``photo`` is not read.
    """

    photo: "PhotoSource"
    indexed: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a query found.

    Attributes:
        photo: the query: its name and file or bytes.
        box: its part that was searched for; None for the whole photo.
        descriptors: of the query; None of a photo of the archive that was asked with its stored codes.
        hits: best first.
        extract_seconds: reading, decoding and network.
        search_seconds: assignment, aggregation and search; of several searched for at once, each its share.
    """

    photo: "PhotoSource"
    box: Box | None
    descriptors: LocalDescriptors | None
    hits: list["Hit"] = field(default_factory=list)
    extract_seconds: float = 0.0
    search_seconds: float = 0.0

    @property
    def is_indexed(self) -> bool:
        """Whether it was asked with what the archive holds."""
        return self.descriptors is None

    def metadata(self) -> dict[str, Any]:
        """Return the answer as ``ctxdeploy query --json`` prints it."""
        return {
            "query": self.photo.name,
            "indexed": self.is_indexed,
            "box": _edges(self.box),
            "results": [{"rank": i + 1, "name": hit.name, "score": hit.score} for i, hit in enumerate(self.hits)],
            "descriptors": None if self.descriptors is None else len(self.descriptors),
            "seconds": {"extract": self.extract_seconds, "search": self.search_seconds},
        }


def _edges(box: Box | None) -> list[float] | None:
    return None if box is None else [box.x0, box.y0, box.x1, box.y1]


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
        check_types(self)
        if self.top < 1:
            raise ConfigError(f"--top {self.top} is not positive: ask for at least one result")


def ask(index: "Index", network: "Callable[[], Extractor]", query: Query, config: QueryConfig) -> Answer:
    """Query an archive.

    Args:
        index: the archive.
        network: returns the model that made the archive; not called for photos of the archive.
        query: what is asked with.
        config: what is asked.

    Raises:
        PhotoError: the photo cannot be read, or the box does not lie in it.
    """
    return _search(index, [_described(network, query, config)], config)[0]


def ask_many(
    index: "Index", network: "Callable[[], Extractor]", queries: Iterable[Query | PhotoError], config: QueryConfig
) -> Iterator[Answer | PhotoError]:
    """Query an archive; yields an answer for each query, or why there is none, in order.

    Searching for several at once reads every posting once. Where the network is slower than the search, nothing is won
    by that, so an answer waits for others no longer than the last search took.
    """
    waiting: list[Answer | PhotoError] = []
    max_wait = 0.0
    since = time.perf_counter()
    for query in queries:
        try:
            waiting.append(query if isinstance(query, PhotoError) else _described(network, query, config))
        except PhotoError as error:
            waiting.append(error)
        now = time.perf_counter()
        if now - since >= max_wait or len(waiting) >= _MAX_WAITING:
            yield from _answered(index, waiting, config)
            waiting = []
            since = time.perf_counter()
            max_wait = since - now
    yield from _answered(index, waiting, config)


def _described(network: "Callable[[], Extractor]", query: Query, config: QueryConfig) -> Answer:
    """Return an answer that has its descriptors, and no hits yet."""
    if query.indexed:
        return Answer(photo=query.photo, box=None, descriptors=None)
    extractor = network()
    start = time.perf_counter()
    descriptors = extractor.extract_one(query.photo, config.box)
    return Answer(
        photo=query.photo,
        box=config.box if config.box is not None else query.photo.box,
        descriptors=descriptors,
        extract_seconds=time.perf_counter() - start,
    )


def _answered(
    index: "Index", waiting: Sequence[Answer | PhotoError], config: QueryConfig
) -> Iterator[Answer | PhotoError]:
    answers = iter(_search(index, [item for item in waiting if isinstance(item, Answer)], config))
    for item in waiting:
        yield item if isinstance(item, PhotoError) else next(answers)


def _search(index: "Index", queries: Sequence[Answer], config: QueryConfig) -> list[Answer]:
    if not queries:
        return []
    start = time.perf_counter()
    found = index.search_batch(
        [query.photo.name if query.descriptors is None else query.descriptors for query in queries],
        config.top,
        alpha=config.alpha,
        threshold=config.threshold,
        idf=config.idf,
    )
    seconds = (time.perf_counter() - start) / len(queries)
    return [replace(query, hits=hits, search_seconds=seconds) for query, hits in zip(queries, found, strict=True)]
