"""The names of one state of an archive in order: pages of them, and the folders that they make."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# "/" and the character behind it: what begins with "a/" is before "a0".
_SLASH = ord("/")
_BEHIND_SLASH = chr(_SLASH + 1)
_MOST_SLASHES = np.iinfo(np.uint16).max
# A place is the number of a shard and, in the lower bits, that of a photo in it, which are 65,536 at most.
_BITS = 16
_LOWER = (1 << _BITS) - 1
# With more new names than one in so many, all are sorted anew: putting them in one by one takes longer.
_FEW = 8
_CHUNK = 1 << 16
_NONE = np.empty(0, np.uint16)


class NamedShard(Protocol):
    """What is needed of a shard: its file, whose photos never change, their names, and which are in the archive."""

    @property
    def path(self) -> Path: ...
    @property
    def names(self) -> NDArray[np.uint8]: ...
    @property
    def name_offsets(self) -> NDArray[np.uint32]: ...
    @property
    def live(self) -> NDArray[np.bool_]: ...
    def __len__(self) -> int: ...
    def name(self, number: int) -> str: ...
    def all_names(self) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of names.

    Attributes:
        name: with ``/`` at its end.
        photos: in it and below it.
    """

    name: str
    photos: int


class SortedNames:
    """Names in the order of their characters: 12 bytes a photo and a second for a million; then a page takes 1 ms.

    The names themselves stay in the files of the archive. In a later state only those of new shards are put in: 20 ms
    beside a million.

    Args:
        shards: of the state.
        state: its number.
        former: those of an earlier state of the archive, or of another.
    """

    def __init__(self, shards: Sequence[NamedShard], state: int, former: "SortedNames | None" = None) -> None:
        self.state = state
        self._shards = list(shards)
        self._order = self._sorted(former)
        known: dict[Path, NDArray[np.uint16]] = {} if former is None else former._of_shards
        self._of_shards: dict[Path, NDArray[np.uint16]] = {}
        for shard in self._shards:
            is_known = len(known.get(shard.path, _NONE)) == len(shard)
            self._of_shards[shard.path] = known[shard.path] if is_known and len(shard) else _slashes(shard)
        slashes = np.concatenate([_NONE, *(self._of_shards[shard.path] for shard in self._shards)])
        bases = np.cumsum([0, *map(len, self._shards)], dtype=np.int64)
        self._slashes = slashes[bases[self._order >> _BITS] + (self._order & _LOWER)]

    def __len__(self) -> int:
        return len(self._order)

    def count(self, prefix: str) -> int:
        """Return how many names begin so."""
        low, high = self._bounds(prefix)
        return high - low

    def places(self, prefix: str) -> NDArray[np.int64]:
        """Return the photos whose names begin so: rows of the number of a shard and that in the shard."""
        found = self._order[slice(*self._bounds(prefix))]
        return np.stack([found >> _BITS, found & _LOWER], axis=1)

    def page(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Return the names that begin so and come after one, at most ``limit``; and the last if there are more."""
        low, high = self._bounds(prefix)
        if after is not None:
            low = max(low, bisect_right(range(len(self)), after, key=self._name))
        found = [self._name(row) for row in range(low, min(low + limit, high))]
        return found, found[-1] if found and low + limit < high else None

    def folders(self, prefix: str, after: str | None, limit: int) -> tuple[list[Folder], str | None]:
        """Return the folders right below a prefix, at most ``limit`` after one; and the last if there are more."""
        found: list[Folder] = []
        for folder in self._folders(prefix, after):
            if len(found) == limit:
                return found, found[-1].name
            found.append(folder)
        return found, None

    def _folders(self, prefix: str, after: str | None) -> Iterator[Folder]:
        length, slashes = len(prefix), prefix.count("/")
        low, high = self._bounds(prefix)
        if after is not None:
            first = after[:-1] + _BEHIND_SLASH if after.endswith("/") else after
            low = max(low, bisect_left(range(len(self)), first, key=self._name))
        while (low := self._below(low, high, slashes)) < high:
            name = self._name(low)
            folder = name[: name.index("/", length) + 1]
            behind = self._first_from(folder[:-1] + _BEHIND_SLASH, low, high)
            yield Folder(name=folder, photos=behind - low)
            low = behind

    def _below(self, low: int, high: int, slashes: int) -> int:
        """Return the first row from ``low`` on that lies in a folder further below; ``high`` if none does.

        Photos that lie beside folders are passed by their slashes: a million of them in 0.5 ms.
        """
        length = 16
        while low < high:
            is_below = self._slashes[low : min(low + length, high)] > slashes
            first = int(is_below.argmax())
            if is_below[first]:
                return low + first
            low, length = low + len(is_below), min(8 * length, _CHUNK)
        return high

    def _first_from(self, text: str, low: int, high: int) -> int:
        """Return the first row from ``low`` on whose name is not before a text: soon for one that is near."""
        step = 1
        while low + step < high and self._name(low + step) < text:
            low, step = low + step, 2 * step
        return bisect_left(range(len(self)), text, low, min(low + step, high), key=self._name)

    def _bounds(self, prefix: str) -> tuple[int, int]:
        rows = range(len(self))
        low = bisect_left(rows, prefix, key=self._name)
        return low, bisect_left(rows, True, low, key=lambda row: not self._name(row).startswith(prefix))

    def _name(self, row: int) -> str:
        place = int(self._order[row])
        return self._shards[place >> _BITS].name(place & _LOWER)

    def _sorted(self, former: "SortedNames | None") -> NDArray[np.int64]:
        """Return the places of all photos in the order of their names."""
        held = np.empty(0, np.int64) if former is None else self._kept(former)
        known = {int(number) for number in np.unique(held >> _BITS)}
        fresh = [number for number in range(len(self._shards)) if number not in known]
        count = sum(np.count_nonzero(self._shards[number].live) for number in fresh)
        if count > len(held) // _FEW:
            return self._sorted_anew(range(len(self._shards)))
        added = self._sorted_anew(fresh)
        self._order = held  # among which they are looked for
        rows, row = [], 0
        for place in added.tolist():
            name = self._shards[place >> _BITS].name(place & _LOWER)
            row = bisect_left(range(len(held)), name, row, key=self._name)
            rows.append(row)
        return np.insert(held, rows, added)

    def _sorted_anew(self, shards: Sequence[int]) -> NDArray[np.int64]:
        places: list[int] = []
        names: list[str] = []
        for number in shards:
            shard = self._shards[number]
            live = np.flatnonzero(shard.live[: len(shard)])
            here = shard.all_names()
            # Each by itself first: sorting keeps all threads waiting, and what is sorted in parts takes far less time.
            rows = sorted(live.tolist(), key=here.__getitem__)
            names += [here[inside] for inside in rows]
            places += [number << _BITS | inside for inside in rows]
        order = sorted(range(len(names)), key=names.__getitem__)
        return np.array(places, np.int64)[order]

    def _kept(self, former: "SortedNames") -> NDArray[np.int64]:
        """Return the places of photos in shards that were there before, in order."""
        numbers = {shard.path: number for number, shard in enumerate(self._shards)}
        moved = np.full(len(former._shards) + 1, -1, np.int64)
        live = [np.empty(0, np.bool_)]
        for number, shard in enumerate(former._shards):
            here = numbers.get(shard.path, -1)
            now = shard.live if here < 0 else self._shards[here].live
            live.append(now[: len(shard)])
            if here >= 0 and not (now & ~shard.live).any():  # none that was removed is back
                moved[number] = here
        bases = np.cumsum([0, *map(len, former._shards)], dtype=np.int64)
        shards, inside = former._order >> _BITS, former._order & _LOWER
        stays = (moved[shards] >= 0) & np.concatenate(live)[bases[shards] + inside]
        kept: NDArray[np.int64] = (moved[shards] << _BITS | inside)[stays]
        return kept


def _slashes(shard: NamedShard) -> NDArray[np.uint16]:
    """Return how many slashes each name of a shard has."""
    before = np.concatenate([[0], np.cumsum(shard.names == _SLASH)])
    return np.minimum(np.diff(before[shard.name_offsets]), _MOST_SLASHES).astype(np.uint16)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldNames:
    """Names of an archive whose shards are elsewhere: at most 65,536, all of them in the archive.

    Attributes:
        path: of no file.
        names: their bytes, one behind the other.
        name_offsets: where each begins, and the end.
    """

    path: Path
    names: NDArray[np.uint8]
    name_offsets: NDArray[np.uint32]

    @property
    def live(self) -> NDArray[np.bool_]:
        """That all are there."""
        return np.ones(len(self), np.bool_)

    def __len__(self) -> int:
        return len(self.name_offsets) - 1

    def name(self, number: int) -> str:
        """Return a name."""
        data = self.names[self.name_offsets[number] : self.name_offsets[number + 1]]
        return data.tobytes().decode("utf-8", "surrogateescape")

    def all_names(self) -> list[str]:
        """Return all of them."""
        return [self.name(number) for number in range(len(self))]


def held_names(names: Iterable[str]) -> list[HeldNames]:
    """Return the names of a state of an archive whose shards are elsewhere."""
    given, held = iter(names), list[HeldNames]()
    while some := [name.encode("utf-8", "surrogateescape") for name in islice(given, 1 << _BITS)]:
        ends = np.cumsum([0, *map(len, some)], dtype=np.uint32)
        path = Path(str(len(held)))
        held.append(HeldNames(path=path, names=np.frombuffer(b"".join(some), np.uint8), name_offsets=ends))
    return held
