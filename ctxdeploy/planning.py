"""What indexing a folder means for an archive: which photos are new, changed, unchanged, gone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.errors import ConfigError
from ctxdeploy.spool import file_state

if TYPE_CHECKING:
    from ctxdeploy.index import Index
    from ctxdeploy.runtime import PhotoFailure, PhotoSource

# Names that a dry run shows of each kind.
EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A folder compared with an archive.

    Attributes:
        new: photos that are not in the archive, by name.
        changed: photos whose files differ in size or time of change from what was indexed, by name.
        unchanged: how many photos are as they were.
        gone: names in the archive whose files are known not to exist.
        failed: names among ``new`` and ``changed`` that could not be read before.
        settled: recorded failures that hold no longer: their files are gone, or as they were when they were indexed.
    """

    new: dict[str, "PhotoSource"]
    changed: dict[str, "PhotoSource"]
    unchanged: int
    gone: list[str]
    failed: list[str]
    settled: list[str]

    def kinds(self) -> Iterator[tuple[str, int, list[str]]]:
        """Yield every kind of photo, how many there are, and some of their names."""
        for kind, names in (("new", self.new), ("changed", self.changed)):
            yield kind, len(names), list(islice(names, EXAMPLES))
        yield "unchanged", self.unchanged, []
        for kind, known in (("gone", self.gone), ("failed_before", self.failed)):
            yield kind, len(known), known[:EXAMPLES]

    def metadata(self) -> dict[str, Any]:
        """Return counts and examples as JSON prints them."""
        kinds = list(self.kinds())
        counts = {kind: count for kind, count, _ in kinds}
        return {**counts, "examples": {kind: names for kind, _, names in kinds if kind != "unchanged"}}


def make_plan(
    index: "Index | None", folder: Path, photos: Sequence["PhotoSource"], unreadable: Sequence["PhotoFailure"]
) -> Plan:
    """Compare a folder with an archive.

    Args:
        index: the archive; None for one that is to be made.
        folder: that the photos' names are relative to.
        photos: found in it.
        unreadable: folders below that could not be listed; nothing in them is taken for gone.
    """
    known = {} if index is None else index.known()
    failures = [] if index is None else [failure["name"] for failure in index.failures()]
    new: dict[str, PhotoSource] = {}
    changed: dict[str, PhotoSource] = {}
    unchanged: set[str] = set()
    for photo in photos:
        if photo.name not in known:
            new[photo.name] = photo
        elif known[photo.name] == file_state(photo):
            unchanged.add(photo.name)
        else:
            changed[photo.name] = photo
    found = new.keys() | changed.keys() | unchanged
    closed = tuple(failure.name for failure in unreadable)

    def gone(name: str) -> bool:
        return name not in found and not name.startswith(closed) and is_gone(folder / name)

    return Plan(
        new=new,
        changed=changed,
        unchanged=len(unchanged),
        gone=[name for name in known if gone(name)],
        failed=[name for name in failures if name in new or name in changed],
        settled=[name for name in failures if name in unchanged or name.endswith("/") or gone(name)],
    )


def check_sync(plan: Plan, archive: Path, folder: Path) -> None:
    """Raise ``ConfigError`` if the archive would lose all its photos: an empty mount point, or another folder."""
    if plan.gone and not plan.changed and not plan.unchanged:
        raise ConfigError(
            f"--sync would remove {len(plan.gone)} photos of {archive} and keep none, for none of its photos is in "
            f"{folder}: if that is the right folder, run once without --sync"
        )


def is_gone(path: Path) -> bool:
    """Return whether a file is known not to exist; in a folder that cannot be read nothing is known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # ValueError: a zero byte: this name never was a file's
        return False
    return False
