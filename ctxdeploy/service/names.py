"""The names of one state of an archive in order: pages of them, and the folders that they make."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# "/" and the character behind it: what begins with "a/" is before "a0".
_BEHIND_SLASH = chr(ord("/") + 1)


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
    """Names in the order of their characters: a second and 100 MB for a million; then a page takes microseconds.

    Args:
        names: of the photos.
        state: number of the state that they are of.
    """

    def __init__(self, names: Iterable[str], state: int) -> None:
        self._names = sorted(names)
        self.state = state

    def __len__(self) -> int:
        return len(self._names)

    def count(self, prefix: str) -> int:
        """Return how many names begin so."""
        low, high = self._bounds(prefix)
        return high - low

    def page(self, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Return the names that begin so and come after one, at most ``limit``; and the last if there are more."""
        low, high = self._bounds(prefix)
        if after is not None:
            low = max(low, bisect_right(self._names, after))
        found = self._names[low : min(low + limit, high)]
        return found, found[-1] if found and low + limit < high else None

    def folders(self, prefix: str, after: str | None, limit: int) -> tuple[list[Folder], str | None]:
        """Return the folders right below a prefix, at most ``limit`` after one; and the last if there are more.

        Photos that lie beside folders are stepped over one by one, 0.1 µs each.
        """
        found: list[Folder] = []
        for folder in self._folders(prefix, after):
            if len(found) == limit:
                return found, found[-1].name
            found.append(folder)
        return found, None

    def _folders(self, prefix: str, after: str | None) -> Iterator[Folder]:
        names, length = self._names, len(prefix)
        low, high = self._bounds(prefix)
        if after is not None:
            low = max(low, bisect_left(names, after[:-1] + _BEHIND_SLASH if after.endswith("/") else after))
        while low < high:
            end = names[low].find("/", length)
            if end < 0:
                low += 1
                continue
            name = names[low][: end + 1]
            behind = bisect_left(names, name[:-1] + _BEHIND_SLASH, low, high)
            yield Folder(name=name, photos=behind - low)
            low = behind

    def _bounds(self, prefix: str) -> tuple[int, int]:
        low = bisect_left(self._names, prefix)
        return low, bisect_left(self._names, True, low, key=lambda name: not name.startswith(prefix))
