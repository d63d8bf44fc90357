"""One of several parts of a whole: of a place's photos, or of an archive's shards."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from ctxdeploy.core.errors import ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, order=True)
class Part:
    """One of several parts; as text ``I/N``.

    Attributes:
        number: which part, from 1 on.
        count: of the parts.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"the part {self} is not one of 1/{self.count} to {self.count}/{self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``I/N``; ``ValueError`` for anything else, to be put behind the flag and the text."""
        match = re.fullmatch(r"(\d{1,9})/([1-9]\d{0,8})", text)
        if match is None:
            raise ValueError("is not I/N, such as 1/8 for the first of eight parts")
        number, count = int(match.group(1)), int(match.group(2))
        if not 1 <= number <= count:
            raise ValueError(f"is not one of 1/{count} to {count}/{count}")
        return cls(number=number, count=count)

    def run_of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this part of a sequence as a run of it, as long as the others' to within one."""
        begin, end = ((self.number - less) * len(items) // self.count for less in (1, 0))
        return items[begin:end]

    def each_of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this part of a sequence as every ``count``-th item, from the ``number``-th on: what is added at the
        end moves none of the others into another part."""
        return items[self.number - 1 :: self.count]
