"""The lists of names that go out to workers; made one after the other, as they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxdeploy.core.part import Part

if TYPE_CHECKING:
    from ctxdeploy.indexing.plan import IndexingPlan
    from ctxdeploy.runtime import PhotoFailure
    from ctxdeploy.runtime.sources import PhotoList


@dataclass(frozen=True, kw_only=True)
class NameList:
    """Photos that one worker makes a segment of.

    Attributes:
        part: which of the lists.
        names: of the photos, sorted.
        unlisted: parts of the place that could not be listed; they fail with the photos of the first list.
    """

    part: Part
    names: Sequence[str]
    unlisted: "Sequence[PhotoFailure]" = ()


# A publication maps the shards of all segments at once, and Linux gives a process 65,530 maps unless told otherwise.
MAX_LISTS = 10_000


def todo_count(plan: "IndexingPlan") -> int:
    """Return how many photos are to be done."""
    return len(plan.new) + len(plan.changed) + len(plan.refused)


def name_lists(photos: "PhotoList", plan: "IndexingPlan", size: int) -> Iterator[NameList]:
    """Yield what is to be done, in lists that are cut from all names: after an interruption they are the same ones.

    Args:
        photos: of the place.
        plan: what of them is to be done.
        size: photos of a list at most, unless there would be more than ``MAX_LISTS``.
    """
    refused = {failure.name for failure in plan.refused}
    everything = photos.photos
    size = max(size, -(-len(everything) // MAX_LISTS))
    count = max(-(-len(everything) // size), 1)
    for number in range(1, count + 1):
        run = (everything[place].name for place in range((number - 1) * size, min(number * size, len(everything))))
        names = [name for name in run if name in plan.new or name in plan.changed or name in refused]
        unlisted = photos.unreadable if number == 1 else ()
        if names or unlisted:
            yield NameList(part=Part(number=number, count=count), names=names, unlisted=unlisted)


def cut_lists(names: Sequence[str], size: int) -> list[NameList]:
    """Return names, which are sorted, in lists of so many; one at least."""
    count = max(-(-len(names) // size), 1)
    return [
        NameList(part=Part(number=number, count=count), names=names[(number - 1) * size : number * size])
        for number in range(1, count + 1)
    ]
