"""What indexing a place means for an archive: photos that are new, changed or gone; an estimate of time and size."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import IntEnum
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.archive import is_archive
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import FileState, PhotoDescriptors

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Bundle
    from ctxdeploy.index import Index, IndexConfig
    from ctxdeploy.indexing.config import IndexingConfig
    from ctxdeploy.runtime import Extractor, PhotoFailure, PhotoSource
    from ctxdeploy.runtime.sources import PhotoList

# Names that a dry run shows of each kind.
EXAMPLES = 5
# What failed here fails again while the file is the same. Reading (a server, a permission), a lack of memory and the
# network may succeed next time.
_LASTING = "decode"


class Kind(IntEnum):
    """What a photo of a place is for an archive."""

    UNCHANGED = 0
    NEW = 1
    CHANGED = 2
    GIVEN_UP = 3
    REFUSED = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexingPlan:
    """A place compared with an archive. A hundred million photos take a byte each.

    Attributes:
        photos: of the place.
        kinds: of each of its photos, a ``Kind``: new ones are not in the archive; the files of changed ones differ in
            size or time of change from what was indexed; those given up could not be decoded before, their files are
            the same, and they are not tried again; the names of those refused no archive can hold.
        refused: these, as failures.
        gone: names in the archive that are known not to be there any more. Photos that came from memory (bytes that
            were given, an upload whose file was not kept) never were there, and stay.
        failed: names of new and changed photos that could not be read before.
        settled: recorded failures that hold no longer: they are gone, or as they were when they were indexed.
    """

    photos: "PhotoList"
    kinds: bytearray
    refused: list["PhotoFailure"]
    gone: list[str]
    failed: list[str]
    settled: list[str]

    def count(self, *kinds: Kind) -> int:
        """Return how many photos are of some kinds."""
        return sum(self.kinds.count(kind) for kind in kinds)

    def of(self, *kinds: Kind) -> "Iterator[PhotoSource]":
        """Yield the photos of some kinds, in order."""
        return compress(self.photos.photos, map(frozenset(kinds).__contains__, self.kinds))

    def is_todo(self, name: str) -> bool:
        """Return whether a photo is to be indexed."""
        row = self.photos.row(name)
        return row is not None and self.kinds[row] in TODO

    def todo(self) -> dict[str, "PhotoSource"]:
        """Return what is to be done; at its head, photos that fail again would use up a share of failures at once."""
        before = set(self.failed)
        todo = {photo.name: photo for kind in TODO for photo in self.of(kind)}
        return {name: todo[name] for failed in (False, True) for name in todo if (name in before) is failed}

    def examples(self) -> Iterator[tuple[str, int, list[str]]]:
        """Yield every kind of photo, how many there are, and some of their names."""
        for kind in (Kind.NEW, Kind.CHANGED):
            yield kind.name.lower(), self.count(kind), self._some(kind)
        yield "unchanged", self.count(Kind.UNCHANGED), []
        yield "refused", len(self.refused), [failure.name for failure in self.refused[:EXAMPLES]]
        yield "given_up", self.count(Kind.GIVEN_UP), self._some(Kind.GIVEN_UP)
        for what, known in (("gone", self.gone), ("failed_before", self.failed)):
            yield what, len(known), known[:EXAMPLES]

    def _some(self, kind: Kind) -> list[str]:
        return [photo.name for photo in islice(self.of(kind), EXAMPLES)]

    def metadata(self) -> dict[str, Any]:
        """Return counts and examples as JSON prints them."""
        kinds = list(self.examples())
        counts = {kind: count for kind, count, _ in kinds}
        return {**counts, "examples": {kind: names for kind, _, names in kinds if kind != "unchanged"}}


# The kinds that are indexed.
TODO = (Kind.NEW, Kind.CHANGED)


def make_plan(index: "Index | None", photos: "PhotoList", *, retry_failed: bool = False) -> IndexingPlan:
    """Compare a place with an archive.

    Args:
        index: the archive; None for one that is to be made.
        photos: the photos found; nothing in what could not be listed is taken for gone.
        retry_failed: try photos again that could not be decoded, though their files are the same.
    """
    if index is None:
        return _first_plan(photos)
    known, failures = index.known(), {failure["name"]: failure for failure in index.failures()}
    kinds = bytearray()
    tells = True  # the place: the state of each of its photos, so that one without came from elsewhere
    refused: list[PhotoFailure] = []
    for photo in photos.photos:
        state = photo.state()
        tells = tells and (state is not None or photos.folder is not None)
        reason = _refusal(photo.name)
        if reason is not None:
            refused.append(_failure(photo, reason))
            kinds.append(Kind.REFUSED)
        elif photo.name in known and known[photo.name] == state:
            kinds.append(Kind.UNCHANGED)
        elif not retry_failed and _is_given_up(failures.get(photo.name), state):
            kinds.append(Kind.GIVEN_UP)
        else:
            kinds.append(Kind.CHANGED if photo.name in known else Kind.NEW)
    rows = {name: photos.row(name) for name in failures}
    found = {name: None if row is None else kinds[row] for name, row in rows.items()}
    return IndexingPlan(
        photos=photos,
        kinds=kinds,
        refused=refused,
        gone=[name for name, state in known.items() if photos.is_gone(name) and not (state is None and tells)],
        failed=[name for name in failures if found[name] in TODO],
        settled=[
            name
            for name, failure in failures.items()
            if found[name] == Kind.UNCHANGED or _is_listed(failure) or photos.is_gone(name)
        ],
    )


def _first_plan(photos: "PhotoList") -> IndexingPlan:
    """Return what indexing means for an archive that is to be made: a hundred million files need not be looked at."""
    kinds = bytearray()
    refused: list[PhotoFailure] = []
    for row, name in enumerate(photos.names()):
        reason = _refusal(name)
        kinds.append(Kind.NEW if reason is None else Kind.REFUSED)
        if reason is not None:
            refused.append(_failure(photos.photos[row], reason))
    return IndexingPlan(photos=photos, kinds=kinds, refused=refused, gone=[], failed=[], settled=[])


def _refusal(name: str) -> str | None:
    """Return why no archive can hold a photo of this name; None if one can."""
    if name.isascii():
        return None
    from ctxdeploy.index import Index

    try:
        Index.check_name(name)
    except ConfigError as error:
        return str(error)
    return None


def _failure(photo: "PhotoSource", reason: str) -> "PhotoFailure":
    from ctxdeploy.runtime import PhotoFailure

    return PhotoFailure(name=photo.name, reason=reason, stage="index", file=photo.state())


def _is_listed(failure: dict[str, Any]) -> bool:
    """Return whether a failure is of the listing, which tells anew what cannot be listed."""
    return failure["stage"] == "list" or str(failure["name"]).endswith("/")


def _is_given_up(failure: dict[str, Any] | None, state: FileState | None) -> bool:
    """Return whether a photo failed for good; without a known state of the file it is tried again."""
    if failure is None or failure["stage"] != _LASTING or state is None:
        return False
    return (failure.get("size"), failure.get("mtime_ns")) == (state.size, state.mtime_ns)


def check_sync(plan: IndexingPlan, archive: object, photos: "PhotoList") -> None:
    """Raise ``ConfigError`` if the archive would lose all its photos: an empty mount point, or another folder."""
    if plan.gone and not plan.count(Kind.CHANGED, Kind.UNCHANGED):
        raise ConfigError(
            f"--sync would remove {len(plan.gone)} photos of {archive} and keep none, for none of its photos is in "
            f"{photos.place}: if that is the right place, run once without --sync"
        )


# Photos that are tried, spread over all; one more goes first, for engines compile at their first photo of a size.
TRIED = 5
# A posting: a code of one bit a dimension, 2 bytes for the photo's number, 8 for position and scale.
_NUMBER_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is expected.

    Attributes:
        photos: to be indexed.
        tried: photos that the figures are from.
        seconds_a_photo: of reading, decoding and network; on an idle machine, assignment and writing come on top.
        descriptors: a photo.
        seconds: of all photos.
        bytes: of the shards, at most: descriptors of one photo that share a word share a posting.
    """

    photos: int
    tried: int
    seconds_a_photo: float
    descriptors: float
    seconds: float
    bytes: int

    @property
    def seconds_text(self) -> str:
        """The time as a person says it."""
        for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
            if self.seconds >= 1.5 * length:
                return f"{self.seconds / length:.1f} {unit}"
        return f"{self.seconds:.0f} seconds" if self.seconds >= 1.5 else "a second"

    @property
    def bytes_text(self) -> str:
        """The size as a person says it."""
        for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
            if self.bytes >= size:
                return f"{self.bytes / size:.1f} {unit}"
        return f"{self.bytes / 1000:.0f} kB"

    def metadata(self) -> dict[str, Any]:
        """Return the figures as JSON prints them."""
        return asdict(self)


