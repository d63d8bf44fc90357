"""Batches of exactly one shape.

Photos keep their aspect ratio, and no padding may touch a descriptor, so that only photos of the same size after
scaling share a batch. Archives of a camera have a handful of sizes.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ctxdeploy.core.errors import ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class BatchingConfig:
    """When a batch is ready.

    Attributes:
        batch_size: items of a full batch.
        max_pending: items that may wait in all shapes together.
        max_age: an incomplete batch leaves when this many items came after its oldest.
    """

    batch_size: int = 1
    max_pending: int = 64
    max_age: int = 256

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch size {self.batch_size} is below 1: give another --batch-size")
        if self.max_pending < self.batch_size or self.max_age < 1:
            raise ConfigError(
                f"max_pending {self.max_pending} must be at least the batch size {self.batch_size}, "
                f"and max_age {self.max_age} at least 1"
            )


class ShapeBatcher(Generic[Item]):
    """Groups items by shape. The order of batches is free; every item comes out exactly once."""

    def __init__(self, config: BatchingConfig) -> None:
        self._config = config
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
        if len(bucket.items) == self._config.batch_size:
            ready.append(self._take(shape))
        if self._buckets:
            oldest = next(iter(self._buckets))
            if self._seen - self._buckets[oldest].since >= self._config.max_age:
                ready.append(self._take(oldest))
        if self._pending > self._config.max_pending:
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
