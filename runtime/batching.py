"""Batches of exactly one shape.

Photos keep their aspect ratio, and no padding may touch a descriptor, so that only photos of the same size after
scaling share a batch. Archives of a camera have a handful of sizes.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ctxdeploy.core.errors import ConfigError

Item = TypeVar("Item")


class ShapeBatcher(Generic[Item]):
    """Groups items by shape. The order of batches is free; every item comes out exactly once.

    Args:
        batch_size: items of a full batch.
        max_pending: items that may wait in all shapes together, at least a batch.
        max_age: an incomplete batch leaves when this many items came after its oldest.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def __init__(self, *, batch_size: int, max_pending: int, max_age: int) -> None:
        if not 1 <= batch_size <= max_pending or max_age < 1:
            raise ConfigError(
                f"batch size {batch_size} must be from 1 to max_pending {max_pending}, and max_age {max_age} at least 1"
            )
        self._batch_size, self._max_pending, self._max_age = batch_size, max_pending, max_age
        self._seen = 0
        self._pending = 0
        # Insertion order is order of age: the oldest item of the first bucket is the oldest of all.
        self._buckets: dict[Hashable, _Bucket[Item]] = {}

    def __len__(self) -> int:
        """Return the number of items that wait."""
        return self._pending

    def add(self, shape: Hashable, item: Item) -> list[list[Item]]:
        """Take an item; return the batches that are ready now, each of one shape."""
        self._seen += 1
        bucket = self._buckets.setdefault(shape, _Bucket(self._seen, []))
        bucket.items.append(item)
        self._pending += 1
        ready = []
        if len(bucket.items) == self._batch_size:
            ready.append(self._take(shape))
        if self._buckets:
            oldest = next(iter(self._buckets))
            if self._seen - self._buckets[oldest].since >= self._max_age:
                ready.append(self._take(oldest))
        if self._pending > self._max_pending:
            ready.append(self._take(max(self._buckets, key=lambda key: len(self._buckets[key].items))))
        return ready

    def flush(self) -> list[list[Item]]:
        """Return all that waits, in batches of one shape."""
        return [self._take(shape) for shape in list(self._buckets)]

    def _take(self, shape: Hashable) -> list[Item]:
        items = self._buckets.pop(shape).items
        self._pending -= len(items)
        return items


@dataclass(frozen=True)
class _Bucket(Generic[Item]):
    since: int
    items: list[Item]
