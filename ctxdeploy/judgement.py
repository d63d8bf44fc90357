"""How sure it is that a hit shows the same as the query: a probability, from an archive's own photos.

Photos that show different things score too, and how much depends on the archive. The scores of stored photos for each
other say it: but for the few best they are of unrelated photos, and they thin out upwards as exp(-(s / s₀)^(1 / c))
(the tail of a Weibull distribution, as Scheirer et al., "Meta-Recognition", PAMI 2011, found for recognition). From it
follows the score that the best of N unrelated photos is expected to have. What counts is how far a hit is above that,
how many of its matches one map explains, and whether it is a match of a hit that is sure.
"""

import heapq
import json
import math
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError, ConfigError, ShardError, StorageError
from ctxdeploy.core.files import checksum, write_file
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import name_bytes

if TYPE_CHECKING:
    from ctxdeploy.index import QueriedIndex

JUDGEMENT = "judgement.json"
FORMAT_NAME = "ctxdeploy-judgement"
FORMAT_VERSION = 1
# A hit of at least this probability is "found". On held-out landmarks 99 % of such hits are right, and 19 of 20 queries
# of something that is not in the archive have none.
FOUND = 0.8
# First hits whose own matches are taken into account, and links from hit to hit that may lead to another. Of landmarks
# that the network was not trained on 0.36 are found at a precision of 0.99, by one link from 5 hits 0.33.
LINKS = 10
_CHAIN = 3
# Stored photos that are asked for, and photos that they are compared with: half a million scores.
SAMPLE, COHORT = 256, 2048

# Shares of a ranking whose scores are fitted. Above them are the photos that do show the same.
_SHARES = (0.05, 0.1, 0.2, 0.3)
# log s₀ and c where little is known: between those of the built-in models. They weigh as much as this many photos. The
# 1000th part of unrelated photos then scores exp(-6.3), and no archive was seen with a third or three times that.
_LEVEL, _SHAPE, _WEIGHT = -9.2, 1.5, 50.0
_MARGIN, _SHAPES = math.log(3), (0.7, 2.5)
_RARE = math.log(math.log(1000))
# By how much the logarithm of unrelated scores rises when descriptors are assigned to five words, not one: 0.40 to 0.48
# on three sets of photos, with a deviation of 0.1 between their photos.
_FIVE_WORDS = 0.42
# How far the scores of a query's own ranking move what is expected of it, at most, in an archive of many photos.
_OWN, _OWN_WEIGHT = 0.5, 100.0
# Of the score that the best of all unrelated photos is expected to have: from it on hits ask. On held-out landmarks 0.6
# and 1 are as good within half a point of mAP, 1.5 loses two.
_ASKING = 0.8
_LEAST = 1e-12
_FEWEST = 100


@dataclass(frozen=True, kw_only=True)
class _Odds:
    """log(p / (1 - p)) = base + height · (log score above the expected best) + matched · log(1 + inliers)."""

    base: float
    height: float
    matched: float = 0.0


