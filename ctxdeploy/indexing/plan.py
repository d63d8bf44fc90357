"""What indexing a place means for an archive: which photos are new, changed, unchanged, gone, given up."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.indexing.descriptor_cache import file_state

if TYPE_CHECKING:
    from ctxdeploy.index import Index
    from ctxdeploy.runtime import PhotoSource
    from ctxdeploy.runtime.sources import PhotoList

# Names that a dry run shows of each kind.
EXAMPLES = 5
# What failed here fails again while the file is the same. Reading (a server, a permission), a lack of memory and the
# network may succeed next time.
_LASTING = "decode"


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A place compared with an archive. Every photo of the place is of one of the first four kinds.

    Attributes:
        new: photos that are not in the archive, by name.
        changed: photos whose files differ in size or time of change from what was indexed, by name.
        unchanged: how many photos are as they were.
        given_up: photos that could not be decoded before and whose files are the same; they are not tried again.
        gone: names in the archive that are known not to be there any more.
        failed: names among ``new`` and ``changed`` that could not be read before.
        settled: recorded failures that hold no longer: they are gone, or as they were when they were indexed.
    """

    new: dict[str, "PhotoSource"]
    changed: dict[str, "PhotoSource"]
    unchanged: int
    given_up: list[str]
    gone: list[str]
    failed: list[str]
    settled: list[str]

    def kinds(self) -> Iterator[tuple[str, int, list[str]]]:
        """Yield every kind of photo, how many there are, and some of their names."""
        for kind, names in (("new", self.new), ("changed", self.changed)):
            yield kind, len(names), list(islice(names, EXAMPLES))
        yield "unchanged", self.unchanged, []
        for kind, known in (("given_up", self.given_up), ("gone", self.gone), ("failed_before", self.failed)):
            yield kind, len(known), known[:EXAMPLES]

    def metadata(self) -> dict[str, Any]:
        """Return counts and examples as JSON prints them."""
        kinds = list(self.kinds())
        counts = {kind: count for kind, count, _ in kinds}
        return {**counts, "examples": {kind: names for kind, _, names in kinds if kind != "unchanged"}}


def make_plan(index: "Index | None", listing: "PhotoList", *, retry_failed: bool = False) -> Plan:
    """Compare a place with an archive.

    Args:
        index: the archive; None for one that is to be made.
        listing: the photos found; nothing in what could not be listed is taken for gone.
        retry_failed: try photos again that could not be decoded, though their files are the same.
    """
    known = {} if index is None else index.known()
    failures = {} if index is None else {failure["name"]: failure for failure in index.failures()}
    new: dict[str, PhotoSource] = {}
    changed: dict[str, PhotoSource] = {}
    unchanged: set[str] = set()
    given_up: list[str] = []
    for photo in listing.photos:
        state = file_state(photo)
        if known.get(photo.name) == state:
            unchanged.add(photo.name)
        elif not retry_failed and _is_given_up(failures.get(photo.name), state):
            given_up.append(photo.name)
        elif photo.name in known:
            changed[photo.name] = photo
        else:
            new[photo.name] = photo
    return Plan(
        new=new,
        changed=changed,
        unchanged=len(unchanged),
        given_up=given_up,
        gone=[name for name in known if listing.is_gone(name)],
        failed=[name for name in failures if name in new or name in changed],
        settled=[n for n in failures if n in unchanged or n.endswith("/") or listing.is_gone(n)],
    )


def _is_given_up(failure: dict[str, Any] | None, state: tuple[int, int]) -> bool:
    """Return whether a photo failed for good; without a known state of the file it is tried again."""
    if failure is None or failure["stage"] != _LASTING or state == (-1, -1):
        return False
    return (failure.get("size"), failure.get("mtime_ns")) == state


def check_sync(plan: Plan, archive: object, listing: "PhotoList") -> None:
    """Raise ``ConfigError`` if the archive would lose all its photos: an empty mount point, or another folder."""
    if plan.gone and not plan.changed and not plan.unchanged:
        raise ConfigError(
            f"--sync would remove {len(plan.gone)} photos of {archive} and keep none, for none of its photos is in "
            f"{listing.place}: if that is the right place, run once without --sync"
        )
