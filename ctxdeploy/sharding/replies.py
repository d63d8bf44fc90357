"""How replies are read: nothing of them is believed before it was checked against the archive and the question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.part import Part
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Aggregated, Features, Hit, PhotoFacts, unpack_features
from ctxdeploy.sharding.envelope import StateKey, read_part
from ctxdeploy.sharding.fields import Shape, read_features, read_hits, read_photos
from ctxdeploy.sharding.message import MAX_NAMES, Message
from ctxdeploy.sharding.requests import PAGE

_MAX_STATES = 1 << 10
_MAX_COUNT = 1 << 62


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """Hits of several searches, and how many of the names that these were restricted to the part holds."""

    hits: list[list[Hit]]
    held: int

    @classmethod
    def read(cls, message: Message, searches: int, top: int) -> Self:
        return cls(hits=read_hits(message, searches, top), held=message.count("held", most=MAX_NAMES))


def read_stored(message: Message, shape: Shape, names: Sequence[str]) -> dict[str, Aggregated]:
    """Return words and codes of those photos that the part holds."""
    rows = message.rows("rows", len(names)).tolist()
    photos = read_photos(message, shape, most=len(names))
    return dict(_paired(message, rows, photos, names))


def read_vectors(message: Message, shape: Shape, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return the global vectors of those photos that the part holds."""
    rows = message.rows("rows", len(names)).tolist()
    vectors = message.array("vectors", "<f4", len(rows), shape.config.global_dim)
    return dict(_paired(message, rows, list(vectors), names))


def read_named_features(message: Message, shape: Shape, names: Sequence[str]) -> dict[str, Features]:
    """Return the features of those photos that the part holds."""
    rows = message.rows("rows", len(names)).tolist()
    return dict(_paired(message, rows, list(map(unpack_features, read_features(message, shape, len(rows)))), names))


def read_facts(message: Message, names: Sequence[str]) -> dict[str, PhotoFacts]:
    """Return what is known of those photos that the part holds."""
    rows = message.rows("rows", len(names)).tolist()
    sizes = message.array("sizes", "<u4", len(rows), 2).tolist()
    files = message.array("files", "<i8", len(rows), 2).tolist()
    facts = [
        PhotoFacts(
            size=(width, height) if width and height else None,
            file=None if size == mtime_ns == -1 else FileState(size=size, mtime_ns=mtime_ns),
        )
        for (width, height), (size, mtime_ns) in zip(sizes, files, strict=True)
    ]
    return dict(_paired(message, rows, facts, names))


def read_scores(message: Message, queries: int, names: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the places of those photos that the part holds, M, and their scores, Q×M."""
    rows = message.rows("rows", names)
    return rows, message.finite("scores", "<f8", queries, len(rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class Selected:
    """What a restriction leaves of a part: how many photos, and places of the names and prefixes that there are."""

    photos: int
    held: NDArray[np.int64]
    used: NDArray[np.int64]

    @classmethod
    def read(cls, message: Message, names: int, prefixes: int) -> Self:
        return cls(
            photos=message.count("photos", most=_MAX_COUNT),
            held=message.rows("held", names),
            used=message.rows("used", prefixes),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """Names, and where the next ones begin: shard of the part and photo in it; None behind the last."""

    names: list[str]
    following: tuple[int, int] | None

    @classmethod
    def read(cls, message: Message, shard: int, number: int) -> Self:
        names = message.names("names", most=PAGE)
        following = message.count("shard", most=_MAX_COUNT), message.count("photo", most=1 << 16)
        if message.flag("is_last"):
            return cls(names=names, following=None)
        if following <= (shard, number):
            raise message.wrong("its page of names does not end behind its begin")
        return cls(names=names, following=following)


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """How many photos of a part have each word, W int64, and how many features there are."""

    words: NDArray[np.int64]
    features: int

    @classmethod
    def read(cls, message: Message, shape: Shape) -> Self:
        words = message.array("counts", "<u4", shape.words).astype(np.int64)
        return cls(words=words, features=message.count("features", most=_MAX_COUNT))


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a server of shards says of itself.

    Attributes:
        part: that it searches.
        states: that it holds, the newest last.
        photos: of the part in the newest.
    """

    part: Part
    states: tuple[StateKey, ...]
    photos: int

    @classmethod
    def read(cls, message: Message) -> Self:
        given: Any = message.facts.get("states")
        if not isinstance(given, list) or len(given) > _MAX_STATES:
            raise message.wrong("it lists no states")
        states = []
        for one in given:
            if not isinstance(one, list) or len(one) != 2 or type(one[0]) is not int or not isinstance(one[1], str):
                raise message.wrong("it lists something other than states")
            states.append(StateKey(number=one[0], sha256=one[1]))
        return cls(part=read_part(message), states=tuple(states), photos=message.count("photos", most=_MAX_COUNT))


def _paired(message: Message, rows: list[int], found: Sequence[Any], names: Sequence[str]) -> list[tuple[str, Any]]:
    if len(rows) != len(found):
        raise message.wrong(f"there are {len(found)} of {len(rows)} photos")
    return [(names[row], one) for row, one in zip(rows, found, strict=True)]