# Fitted by benchmarks/judgement.py --fit on landmarks that the network was not trained on; one photo of the same in the
# archive for every second query. By what matched the features; None without verification.
_OUTSIDE: dict[str | None, _Odds] = {
    None: _Odds(base=-1.5, height=4.4),
    "words": _Odds(base=-13.9, height=3.2, matched=3.3),
    "codes": _Odds(base=-13.2, height=3.1, matched=3.1),
    "descriptors": _Odds(base=-7.7, height=2.75, matched=1.8),
}
_STORED: dict[str | None, _Odds] = {
    None: _Odds(base=-2.4, height=3.4),
    "words": _Odds(base=-15.2, height=2.4, matched=3.5),
    "codes": _Odds(base=-14.6, height=2.35, matched=3.4),
    "descriptors": _Odds(base=-9.3, height=2.1, matched=2.1),
}
# By how much log(p / (1 - p)) is lowered for a photo that was turned to be asked: one in twenty lies on its side, and
# three more questions are three more chances for unrelated photos.
_TURNED = 3.0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is known of the scores of unrelated photos in an archive.

    Attributes:
        photos: in the archive when it was fitted.
        sampled: stored photos that were asked for.
        level: log s₀ of a stored photo's scores, -30..10.
        shape: c, 0.1..10.
        low, high: how far below (at most 0) and above (at least 0) the others the photos of a ranking commonly are, in
            log score.
        query_words: words per descriptor of a query from outside, 1..64.
    """

    photos: int
    sampled: int
    level: float
    shape: float
    low: float
    high: float
    query_words: int

    def __post_init__(self) -> None:
        counts = (("photos", 0, math.inf), ("sampled", 0, math.inf), ("query_words", 1, 64))
        numbers = (("level", -30.0, 10.0), ("shape", 0.1, 10.0), ("low", -10.0, 0.0), ("high", 0.0, 10.0))
        for kind, ranges in ((int, counts), (float, numbers)):
            for name, least, most in ranges:
                value = getattr(self, name)
                if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
                    raise ConfigError(f"{name} of a judgement is {value!r}, not in {least:g}..{most:g}")

    @classmethod
    def fit(cls, scores: NDArray[np.float64], *, photos: int, query_words: int = 5, usual: bool = True) -> "Judgement":
        """Learn from the scores of stored photos for each other.

        Args:
            scores: M×C, of C photos drawn at random for each of M stored photos; NaN where a photo meets itself.
            photos: in the archive.
            query_words: words per descriptor of a query from outside.
            usual: the archive is of a built-in model and scores as by default (binary, alpha 3, threshold 0, no idf),
                so that what is known of other archives says something about this one.

        Few photos say little: then what is known of other archives counts more. Photos that show the same do little
        harm as long as they are fewer than a twentieth; in an archive of one thing alone what unrelated photos score is
        taken to be three times what is usual, and not more.
        """
        rows = [row[~np.isnan(row)] for row in scores]
        tops = [_at_shares(row) for row in rows if len(row)]
        weight = photos / (photos + _WEIGHT) if usual else 1.0
        level, shape = _LEVEL, _SHAPE
        low = high = 0.0
        if tops:
            table = np.array(tops)
            found = _line(np.median(table, axis=0))
            if found is not None:
                shape = _clipped(weight * found[1] + (1 - weight) * _SHAPE, *_SHAPES)
                rare = found[0] + found[1] * _RARE
                if usual:
                    known = _LEVEL + _SHAPE * _RARE
                    rare = _clipped(weight * rare + (1 - weight) * known, known - _MARGIN, known + _MARGIN)
                level = rare - shape * _RARE
                first = table[:, 0] - np.median(table[:, 0])
                low, high = (
                    weight * float(np.clip(np.quantile(first, q), -math.log(2), math.log(2))) for q in (0.1, 0.9)
                )
        return cls(
            photos=photos,
            sampled=len(tops),
            level=round(float(level), 6),
            shape=round(float(shape), 6),
            low=round(min(low, 0.0), 6),
            high=round(max(high, 0.0), 6),
            query_words=query_words,
        )

    def is_stale(self, photos: int) -> bool:
        """Return whether an archive has more than a fifth more or fewer photos than it had when it was judged."""
        return abs(photos - self.photos) > 0.2 * self.photos

    @staticmethod
    def depth(photos: int) -> int:
        """Return how many hits of a query's ranking are needed, itself left out, 5..50; see ``ranking`` below."""
        return min(max(round(0.025 * photos), 5), 50)

    def expected_best(self, photos: int, *, stored: bool = False) -> float:
        """Return the score that the best of N unrelated photos is expected to have for a query.

        Args:
            photos: N; 100 are assumed where they are fewer, since one photo of ten may well look like another.
            stored: the query is asked with an archived photo's codes.
        """
        return math.exp(self._level(stored) + self.shape * math.log(math.log(max(photos, _FEWEST))))

    def unit(self, photos: int, *, stored: bool = False) -> float:
        """Return what a hit has to score to ask too, as ``Searches.search`` takes it; see ``expected_best``."""
        return _ASKING * self.expected_best(photos, stored=stored)

    def probabilities(
        self,
        scores: NDArray[np.float64],
        *,
        photos: int,
        ranking: NDArray[np.float64] | None = None,
        stored: bool = False,
        inliers: NDArray[np.int64] | None = None,
        matches: str = "codes",
        links: NDArray[np.float64] | None = None,
        turned: bool = False,
    ) -> NDArray[np.float64]:
        """Return the probability of each hit that it shows the same as the query, H float64, 0..1.

        It rises with a hit's score and its inliers, and few inliers do not lower it: a part of a photo has few
        features, and no one map explains a scene in relief. Scores are those of the search itself, as the archive is
        set, not of expansion, which gives a photo the scores of others.

        Args:
            scores: H, of the hits, best first or in any other order.
            photos: in the archive now.
            ranking: the query's best scores in the archive by falling score, itself left out, ``depth`` of them or
                more: a query that scores high with everything is expected to. None if they are not known.
            stored: the query is asked with an archived photo's codes, not with descriptors.
            inliers: H, of the hits' verifications, -1 for a hit that was not verified; None if none was.
            matches: what matched the features: ``words``, ``codes`` or ``descriptors``.
            links: L×H, the scores of the hits for each of the first L of them, asked as stored photos, 0 for itself.
                What is a match of a hit is a match of the query, as surely as both: the best of these products counts,
                where it is more than the hit's own, over up to 3 links. None if they are not known.
            turned: the query was turned by a quarter or more, to be tried that way too.
        """
        table = _STORED if stored else _OUTSIDE
        height = self.heights(scores, photos=photos, ranking=ranking, stored=stored)
        logits = _logits(table[None], height)
        if inliers is not None:
            counted = np.asarray(inliers, np.float64)
            verified = _logits(table[matches], height, np.log1p(np.maximum(counted, 0)))
            logits = np.where(counted >= 0, np.maximum(verified, logits), logits)
        found = _probability(logits - _TURNED if turned else logits)
        if links is not None and len(links):
            height = self.heights(links[: len(found)], photos=photos, stored=True)
            link = _probability(_logits(_STORED[None], height))
            for _ in range(_CHAIN):
                found = np.maximum(found, (found[: len(link), np.newaxis] * link).max(axis=0))
        return found

    def heights(
        self,
        scores: NDArray[np.float64],
        *,
        photos: int,
        ranking: NDArray[np.float64] | None = None,
        stored: bool = False,
    ) -> NDArray[np.float64]:
        """Return by how much the logarithms of scores are above that of the expected best; see ``probabilities``."""
        expected = math.log(self.expected_best(photos, stored=stored)) + self._own(ranking, photos, stored)
        heights: NDArray[np.float64] = np.log(np.maximum(np.asarray(scores, np.float64), _LEAST)) - expected
        return heights

    def _level(self, stored: bool) -> float:
        more = 0.0 if stored else _FIVE_WORDS * math.log(self.query_words) / math.log(5)
        return self.level + more

    def _own(self, ranking: NDArray[np.float64] | None, photos: int, stored: bool) -> float:
        """Return by how much the logarithm of what unrelated photos score is above the usual, for this query."""
        depth = self.depth(photos)
        if ranking is None or len(ranking) < depth or photos <= 2 * depth:
            return 0.0
        usual = self._level(stored) + self.shape * math.log(math.log(photos / depth))
        above = math.log(max(float(ranking[depth - 1]), _LEAST)) - usual
        return _OWN * photos / (photos + _OWN_WEIGHT) * _clipped(above, self.low, self.high)

    def save(self, archive: Path) -> None:
        """Store it with an archive, durably.

        Raises:
            StorageError: the archive cannot be written.
        """
        facts = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, **asdict(self)}
        text = json.dumps({**facts, "checksum": checksum(facts)}) + "\n"
        write_file(archive / JUDGEMENT, [text.encode("ascii")])

    @classmethod
    def load(cls, archive: Path) -> "Judgement | None":
        """Return what ``save`` stored; None if there is nothing.

        Raises:
            ArchiveError: it is damaged, or of another version.
        """
        path = archive / JUDGEMENT
        try:
            facts: Any = json.loads(read_regular(path, 1 << 16).decode("ascii"))
            if (facts["format"], facts["format_version"]) != (FORMAT_NAME, FORMAT_VERSION):
                raise ValueError("format is another one")
            if facts["checksum"] != checksum(facts):
                raise ValueError("checksum is not that of its content")
            return cls(**{field.name: facts[field.name] for field in fields(cls)})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArchiveError(f"{path} is damaged: the next run of  ctxdeploy index  makes it anew") from error


