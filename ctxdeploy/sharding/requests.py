"""What is asked of a part of an archive: one class a kind, and how each is written and read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index import Aggregated, Scoring
from ctxdeploy.sharding.fields import Shape, photo_arrays, read_photos, read_scoring, scoring_facts
from ctxdeploy.sharding.message import (
    MAX_HITS,
    MAX_QUERIES,
    Message,
    ends_of,
    name_arrays,
)

# Prefixes of a restriction, and photos whose words, vectors or features are asked for at once.
MAX_PREFIXES = 1 << 10
MAX_PHOTOS = 1 << 12
# Names of a page of a listing.
PAGE = 1 << 14
_MAX_NUMBER = 1 << 62


class Request(Protocol):
    """One kind of question."""

    kind: ClassVar[str]

    def message(self, shape: Shape) -> Message:
        """Return it as a message."""
        ...

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        """Return what a message asks; ``MessageError`` if it is wrong."""
        ...


@dataclass(frozen=True, kw_only=True)
class Restriction:
    """The photos that may be hits: those whose names begin so, if prefixes are given, and are among ``names``."""

    prefixes: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchRequest:
    """Best photos for combinations of queries.

    Attributes:
        queries: words and codes, each once.
        combinations: places in ``queries`` and what each counts.
        top: hits at most.
        scoring: how is scored.
        among: the photos that may be hits; None for all.
        added: what photos have more, by name, for each combination; None for nothing.
        counts: W int64, photos of the whole archive with each word, where idf needs them; else None.
    """

    kind: ClassVar[str] = "search"
    queries: Sequence[Aggregated]
    combinations: Sequence[Sequence[tuple[int, float]]]
    top: int
    scoring: Scoring
    among: Restriction | None = None
    added: Sequence[Mapping[str, float]] | None = None
    counts: NDArray[np.int64] | None = None

    def message(self, shape: Shape) -> Message:
        terms = [term for combination in self.combinations for term in combination]
        arrays = {
            **photo_arrays(self.queries, shape),
            "terms": np.array([place for place, _ in terms], np.uint32),
            "coefficients": np.array([coefficient for _, coefficient in terms], np.float64),
            "term_ends": ends_of(list(map(len, self.combinations))),
            **_restriction_arrays(self.among),
            **_count_arrays(self.counts),
        }
        facts = {"top": self.top, **scoring_facts(self.scoring), **_restriction_facts(self.among)}
        if self.added is not None:
            arrays |= name_arrays("added", [name for values in self.added for name in values])
            arrays["added_values"] = np.array([v for values in self.added for v in values.values()], np.float64)
            arrays["added_counts"] = ends_of(list(map(len, self.added)))
        return Message(facts=facts, arrays=arrays)

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        queries = read_photos(message, shape)
        terms = message.array("terms", "<u4", None)
        coefficients = message.finite("coefficients", "<f8", len(terms)).tolist()
        if len(terms) and int(terms.max()) >= len(queries):
            raise message.wrong(f"a combination has the query {int(terms.max())} of {len(queries)}")
        ends = message.ends("term_ends", len(terms), most=MAX_QUERIES)
        pairs = list(zip(terms.tolist(), coefficients, strict=True))
        return cls(
            queries=queries,
            combinations=[pairs[a:b] for a, b in pairwise(ends.tolist())],
            top=message.count("top", least=1, most=MAX_HITS),
            scoring=read_scoring(message),
            among=_read_restriction(message),
            added=cls._read_added(message, len(ends) - 1),
            counts=_read_counts(message, shape),
        )

    @staticmethod
    def _read_added(message: Message, combinations: int) -> list[dict[str, float]] | None:
        if "added" not in message.arrays:
            return None
        names = message.names("added", most=MAX_HITS)
        values = message.finite("added_values", "<f8", len(names)).tolist()
        ends = message.ends("added_counts", len(names), least=combinations, most=combinations).tolist()
        return [dict(zip(names[a:b], values[a:b], strict=True)) for a, b in pairwise(ends)]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoresRequest:
    """Scores of some photos for queries.

    Attributes:
        queries: words and codes.
        names: of the photos.
        scoring, counts: as of ``SearchRequest``.
    """

    kind: ClassVar[str] = "scores"
    queries: Sequence[Aggregated]
    names: Sequence[str]
    scoring: Scoring
    counts: NDArray[np.int64] | None = None

    def message(self, shape: Shape) -> Message:
        arrays = {**photo_arrays(self.queries, shape), **name_arrays("names", self.names)}
        return Message(facts=scoring_facts(self.scoring), arrays={**arrays, **_count_arrays(self.counts)})

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        return cls(
            queries=read_photos(message, shape, most=MAX_PHOTOS),
            names=message.names("names", most=MAX_PHOTOS),
            scoring=read_scoring(message),
            counts=_read_counts(message, shape),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _NamesRequest:
    """What is asked of some photos by name."""

    names: Sequence[str]

    def message(self, shape: Shape) -> Message:
        return Message(arrays=name_arrays("names", self.names))

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        return cls(names=message.names("names", most=MAX_PHOTOS))


class StoredRequest(_NamesRequest):
    """Words and codes of photos."""

    kind: ClassVar[str] = "stored"


class VectorsRequest(_NamesRequest):
    """Global vectors of photos."""

    kind: ClassVar[str] = "vectors"


class FeaturesRequest(_NamesRequest):
    """Features of photos, for verification."""

    kind: ClassVar[str] = "features"


class FactsRequest(_NamesRequest):
    """Which photos there are, their sizes, and the states of their files."""

    kind: ClassVar[str] = "facts"


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalRequest:
    """Best photos by global vectors.

    Attributes:
        vectors: Q×D' float32, finite.
        top: hits at most.
        probes: cells to look into; 0 for all photos.
        among: the photos that may be hits; None for all.
    """

    kind: ClassVar[str] = "global"
    vectors: NDArray[np.float32]
    top: int
    probes: int
    among: Restriction | None = None

    def message(self, shape: Shape) -> Message:
        facts = {"top": self.top, "probes": self.probes, **_restriction_facts(self.among)}
        return Message(facts=facts, arrays={"vectors": self.vectors, **_restriction_arrays(self.among)})

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        vectors = message.finite("vectors", "<f4", None, shape.config.global_dim)
        if len(vectors) > MAX_QUERIES:
            raise message.wrong(f"there are {len(vectors)} queries, above {MAX_QUERIES}")
        return cls(
            vectors=vectors,
            top=message.count("top", least=1, most=MAX_HITS),
            probes=message.count("probes", most=1 << 16),
            among=_read_restriction(message),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectRequest:
    """How many photos a restriction leaves, and which of its prefixes and names there are."""

    kind: ClassVar[str] = "select"
    among: Restriction

    def message(self, shape: Shape) -> Message:
        return Message(facts=_restriction_facts(self.among), arrays=_restriction_arrays(self.among))

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        among = _read_restriction(message)
        if among is None:
            raise message.wrong("it restricts nothing")
        return cls(among=among)


@dataclass(frozen=True, kw_only=True, eq=False)
class ListRequest:
    """A page of the names, in the order of the part's shards.

    Attributes:
        shard: of the part, counted from 0, at which the page begins,
        number: and the photo in it, removed ones counted.
    """

    kind: ClassVar[str] = "list"
    shard: int
    number: int

    def message(self, shape: Shape) -> Message:
        return Message(facts={"shard": self.shard, "photo": self.number})

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        return cls(shard=message.count("shard", most=_MAX_NUMBER), number=message.count("photo", most=1 << 16))


@dataclass(frozen=True, kw_only=True, eq=False)
class PrintedRequest:
    """The names, two at most, that are printed as a text."""

    kind: ClassVar[str] = "printed"
    text: str

    def message(self, shape: Shape) -> Message:
        return Message(arrays=name_arrays("text", [self.text]))

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        (*_, text) = ["", *message.names("text", most=1)]
        return cls(text=text)


@dataclass(frozen=True, kw_only=True, eq=False)
class CountsRequest:
    """How many photos have each word, and how many features there are."""

    kind: ClassVar[str] = "counts"

    def message(self, shape: Shape) -> Message:
        return Message()

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        return cls()


def _restriction_facts(among: Restriction | None) -> dict[str, Any]:
    return {"restricted": among is not None, "named": among is not None and among.names is not None}


def _restriction_arrays(among: Restriction | None) -> dict[str, NDArray[Any]]:
    if among is None:
        return {}
    return {**name_arrays("prefixes", among.prefixes), **name_arrays("among", among.names or ())}


def _read_restriction(message: Message) -> Restriction | None:
    if not message.flag("restricted"):
        return None
    names = message.names("among")
    is_named = message.flag("named")
    prefixes = tuple(message.names("prefixes", most=MAX_PREFIXES))
    return Restriction(prefixes=prefixes, names=tuple(names) if is_named else None)


def _count_arrays(counts: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
    return {} if counts is None else {"counts": counts.astype(np.uint32)}


def _read_counts(message: Message, shape: Shape) -> NDArray[np.int64] | None:
    if "counts" not in message.arrays:
        return None
    return message.array("counts", "<u4", shape.words).astype(np.int64)
