"""The parts that pairs divide photos into, and the best pairs that join them."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.progress import Progress
from ctxdeploy.core.text import name_bytes

if TYPE_CHECKING:
    from ctxdeploy.index import Index
    from ctxdeploy.pairs.selection import Sequences

# Parts of up to so many photos are asked together, each photo for as many others as its part has: one of them lies
# outside. Larger ones, of which there cannot be many, are asked for photos outside alone.
_TOGETHER = 256
# Others outside of its part that are kept of each photo for the rounds that follow.
_KEPT = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Photos of an archive that are to hang together.

    Attributes:
        index: the archive.
        names: of all its photos, by number.
        members: which of them take part.
        sequences: whose neighbours are not paired; None if they are.
        frames: that neighbours are nearer than.
    """

    index: "Index"
    names: list[str]
    numbers: dict[str, int]
    members: NDArray[np.bool_]
    sequences: "Sequences | None" = None
    frames: int = 0

    @property
    def neighbours(self) -> int:
        """Photos at most that one photo must not be paired with, itself left out."""
        return 2 * (self.frames - 1) if self.sequences is not None else 0

    def allowed(self, photo: int, others: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which of several photos one may be paired with."""
        if self.sequences is None:
            return np.ones(len(others), np.bool_)
        return ~self.sequences.near(np.full(len(others), photo, np.int32), others, self.frames)


def parts_of(count: int, first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return for each of ``count`` photos the least number of its part, given P pairs of them."""
    part = np.arange(count, dtype=np.int64)
    while True:
        one, other = part[first], part[second]
        apart = one != other
        if not apart.any():
            return part
        first, second = first[apart], second[apart]
        np.minimum.at(part, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while not np.array_equal(above := part[part], part):
            part = above


@dataclass(frozen=True, kw_only=True, order=True)
class Bridge:
    """A pair that joins two parts; the best first, of equal scores that of the first names.

    Attributes:
        cost: the negative score.
        first, second: numbers of the photos, rising.
    """

    cost: float
    first: int
    second: int


def bridges(graph: Graph, part: NDArray[np.int64], progress: Progress) -> list[Bridge]:
    """Return the best pairs that join parts, best first: a maximum spanning forest of the parts (Borůvka 1926).

    Args:
        graph: the photos; numbers in the order of their names, byte by byte, so that ties are broken by name.
        part: of each photo, see ``parts_of``; left as it is.
        progress: advanced by one for each photo that is asked.

    Each round finds the best pair that leads out of every part but the largest, which joins at least half of the parts
    that anything can join. A part without any is left alone.
    """
    part, found, closed = part.copy(), list[Bridge](), set[int]()
    leads = _Leads(graph, progress)
    while graph.members.any():
        roots, sizes = np.unique(part[graph.members], return_counts=True)
        largest = int(roots[np.argmax(sizes)])
        open_ = [int(root) for root in roots if root != largest and root not in closed]
        best = leads.best(part, open_)
        closed.update(root for root in open_ if root not in best)
        if not best:
            break
        above: dict[int, int] = {}
        for bridge in sorted(set(best.values())):
            one, other = (_top(above, int(part[photo])) for photo in (bridge.first, bridge.second))
            if one != other:
                found.append(bridge)
                above[max(one, other)] = min(one, other)
                closed -= {int(part[bridge.first]), int(part[bridge.second])}
        joined = np.arange(len(part))
        joined[list(above)] = [_top(above, root) for root in above]
        part = joined[part]
    return sorted(found)


def _top(above: dict[int, int], root: int) -> int:
    """Return the least part that one has become, and remember it for those on the way."""
    way = []
    while root in above:
        way.append(root)
        root = above[root]
    above.update(dict.fromkeys(way, root))
    return root


class _Leads:
    """The best pairs that lead out of parts, and what is known of each photo's others for the rounds that follow.

    Of a photo up to 16 others outside of its part are kept, best first, and the score that all further ones have at
    most. Parts only grow, so what lies inside of one once is dropped; a photo is asked again only where no other is
    left and a further one might be the best of its part.
    """

    def __init__(self, graph: Graph, progress: Progress) -> None:
        self._graph, self._progress = graph, progress
        self._others: dict[int, deque[tuple[int, float]]] = {}
        self._limits: dict[int, float] = {}

    def best(self, part: NDArray[np.int64], roots: list[int]) -> dict[int, Bridge]:
        """Return the best pair that leads out of each of some parts; nothing for a part without any."""
        member = np.flatnonzero(self._graph.members)
        member = member[np.isin(part[member], roots)]
        photos = {int(part[group[0]]): group.tolist() for group in _grouped(member, part[member])}
        found = {root: self._known(part, group) for root, group in photos.items()}
        asked = {
            root: [photo for photo in group if self._may_lead(photo, found[root])] for root, group in photos.items()
        }
        for group, top, among in self._calls(part, photos, {root: group for root, group in asked.items() if group}):
            self._ask(part, group, top, among)
        found |= {root: self._known(part, photos[root]) for root, group in asked.items() if group}
        return {root: bridge for root, bridge in found.items() if bridge is not None}

    def _known(self, part: NDArray[np.int64], photos: list[int]) -> Bridge | None:
        best: Bridge | None = None
        for photo in photos:
            others = self._others.get(photo)
            while others and part[others[0][0]] == part[photo]:
                others.popleft()
            if others:
                other, score = others[0]
                if best is None or -score <= best.cost:
                    bridge = Bridge(cost=-score, first=min(photo, other), second=max(photo, other))
                    best = bridge if best is None else min(best, bridge)
        return best

    def _may_lead(self, photo: int, best: Bridge | None) -> bool:
        limit = self._limits.get(photo, 1.0)
        return not self._others.get(photo) and limit > 0 and (best is None or limit >= -best.cost)

    def _calls(
        self, part: NDArray[np.int64], photos: dict[int, list[int]], asked: dict[int, list[int]]
    ) -> Iterator[tuple[list[int], int, list[str] | None]]:
        """Yield photos that are asked together, for how many others, and among which; None for all."""
        names, member = self._graph.names, np.flatnonzero(self._graph.members)
        inside = None if self._graph.members.all() else [names[i] for i in member]
        small: dict[int, list[int]] = {}
        for root, group in sorted(asked.items()):
            size = len(photos[root])
            if size <= _TOGETHER:
                small.setdefault((size - 1).bit_length(), []).extend(group)
            else:
                outside = [names[i] for i in member[part[member] != root]]
                yield group, self._graph.neighbours + _KEPT, outside
        for bits, group in sorted(small.items()):
            # One of so many lies outside.
            yield sorted(group), (1 << bits) + self._graph.neighbours + _KEPT, inside

    def _ask(self, part: NDArray[np.int64], photos: list[int], top: int, among: list[str] | None) -> None:
        graph = self._graph
        for name, hits in graph.index.search_all(top, names=[graph.names[i] for i in photos], among=among):
            self._progress.advance()
            photo = graph.numbers[name]
            others = np.fromiter((graph.numbers[hit.name] for hit in hits), np.int32, len(hits))
            good = np.flatnonzero((part[others] != part[photo]) & graph.allowed(photo, others))
            kept = deque((int(others[i]), hits[i].score) for i in good[:_KEPT])
            self._others[photo] = kept
            is_all = len(hits) < top and len(good) <= _KEPT
            self._limits[photo] = 0.0 if is_all else kept[-1][1] if len(good) > _KEPT else hits[-1].score


def _grouped(photos: NDArray[np.int64], parts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return photos by part."""
    order = np.argsort(parts, kind="stable")
    return np.split(photos[order], np.flatnonzero(np.diff(parts[order])) + 1) if len(photos) else []


def by_name(index: "Index") -> tuple[list[str], dict[str, int]]:
    """Return the names of an archive's photos in order, byte by byte, and the place of each."""
    names = sorted(index.names(), key=name_bytes)
    return names, {name: number for number, name in enumerate(names)}