def judge_archive(index: "QueriedIndex") -> Judgement:
    """Fit an archive's judgement from its stored codes: no photo and no network is needed.

    The photos that are compared are drawn by a hash of their names, so that the same photos give the same judgement.
    """
    names = heapq.nsmallest(COHORT, index.names(), key=_drawn)
    scores = index.scores(names[:SAMPLE], names) if names else np.empty((0, 0))
    np.fill_diagonal(scores, np.nan)
    return Judgement.fit(scores, photos=len(index), query_words=index.config.query_assignment, usual=is_usual(index))


def is_usual(index: "QueriedIndex") -> bool:
    """Return whether what is known of the built-in models' archives says something about this one."""
    config, source = index.config, index.source
    if not config.binary or config.idf or (config.alpha, config.threshold) != (3.0, 0.0):
        return False
    return source is not None and source.model in _built_in_ids()


@lru_cache(maxsize=1)
def _built_in_ids() -> frozenset[str]:
    from ctxdeploy.core import bundle as bundles
    from ctxdeploy.models import built_in
    from ctxdeploy.models.table import BUILT_IN

    return frozenset(bundles.open(built_in(name), check_hashes=False).model_id for name in BUILT_IN)


def judgement_of(index: "QueriedIndex", *, keep: bool = True) -> Judgement:
    """Return the judgement that an archive has; if it has none, a damaged one, or one of other photos: fit it.

    Args:
        index: the archive.
        keep: store with the archive what had to be fitted, if it can be written.
    """
    try:
        found = Judgement.load(index.path)
    except ArchiveError:
        found = None
    if found is None or found.is_stale(len(index)):
        try:
            found = judge_archive(index)
        except ShardError:  # not all parts of the shards can be asked
            if found is None:
                raise
            return found
        if keep and len(index):
            with suppress(StorageError):  # it is fitted anew when it is needed
                found.save(index.path)
    return found


