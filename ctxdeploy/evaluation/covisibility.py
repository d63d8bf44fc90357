"""Which photos of a COLMAP model see the same points, and how much of that a file of pairs has.

Of a model only ``images.bin`` is read, whose records say which 3-D point each key point is. The form (little-endian):

    uint64 images; of each: uint32 id, 4 + 3 float64 pose, uint32 camera, name up to a zero byte,
    uint64 points; of each: 2 float64 x and y, int64 id of the 3-D point, -1 where there is none
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import counted, printable

# COLMAP uses a pair for reconstruction from 15 inliers on (TwoViewGeometry.min_num_inliers).
MIN_POINTS = 15
_FILE = "images.bin"
_HEAD, _POINT = 64, 24  # bytes before a name, and of a point
_MAX_NAME = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Covisibility:
    """The photos of a model, and the 3-D points that each sees.

    Attributes:
        names: of M photos, in the model's order.
        offsets: M+1 int64; photo i sees ``points[offsets[i] : offsets[i + 1]]``.
        points: int64, of each photo distinct and rising; numbers 0..P-1 of the model's points.
    """

    names: tuple[str, ...]
    offsets: NDArray[np.int64]
    points: NDArray[np.int64]

    def seen(self, photo: int) -> NDArray[np.int64]:
        """Return the points that a photo sees."""
        return self.points[self.offsets[photo] : self.offsets[photo + 1]]

    def pairs(self, min_points: int) -> NDArray[np.int64]:
        """Return pairs of photos that share at least so many points: V×2 int64, rising; M numbers in memory a photo."""
        count = len(self.names)
        viewers = np.repeat(np.arange(count), np.diff(self.offsets))
        order = np.argsort(self.points, kind="stable")
        starts = np.searchsorted(self.points[order], np.arange(int(self.points.max(initial=-1)) + 2))
        viewers = viewers[order]
        found = []
        for photo in range(count):
            seen = self.seen(photo)
            lengths = starts[seen + 1] - starts[seen]
            places = np.repeat(starts[seen + 1] - np.cumsum(lengths), lengths) + np.arange(int(lengths.sum()))
            shared = np.bincount(viewers[places], minlength=count)
            others = np.flatnonzero(shared[photo + 1 :] >= min_points) + photo + 1
            found.append(np.column_stack([np.full(len(others), photo), others]))
        return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def read_model(path: Path) -> Covisibility:
    """Read which photos of a COLMAP model see which points.

    Args:
        path: the model's folder, such as ``sparse/0``, or its ``images.bin``.

    Raises:
        ConfigError: there is no such file, or it is not whole: every length is compared with the bytes that there are.
    """
    file = path / _FILE if path.is_dir() else path
    where = printable(str(file))
    try:
        with open_regular(file) as opened:
            data = np.memmap(opened, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        is_text = (path / "images.txt").exists()
        hint = "colmap model_converter --output_type BIN  makes it from images.txt" if is_text else "give sparse/0"
        raise ConfigError(f"{where} cannot be read: {reason}; {hint}") from error
    names, seen = _records(data, where)
    if len(set(names)) != len(names):
        raise ConfigError(f"{where} is damaged: a photo is in it twice")
    offsets = np.cumsum([0, *map(len, seen)], dtype=np.int64)
    _, points = np.unique(np.concatenate([np.empty(0, np.int64), *seen]), return_inverse=True)
    return Covisibility(names=tuple(names), offsets=offsets, points=points.astype(np.int64))


def _records(data: NDArray[np.uint8], where: str) -> tuple[list[str], list[NDArray[np.int64]]]:
    size, names, seen = len(data), list[str](), list[NDArray[np.int64]]()
    count = _uint64(data, 0, where)
    # A record has a head, the end of its name, and the number of its points.
    if count > (size - 8) // (_HEAD + 9):
        raise ConfigError(f"{where} is damaged: {count:,} photos do not fit into its {size:,} bytes")
    at = 8
    for _ in range(count):
        begin = at + _HEAD
        text = data[begin : begin + _MAX_NAME + 1].tobytes()
        length = text.find(b"\0")
        if length < 0:
            raise ConfigError(f"{where} is damaged: the name of photo {len(names) + 1:,} has no end")
        begin += length + 1
        points = _uint64(data, begin, where)
        begin, at = begin + 8, begin + 8 + points * _POINT
        if at > size:
            raise ConfigError(
                f"{where} is damaged: photo {len(names) + 1:,} has {points:,} points, more than its bytes"
            )
        # The points of a record begin at any byte.
        ids = np.frombuffer(data[begin:at].tobytes(), np.dtype([("xy", "<f8", 2), ("id", "<i8")]))["id"]
        names.append(text[:length].decode("utf-8", "surrogateescape"))
        seen.append(np.unique(ids[ids >= 0]).astype(np.int64))
    if at != size:
        raise ConfigError(f"{where} is damaged: its last photo ends {counted(size - at, 'byte')} before its end")
    return names, seen


def _uint64(data: NDArray[np.uint8], at: int, where: str) -> int:
    if at + 8 > len(data):
        raise ConfigError(f"{where} is damaged: it ends after {len(data):,} bytes")
    return int.from_bytes(data[at : at + 8].tobytes(), "little")


@dataclass(frozen=True, kw_only=True)
class PairsFigures:
    """How good pairs are for a reconstruction.

    Attributes:
        top: the best pairs of each photo that were counted; None for all.
        pairs: of two photos of the model, each counted once.
        right: of these, those that share enough points.
        covisible: all pairs of the model that do.
        foreign: pairs with a photo that is not in the model: nothing is known of them.
    """

    top: int | None
    pairs: int
    right: int
    covisible: int
    foreign: int

    @property
    def recall(self) -> float | None:
        """Covisible pairs that are there, of all; None if the model has none."""
        return self.right / self.covisible if self.covisible else None

    @property
    def useless(self) -> float | None:
        """Pairs that share too few points, of all; None if there are no pairs."""
        return 1 - self.right / self.pairs if self.pairs else None

    def metadata(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        facts = {"top": self.top, "pairs": self.pairs, "right": self.right, "covisible": self.covisible}
        return {**facts, "foreign": self.foreign, "recall": self.recall, "useless": self.useless}


def judge_pairs(
    model: Covisibility,
    pairs: Iterable[tuple[str, str, float | None]],
    *,
    min_points: int = MIN_POINTS,
    tops: Iterable[int] = (),
) -> list[PairsFigures]:
    """Compare pairs with what a model sees.

    Args:
        model: of the photos.
        pairs: two names, and the score or None; a pair that comes again, in whichever direction, counts once.
        min_points: 3-D points that two photos share at least.
        tops: for each number also figures of the pairs that are among so many best ones of either photo; nothing of it
            if a pair has no score.

    Returns:
        The figures of each top, and of all pairs.
    """
    numbers = {name: number for number, name in enumerate(model.names)}
    best: dict[tuple[int, int], float] = {}
    foreign, is_scored = set[tuple[str, str]](), True
    for name, other, score in pairs:
        one, two = numbers.get(name, -1), numbers.get(other, -1)
        is_scored &= score is not None
        if one < 0 or two < 0:
            foreign.add((min(name, other), max(name, other)))
        elif one != two:
            key = (min(one, two), max(one, two))
            best[key] = max(best.get(key, -np.inf), 0.0 if score is None else score)
    count = len(model.names)
    wanted = model.pairs(min_points)
    covisible = wanted[:, 0] * count + wanted[:, 1]
    rows = np.array(sorted(best), np.int64).reshape(-1, 2)
    right = np.isin(rows[:, 0] * count + rows[:, 1], covisible)
    ranks = _ranks(rows, np.array([best[key] for key in sorted(best)], np.float64))
    kept = [(top, ranks < top) for top in sorted(set(tops)) if is_scored] + [(None, np.ones(len(rows), np.bool_))]
    return [
        PairsFigures(
            top=top,
            pairs=int(chosen.sum()),
            right=int(right[chosen].sum()),
            covisible=len(covisible),
            foreign=len(foreign),
        )
        for top, chosen in kept
    ]


def _ranks(rows: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the better rank of each pair among those of its two photos, from 0; equal scores in the order given."""
    place = np.arange(len(rows))
    ends, pair = rows.T.reshape(-1), np.concatenate([place, place])
    order = np.lexsort((pair, -scores[pair], ends))
    begins = np.append(True, np.diff(ends[order]) != 0)[: len(order)]
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    best = np.full(len(rows), len(order), np.int64)
    np.minimum.at(best, pair[order], rank)
    return best
