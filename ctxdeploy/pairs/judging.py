"""Pairs compared by geometry, and how sure each is."""

from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.archive import has_model, open_model
from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.index import SearchThreads, Verification, VerificationConfig, verify
from ctxdeploy.judgement import Judgement
from ctxdeploy.pairs.columns import Columns

if TYPE_CHECKING:
    from ctxdeploy.index import Features, Index

# Photos whose features are kept in memory: 32 KB each at 1000 features with codes.
_CACHED = 2048


def matches_of(index: "Index") -> str:
    """Return what features of an archive's photos are matched by: the best that it keeps.

    Raises:
        ConfigError: it keeps no positions.
    """
    index.check_keeps("positions", "--verify")
    kept = index.config.geometry
    return "words" if kept == "positions" else kept


def verifications(
    index: "Index", names: list[str], pairs: Columns, matches: str, display: Display
) -> Iterator[tuple[NDArray[np.int64], list[Verification]]]:
    """Compare pairs by what the archive keeps of their features, each from its first photo to its second.

    Args:
        index: the archive.
        names: of its photos, by number.
        pairs: in any order.
        matches: see ``matches_of``.
        display: where progress goes.

    Yields:
        Places of pairs of one first photo, and what was found of each.
    """
    config = VerificationConfig(matches=matches)
    if has_model(index.path):
        size = open_model(index.path, check_hashes=False).preprocessing.image_size
        config = VerificationConfig(matches=matches, image_size=size)

    @lru_cache(_CACHED)
    def features(photo: int) -> "Features":
        found = index.features(names[photo])
        if found is None:
            raise ConfigError(f"{index.path} keeps no positions of {names[photo]!r}: index it again with --geometry")
        return found

    threads = SearchThreads(checked_threads(None))
    with closing(threads), display.progress("verify", len(pairs.first), "pairs") as progress:
        for photo, places in _groups(pairs.first):
            others = [features(int(other)) for other in pairs.second[places]]
            yield places, verify(features(photo), others, config, threads)
            progress.advance(len(places))


def _groups(owners: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each photo and the places where it stands, by rising photo."""
    order = np.argsort(owners, kind="stable")
    cuts = np.flatnonzero(np.diff(owners[order])) + 1
    for places in np.split(order, cuts) if len(order) else []:
        yield int(owners[places[0]]), places


class Judge:
    """Says how sure it is that two photos show the same.

    Args:
        judgement: of the archive.
        levels: N float64, of each photo that was asked the score at ``depth``; NaN where it has fewer hits, or where
            not all photos of the archive could be hits.
        asked: N, which photos were asked.
        matches: what features were matched by, where pairs were compared.
    """

    def __init__(
        self, judgement: Judgement, levels: NDArray[np.float64], asked: NDArray[np.bool_], matches: str
    ) -> None:
        self._judgement, self._levels, self._asked, self._matches = judgement, levels, asked, matches
        self._photos = len(levels)

    def probabilities(self, pairs: Columns) -> NDArray[np.float64]:
        """Return the probability of each pair, the higher one of the two photos' points of view."""
        found = np.zeros(len(pairs.first))
        for owners in (pairs.first, pairs.second):
            for photo, places in _groups(owners):
                if self._asked[photo]:
                    np.maximum.at(found, places, self._of(photo, pairs.at(places)))
        return found

    def _of(self, photo: int, pairs: Columns) -> NDArray[np.float64]:
        level = self._levels[photo]
        ranking = None if np.isnan(level) else np.full(self._judgement.depth(self._photos), level)
        return self._judgement.probabilities(
            pairs.scores,
            photos=self._photos,
            ranking=ranking,
            stored=True,
            inliers=pairs.inliers.astype(np.int64),
            matches=self._matches,
        )