class LatestJudgement:
    """The judgement of the state that was asked last, kept for later queries. Any thread may ask.

    Args:
        keep: as in ``judgement_of``.
    """

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        # By all of the manifest: another archive in the place of this one may have the same number.
        self._found: tuple[Any, Judgement] | None = None

    def of(self, index: "QueriedIndex") -> Judgement:
        """Return the judgement of an archive's state."""
        manifest, found = index.manifest, self._found
        if found is None or found[0] != manifest:
            found = self._found = (manifest, judgement_of(index, keep=self._keep))
        return found[1]


def _drawn(name: str) -> tuple[int, str]:
    return zlib.crc32(name_bytes(name)), name


def _at_shares(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of the scores that the given shares of a photo's scores reach; NaN for a score of 0."""
    ranks = [max(round(share * len(row)), 1) for share in _SHARES]
    falling = -np.sort(-row)
    with np.errstate(divide="ignore"):
        logs = np.log(falling[[rank - 1 for rank in ranks]])
    found: NDArray[np.float64] = np.where(np.isfinite(logs), logs, math.log(_LEAST))
    return found


def _line(logs: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the level and the shape of a tail from the logarithms of its scores at the shares; None if two lack."""
    x = [math.log(math.log(1 / share)) for share in _SHARES]
    points = [(a, float(b)) for a, b in zip(x, logs, strict=True) if b > math.log(1e-9)]
    if len(points) < 2:
        return None
    mean_x = math.fsum(a for a, _ in points) / len(points)
    mean_y = math.fsum(b for _, b in points) / len(points)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in points) / math.fsum((a - mean_x) ** 2 for a, _ in points)
    return mean_y - slope * mean_x, slope


def _logits(odds: _Odds, height: NDArray[np.float64], matched: Any = 0.0) -> NDArray[np.float64]:
    logits: NDArray[np.float64] = odds.base + odds.height * height + odds.matched * matched
    return logits


def _probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return found


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