def estimate(
    photos: Sequence["PhotoSource"], archive: Path, extractor: "Extractor", config: "IndexingConfig"
) -> Estimate | None:
    """Extract a few photos and extrapolate; None if none of them can be read.

    Args:
        photos: to be indexed.
        archive: new or not; says whether geometry is kept.
        extractor: the model.
        config: for a new archive.
    """
    if not photos:
        return Estimate(photos=0, tried=0, seconds_a_photo=0.0, descriptors=0.0, seconds=0.0, bytes=0)
    sample = [photos[i * len(photos) // TRIED] for i in range(TRIED)] if len(photos) > TRIED else list(photos)
    for photos_of_run in (sample[:1], sample):
        with closing(extractor.extract(photos_of_run)) as results:
            counts = [len(result.descriptors) for result in results if isinstance(result, PhotoDescriptors)]
    if not counts:
        return None
    # Of what ran, not of the time between results, which come together from a batch. The stages run beside each other.
    spent, given = extractor.statistics.seconds, extractor.config
    seconds = max(spent.network, spent.decode / given.workers, spent.read / given.read_threads) / len(sample)
    descriptors = sum(counts) / len(counts)
    dim = extractor.bundle.extraction.dim
    made = _index_config(archive, config, extractor.bundle)
    posting = dim / 8 + _NUMBER_BYTES + made.feature_bytes(dim)
    return Estimate(
        photos=len(photos),
        tried=len(counts),
        seconds_a_photo=seconds,
        descriptors=descriptors,
        seconds=seconds * len(photos),
        bytes=int((posting * descriptors + made.global_bytes) * len(photos)),
    )


def _index_config(archive: Path, config: "IndexingConfig", bundle: "Bundle") -> "IndexConfig":
    from ctxdeploy.index import Index

    if not is_archive(archive):
        return config.for_archive(bundle)
    with Index.open(archive) as index:
        return index.config
