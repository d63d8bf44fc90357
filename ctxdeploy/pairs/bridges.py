"""The parts that pairs divide photos into, and the best pairs that join them."""

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


def bridges(graph: Graph, part: NDArray[np.int64], progress: Progress, *, min_score: float = 0.0) -> list[Bridge]:
    """Return the best pairs that join parts, best first: a maximum spanning forest of the parts (Borůvka 1926).

    Args:
        graph: the photos; numbers in the order of their names, byte by byte, so that ties are broken by name.
        part: of each photo, see ``parts_of``; left as it is.
        progress: advanced by one for each photo that is asked.
        min_score: pairs below it join nothing.

    Each round asks the photos of every part but the largest for their best outside of it, which joins at least half of
    the parts that anything can join. A part without any is left alone.
    """
    part, found, closed = part.copy(), list[Bridge](), set[int]()
    while graph.members.any():
        roots, sizes = np.unique(part[graph.members], return_counts=True)
        largest = int(roots[np.argmax(sizes)])
        asked = {int(root): int(size) for root, size in zip(roots, sizes, strict=True) if root not in closed}
        asked.pop(largest, None)
        best: dict[int, Bridge] = {}
        for root, bridge in _leading_out(graph, part, asked, progress):
            if -bridge.cost >= min_score and (root not in best or bridge < best[root]):
                best[root] = bridge
        closed.update(root for root in asked if root not in best)
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


def _leading_out(
    graph: Graph, part: NDArray[np.int64], sizes: dict[int, int], progress: Progress
) -> Iterator[tuple[int, Bridge]]:
    """Yield for photos of some parts, of so many photos each, the part and the best pair that leads out of it."""
    small: dict[int, list[int]] = {}
    for root, size in sizes.items():
        if size <= _TOGETHER:
            small.setdefault((size - 1).bit_length(), []).append(root)
    member = np.flatnonzero(graph.members)
    inside = None if graph.members.all() else [graph.names[i] for i in member]
    for bits, roots in sorted(small.items()):
        photos = member[np.isin(part[member], roots)]
        yield from _best(graph, part, photos, (1 << bits) + graph.neighbours, inside, progress)
    for root in sorted(root for root, size in sizes.items() if size > _TOGETHER):
        photos = member[part[member] == root]
        outside = [graph.names[i] for i in member[part[member] != root]]
        yield from _best(graph, part, photos, 1 + graph.neighbours, outside, progress)


def _best(
    graph: Graph,
    part: NDArray[np.int64],
    photos: NDArray[np.int64],
    top: int,
    among: list[str] | None,
    progress: Progress,
) -> Iterator[tuple[int, Bridge]]:
    for name, hits in graph.index.search_all(top, names=[graph.names[i] for i in photos], among=among):
        progress.advance()
        photo = graph.numbers[name]
        others = np.fromiter((graph.numbers[hit.name] for hit in hits), np.int32, len(hits))
        good = np.flatnonzero((part[others] != part[photo]) & graph.allowed(photo, others))
        if len(good):
            other = int(others[good[0]])
            bridge = Bridge(cost=-hits[good[0]].score, first=min(photo, other), second=max(photo, other))
            yield int(part[photo]), bridge


def by_name(index: "Index") -> tuple[list[str], dict[str, int]]:
    """Return the names of an archive's photos in order, byte by byte, and the place of each."""
    names = sorted(index.names(), key=name_bytes)
    return names, {name: number for number, name in enumerate(names)}
