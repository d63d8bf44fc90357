"""Average precision and precision at k of rankings, and ground truth by scenes (``gnd.json``).

The figures are those of the Revisited Oxford and Paris evaluation, bit by bit.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import printable, short

GROUND_TRUTH = "gnd.json"
DEPTHS = (1, 5, 10)
# A million photos with names of fifty letters.
MAX_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Which photos answer a query.

    Attributes:
        positives: photos that show the same; a query without any is not scored.
        junk: photos that are taken out of the ranking before ranks are counted.
    """

    positives: tuple[str, ...]
    junk: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class QueryScore:
    """How well one query was answered.

    Attributes:
        average_precision: 0 to 1.
        precision: by depth k, among the first min(k, rank of the last positive) photos, 0 to 1.
        ranks: of the positives that were ranked, from 0, junk taken out.
    """

    average_precision: float
    precision: Mapping[int, float]
    ranks: tuple[int, ...]


def score_query(ranked: Iterable[str], relevance: Relevance, depths: Sequence[int] = DEPTHS) -> QueryScore | None:
    """Score a ranking, best first; None for a query without positives, which the published means leave out.

    A positive that is not ranked is never reached: it adds nothing to the average precision, and the last positive's
    rank is then beyond every depth. On rankings of all photos that is the published code bit by bit.
    """
    if not relevance.positives:
        return None
    ranks = positive_ranks(ranked, relevance)
    complete = len(ranks) == len(set(relevance.positives))
    precision = {depth: _precision_at(ranks, depth, complete) for depth in depths}
    value = average_precision(ranks, len(relevance.positives))
    return QueryScore(average_precision=value, precision=precision, ranks=tuple(ranks))


def positive_ranks(ranked: Iterable[str], relevance: Relevance) -> list[int]:
    """Return the ranks of the positives in a ranking, from 0, rising; junk before them does not count."""
    positives = frozenset(relevance.positives)
    ranks = []
    junk = 0
    for place, name in enumerate(ranked):
        if name in positives:
            ranks.append(place - junk)
        junk += name in relevance.junk
    return ranks


def average_precision(ranks: Sequence[int], positives: int) -> float:
    """Return the area under the precision-recall curve by the trapezoid rule, 0 to 1.

    Args:
        ranks: of the positives that were ranked, from 0, rising.
        positives: how many there are, 1 at least.
    """
    step = 1.0 / positives
    total = 0.0
    for found, rank in enumerate(ranks):
        before = found / rank if rank else 1.0
        # In this order of operations, so that the last bit is the published code's too.
        total += (before + (found + 1) / (rank + 1)) * step / 2.0
    return total


def _precision_at(ranks: Sequence[int], depth: int, complete: bool) -> float:
    if not ranks:
        return 0.0
    shown = min(ranks[-1] + 1, depth) if complete else depth
    return sum(rank < shown for rank in ranks) / shown


def mean(values: Sequence[float]) -> float:
    """Return the mean, added one by one as the published code does: numpy adds in pairs, ``sum`` compensates."""
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """Which photos show the same.

    Attributes:
        scenes: names of the photos of each scene, small ones among them.
        junk: for a photo, those of its scene that share nothing with it.
        small: scenes that are scored apart.
        kinds: of scenes.
    """

    scenes: Mapping[str, tuple[str, ...]]
    junk: Mapping[str, frozenset[str]]
    small: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)

    def restricted(self, names: Sequence[str]) -> "GroundTruth":
        """Return the scenes of which two of ``names`` at least show the same, with no other photos."""
        kept = set(names)
        scenes = {scene: tuple(name for name in files if name in kept) for scene, files in self.scenes.items()}
        able = {
            scene: files
            for scene, files in scenes.items()
            if any(self.relevance(query, files).positives for query in files)
        }
        return GroundTruth(scenes=able, junk=self.junk, small=self.small, kinds=self.kinds)

    def parts(self) -> dict[str, "GroundTruth"]:
        """Return what is scored apart, as minibench does: ``map``, all scenes but small ones; each kind; ``small``."""
        large = {scene for scene in self.scenes if scene not in self.small}
        kinds = sorted({self.kinds[scene] for scene in large if scene in self.kinds})
        chosen = {"map": large, **{kind: {s for s in large if self.kinds.get(s) == kind} for kind in kinds}}
        if self.small:
            chosen["small"] = set(self.scenes) - large
        return {
            name: replace(self, scenes={scene: files for scene, files in self.scenes.items() if scene in scenes})
            for name, scenes in chosen.items()
            if scenes
        }

    def relevance(self, query: str, files: Sequence[str]) -> Relevance:
        """Return what answers a photo of a scene of ``files``; the photo itself is junk."""
        junk = self.junk.get(query, frozenset()) | {query}
        return Relevance(positives=tuple(name for name in files if name not in junk), junk=junk)

    def mean_average_precision(self, rankings: Mapping[str, Sequence[str]]) -> float:
        """Return the mean over scenes of the mean average precision of their photos as queries, 0 to 1.

        Args:
            rankings: for every photo of the scenes the photos that answer it, best first; the photo itself is ignored.
        """
        means = []
        for files in self.scenes.values():
            scores = [score_query(rankings[query], self.relevance(query, files)) for query in files]
            values = [score.average_precision for score in scores if score is not None]
            if values:
                means.append(mean(values))
        return mean(means)


