"""How long an indexing would take, and how much it would store."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.archive import is_archive

if TYPE_CHECKING:
    from ctxdeploy.indexing.job import IndexingConfig
    from ctxdeploy.runtime import Extractor, PhotoSource

# Photos that are tried, spread over all; one more goes first, for engines compile at their first photo of a size.
TRIED = 5
# A posting: a code of one bit a dimension, 2 bytes for the photo's number, 8 for position and scale.
_NUMBER_BYTES, _GEOMETRY_BYTES = 2, 8


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
    from ctxdeploy.runtime import PhotoDescriptors

    if not photos:
        return Estimate(photos=0, tried=0, seconds_a_photo=0.0, descriptors=0.0, seconds=0.0, bytes=0)
    sample = [photos[i * len(photos) // TRIED] for i in range(TRIED)] if len(photos) > TRIED else list(photos)
    for photos_of_run in (sample[:1], sample):
        with closing(extractor.extract(photos_of_run)) as results:
            counts = [len(result.descriptors) for result in results if isinstance(result, PhotoDescriptors)]
    if not counts:
        return None
    # Of what ran, not of the time between results, which come together from a batch. The stages run beside each other.
    flow, given = extractor.flow, extractor.config
    seconds = max(flow.network, flow.decode / given.workers, flow.read / given.read_threads) / len(sample)
    descriptors = sum(counts) / len(counts)
    posting = (
        extractor.bundle.extraction.dim / 8 + _NUMBER_BYTES + (_GEOMETRY_BYTES if _geometry(archive, config) else 0)
    )
    return Estimate(
        photos=len(photos),
        tried=len(counts),
        seconds_a_photo=seconds,
        descriptors=descriptors,
        seconds=seconds * len(photos),
        bytes=int(posting * descriptors * len(photos)),
    )


def _geometry(archive: Path, config: "IndexingConfig") -> bool:
    from ctxdeploy.index import Index

    if not is_archive(archive):
        return config.geometry
    with Index.open(archive) as index:
        return index.config.geometry
