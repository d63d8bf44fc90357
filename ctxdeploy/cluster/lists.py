"""The lists of names that go out to workers; made one after the other, as they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxdeploy.core.part import Part
from ctxdeploy.indexing.plan import TODO, IndexingPlan, Kind

if TYPE_CHECKING:
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


# Refused names too: they fail with their list.
_GIVEN_OUT = (*TODO, Kind.REFUSED)
# A publication maps the shards of all segments at once, and Linux gives a process 65,530 maps unless told otherwise.
MAX_LISTS = 10_000


def todo_count(plan: IndexingPlan) -> int:
    """Return how many photos are to be done."""
    return plan.count(*_GIVEN_OUT)


def name_lists(photos: "PhotoList", plan: IndexingPlan, size: int) -> Iterator[NameList]:
    """Yield what is to be done, in lists that are cut from all names: after an interruption they are the same ones.

    Args:
        photos: of the place.
        plan: what of them is to be done.
        size: photos of a list at most, unless there would be more than ``MAX_LISTS``.
    """
    total = len(photos.photos)
    size = max(size, -(-total // MAX_LISTS))
    count = max(-(-total // size), 1)
    for number in range(1, count + 1):
        run = slice((number - 1) * size, number * size)
        names = [name for name, kind in zip(photos.names(run), plan.kinds[run], strict=True) if kind in _GIVEN_OUT]
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