def load_ground_truth(photos: Path) -> GroundTruth | None:
    """Return the ground truth beside or above a folder of photos (``gnd.json``), None without one.

    Names are those of the files, without folders.

    Raises:
        ConfigError: the file is not of that form.
    """
    for path in (photos / GROUND_TRUTH, photos.parent / GROUND_TRUTH):
        if path.is_file():
            truth = read_ground_truth(path)
            return GroundTruth(
                scenes={scene: tuple(map(_file_name, files)) for scene, files in truth.scenes.items()},
                junk={_file_name(name): frozenset(map(_file_name, others)) for name, others in truth.junk.items()},
                small=truth.small,
                kinds=truth.kinds,
            )
    return None


def read_ground_truth(path: Path) -> GroundTruth:
    """Read ``gnd.json``: ``scenes`` and optionally ``small_scenes``, ``kinds``, ``junk_pairs``; names as they stand.

    All of it is checked; what else stands there is left alone. Whether the photos are there is for the caller to say.

    Raises:
        ConfigError: the file is not of that form: the message says where.
    """
    shown = printable(str(path))
    try:
        data = read_regular(path, MAX_BYTES)
        return _parse(json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once))
    except (OSError, ValueError, RecursionError) as error:
        why = f"it cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"{shown} is not a ground truth in minibench's form ({printable(why)[:300]}): mend it, or move it away"
        ) from error


def _parse(content: Any) -> GroundTruth:
    facts = _mapping(content, "the file")
    if "scenes" not in facts:
        raise ValueError("it has no 'scenes'")
    parts = {key: _mapping(facts.get(key, {}), repr(key)) for key in ("scenes", "small_scenes", "kinds")}
    both = next((scene for scene in parts["small_scenes"] if scene in parts["scenes"]), None)
    if both is not None:
        raise ValueError(f"the scene {short(both)} stands in 'scenes' and in 'small_scenes'")
    scenes = {**parts["scenes"], **parts["small_scenes"]}
    for scene, kind in parts["kinds"].items():
        if scene not in scenes:
            raise ValueError(f"'kinds' has {short(scene)}, which is not a scene")
        _name(kind, f"the kind of the scene {short(scene)}")
    junk: dict[str, set[str]] = {}
    for number, pair in enumerate(_sequence(facts.get("junk_pairs", []), "'junk_pairs'")):
        what = f"'junk_pairs' [{number}]"
        names = [_name(name, f"a photo of {what}") for name in _sequence(pair, what)]
        if len(names) != 2:
            raise ValueError(f"{what} has {len(names)} photos: a pair has two")
        for name, other in (names, names[::-1]):
            junk.setdefault(name, set()).add(other)
    return GroundTruth(
        scenes={scene: _photos_of(scene, files) for scene, files in scenes.items()},
        junk={name: frozenset(others) for name, others in junk.items()},
        small=frozenset(parts["small_scenes"]),
        kinds=parts["kinds"],
    )


def _photos_of(scene: str, files: Any) -> tuple[str, ...]:
    what = f"the scene {short(scene)}"
    return tuple(_name(name, f"a photo of {what}") for name in _sequence(files, what))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of some JSON; Python's reader keeps the last of two values with one name, and says nothing."""
    content = dict(pairs)
    if len(content) < len(pairs):
        name = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"{short(name)} stands there twice")
    return content


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_kind(value)}, not an object")
    return value


def _sequence(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is {_kind(value)}, not a list")
    return value


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} is {_kind(value)}, not a name")
    return value


def _kind(value: Any) -> str:
    """Return what a value of JSON is, in words: its text may be as long as the file."""
    if value is None or value == "":
        return "null" if value is None else "empty"
    words = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return words[type(value)]


def _file_name(name: str) -> str:
    return PurePath(name).name
