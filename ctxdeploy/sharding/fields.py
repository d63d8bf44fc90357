"""What messages carry: words and codes, hits, features, as arrays, and back, checked against the archive."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index import (
    Aggregated,
    Hit,
    IndexConfig,
    Manifest,
    PackedFeatures,
    Scoring,
    check_aggregated,
)
from ctxdeploy.sharding.message import MAX_HITS, MAX_QUERIES, Message, ends_of, name_arrays

_WORD = {True: "<u2", False: "<u4"}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of an archive decides what fits it.

    Attributes:
        words: W; 0 without a codebook.
        dim: D.
        config: of the archive.
    """

    words: int
    dim: int
    config: IndexConfig

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        return cls(words=manifest.words, dim=manifest.dim, config=manifest.config)

    @property
    def code_columns(self) -> int:
        return -(-self.dim // 64) if self.config.binary else self.dim

    @property
    def code_dtype(self) -> str:
        return "<u8" if self.config.binary else "<f4"

    @property
    def word_dtype(self) -> str:
        return _WORD[self.words <= 1 << 16]


def scoring_facts(scoring: Scoring) -> dict[str, Any]:
    """Return how is scored; ``read_scoring`` reads it."""
    return {"alpha": float(scoring.alpha), "threshold": float(scoring.threshold), "idf": scoring.idf}


def read_scoring(message: Message) -> Scoring:
    """Return how is scored; ``MessageError`` if it is out of range."""
    values = {"alpha": message.number("alpha"), "threshold": message.number("threshold")}
    try:
        return Scoring(**values, idf=message.flag("idf"))
    except ConfigError as error:
        raise message.wrong(str(error)) from error


def photo_arrays(photos: Sequence[Aggregated], shape: Shape) -> dict[str, NDArray[Any]]:
    """Return words and codes of photos or queries; ``read_photos`` reads them. 18 bytes a word at 128 dimensions."""
    nothing = np.empty((0, shape.code_columns), shape.code_dtype)
    return {
        "words": np.concatenate([np.empty(0, np.int32), *(photo.words for photo in photos)]).astype(shape.word_dtype),
        "word_ends": ends_of([len(photo.words) for photo in photos]),
        "codes": np.concatenate([nothing, *(photo.codes for photo in photos)]),
    }


def read_photos(message: Message, shape: Shape, *, most: int = MAX_QUERIES) -> list[Aggregated]:
    """Return words and codes that the archive could hold; ``MessageError`` for others."""
    words = message.array("words", shape.word_dtype, None).astype(np.int32)
    ends = message.ends("word_ends", len(words), most=most)
    codes = message.array("codes", shape.code_dtype, len(words), shape.code_columns)
    parts = zip(np.split(words, ends[1:-1]), np.split(codes, ends[1:-1]), strict=True)
    photos = [Aggregated(words=some, codes=theirs) for some, theirs in parts][: len(ends) - 1]
    for photo in photos:
        try:
            check_aggregated(photo, words=shape.words, dim=shape.dim, binary=shape.config.binary, name="photo")
        except ConfigError as error:
            raise message.wrong(str(error)) from error
    return photos


def hit_arrays(found: Sequence[Sequence[Hit]]) -> dict[str, NDArray[Any]]:
    """Return hits of several searches; ``read_hits`` reads them."""
    scores = np.array([hit.score for hits in found for hit in hits], np.float64)
    ends = ends_of([len(hits) for hits in found])
    return {**name_arrays("hits", [hit.name for hits in found for hit in hits]), "scores": scores, "hit_ends": ends}


def read_hits(message: Message, searches: int, top: int) -> list[list[Hit]]:
    """Return the hits of so many searches, at most ``top`` each."""
    scores = message.finite("scores", "<f8", None)
    names = message.names("hits", most=MAX_HITS * max(searches, 1))
    if len(names) != len(scores):
        raise message.wrong(f"there are {len(names)} names of hits, but {len(scores)} scores")
    ends = message.ends("hit_ends", len(scores), least=searches, most=searches)
    if len(ends) > 1 and int(np.diff(ends).max()) > top:
        raise message.wrong(f"there are {int(np.diff(ends).max())} hits, above {top}")
    hits = list(map(Hit, names, scores.tolist()))
    return [hits[a:b] for a, b in pairwise(ends.tolist())]


def feature_arrays(found: Sequence[PackedFeatures], shape: Shape) -> dict[str, NDArray[Any]]:
    """Return features of photos as their shards hold them; ``read_features`` reads them."""
    columns = _feature_columns(shape)
    arrays = {
        name: np.concatenate([np.empty((0, *width), dtype), *(getattr(one, name) for one in found)])
        for name, (dtype, width) in columns.items()
    }
    single = {
        name: np.array([getattr(one, name) for one in found], dtype).reshape(len(found), width)
        for name, (dtype, width) in _photo_columns(shape).items()
    }
    return {**arrays, **single, "feature_ends": ends_of([len(one.words) for one in found])}


def read_features(message: Message, shape: Shape, count: int) -> list[PackedFeatures]:
    """Return the features of so many photos; ``MessageError`` if they are none of the archive."""
    columns = _feature_columns(shape)
    words = message.array("words", "<u2", None)
    ends = message.ends("feature_ends", len(words), least=count, most=count).tolist()
    if len(words) and int(words.max()) >= shape.words:
        raise message.wrong(f"a feature has the word {int(words.max())}, but there are {shape.words}")
    arrays = {name: message.array(name, dtype, len(words), *width) for name, (dtype, width) in columns.items()}
    single = {name: message.array(name, dtype, count, width) for name, (dtype, width) in _photo_columns(shape).items()}
    found = []
    for row, (begin, end) in enumerate(pairwise(ends)):
        part = {name: array[begin:end] for name, array in arrays.items()}
        if bool((part["words"][1:] < part["words"][:-1]).any()):
            raise message.wrong("the words of features do not rise")
        found.append(PackedFeatures(**part, **{name: array[row] for name, array in single.items()}))
    return found


def _feature_columns(shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    columns: dict[str, tuple[str, tuple[int, ...]]] = {
        "words": ("<u2", ()),
        "positions": ("<u2", (2,)),
        "scales": ("<f2", ()),
    }
    if shape.config.keeps("codes"):
        columns["codes"] = ("<u8", (-(-shape.dim // 64),))
    if shape.config.keeps("descriptors"):
        columns |= {"vectors": ("|i1", (shape.dim,)), "steps": ("<f4", ())}
    return columns


def _photo_columns(shape: Shape) -> dict[str, tuple[str, int]]:
    sizes = {"size": ("<u4", 2)} if shape.config.keeps("codes") else {}
    return {"frame": ("<f4", 4), **sizes}
