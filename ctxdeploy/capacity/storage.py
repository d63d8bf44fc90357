"""Bytes of an archive, on disk and in memory, and how many machines hold it."""

import math
from dataclasses import dataclass

from ctxdeploy.capacity.costs import Costs
from ctxdeploy.capacity.figures import BYTES, COUNT, figure
from ctxdeploy.capacity.subject import Subject
from ctxdeploy.index import PhotoSizes, codebook_bytes, photo_sizes, quantiser_bytes, shard_photos, statistics_bytes

# A manifest, an entry of a shard in it with that of its list of names, that of its vectors; headers of the codebook.
_MANIFEST, _ENTRY, _VECTORS_ENTRY, _HEADERS = 650, 455, 205, 300
# Bytes in memory of a photo that is opened: its factor (float64), which is made once more under idf, and of a shard:
# which of 65,536 photos are there. With cells: the number of the photo in order, and where each of 65,536 begins.
_FACTOR, _LIVE, _ORDER, _CELL_STARTS = 8, 1 << 16, 8, 8 << 16
# Of a table of names: a hash and a place.
_NAME = 16
# A codebook in memory lies there twice: mapped, and packed for the loops.
_COPIES = 2


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What an archive takes.

    Attributes:
        sizes: of all its shards.
        shard_images: photos of a full shard.
        shards: full ones, as ``compact`` makes them.
        lists: shards before that, one for each segment at least.
        postings: of all photos.
        on_disk: of all files.
    """

    sizes: PhotoSizes
    shard_images: int
    shards: int = figure("shards, compacted", COUNT)
    segments: int = figure("segments (lists of photos)", COUNT)
    postings: float = figure("postings", COUNT)
    posting_bytes: float = figure("postings and their lists", BYTES)
    geometry_bytes: float = figure("geometry", BYTES)
    name_bytes: float = figure("names, twice, and times of files", BYTES)
    vector_bytes: float = figure("global vectors", BYTES)
    codebook: float = figure("codebook, quantiser and statistics", BYTES)
    manifest: float = figure("manifest of a state", BYTES)
    on_disk: float = figure("on disk", BYTES)
    per_photo: float = figure("a photo", BYTES)


def holdings(subject: Subject, costs: Costs, list_size: int) -> Holdings:
    """Return what an archive of so many photos takes, once it is compacted."""
    photos = subject.photos
    one = _shard(subject, costs, min(photos, subject.config.shard_images))
    full = min(shard_photos(subject.config, one.shard / min(photos, subject.config.shard_images)), photos)
    shards = -(-photos // full)
    sizes = _shard(subject, costs, full).times(photos // full)
    rest = photos % full
    if rest:
        last = _shard(subject, costs, rest)
        sizes = PhotoSizes(**{name: value + getattr(last, name) for name, value in vars(sizes).items()})
    codebook = codebook_bytes(subject.words, subject.dim) if subject.words else 0
    codebook += quantiser_bytes(subject.config, subject.cells) + _HEADERS
    codebook += statistics_bytes(subject.words, photos) if subject.config.idf else 0
    manifest = _MANIFEST + shards * (_ENTRY + (_VECTORS_ENTRY if subject.config.keeps_global else 0))
    total = sizes.total + codebook + manifest
    return Holdings(
        sizes=sizes,
        shard_images=full,
        shards=shards,
        segments=-(-photos // min(list_size, full)),
        postings=photos * costs.photo.words_per_photo,
        posting_bytes=sizes.postings + sizes.lists,
        geometry_bytes=sizes.geometry,
        name_bytes=sizes.names + sizes.listed,
        vector_bytes=sizes.vectors,
        codebook=codebook,
        manifest=manifest,
        on_disk=total,
        per_photo=total / photos,
    )


def _shard(subject: Subject, costs: Costs, images: int) -> PhotoSizes:
    photo = costs.photo
    return photo_sizes(
        subject.config,
        words=subject.words,
        dim=subject.dim,
        images=images,
        postings=round(images * photo.words_per_photo),
        features=round(images * photo.features_per_photo),
        name_bytes=round(images * photo.name_bytes),
    )


@dataclass(frozen=True, kw_only=True)
class Machines:
    """How the archive lies on machines."""

    machines: int = figure("machines", COUNT)
    needed: int = figure("needed to hold it in memory", COUNT)
    photos: int = figure("photos of each", COUNT)
    shards: int = figure("shards of each", COUNT)
    memory: float = figure("in memory for searches at full speed, each", BYTES)
    allowed: float = figure("memory that it may take, each", BYTES)
    disk: float = figure("on disk, each", BYTES)
    writer: float = figure("in memory of the writer of the whole", BYTES)


def machines_for(
    subject: Subject, costs: Costs, held: Holdings, *, machines: int | None, replicas: int, memory: float, share: float
) -> Machines:
    """Return how an archive lies on machines: as many as are given, or as few as hold it.

    Args:
        subject, costs, held: the archive.
        machines: given ones; None for as few as can hold it.
        replicas: copies of each part.
        memory: bytes of a machine.
        share: of it that the archive and its process may take.
    """
    per_photo, per_shard = _resident(subject, held)
    allowed = memory * share
    fixed = costs.machine.process_memory + _COPIES * (
        codebook_bytes(subject.words, subject.dim) if subject.words else 0
    )
    whole = replicas * (subject.photos * per_photo + held.shards * per_shard)
    needed = max(math.ceil(whole / (allowed - fixed)), replicas) if allowed > fixed else 0
    count = machines or max(needed, 1)
    photos = -(-subject.photos * replicas // count)
    shards = -(-held.shards * replicas // count)
    return Machines(
        machines=count,
        needed=needed,
        photos=min(photos, subject.photos),
        shards=shards,
        memory=fixed + photos * per_photo + shards * per_shard,
        allowed=allowed,
        disk=held.on_disk * replicas / count,
        writer=costs.machine.process_memory + subject.photos * (_NAME + _FACTOR) + held.shards * _LIVE,
    )


def _resident(subject: Subject, held: Holdings) -> tuple[float, float]:
    """Return the bytes of a photo, and of a shard, that must lie in memory for searches at full speed.

    Geometry and names are read for the hits alone.
    """
    config, sizes = subject.config, held.sizes
    words_lists = 4 * (subject.words + 1)
    per_photo = (sizes.postings + sizes.lists + sizes.vectors - held.shards * words_lists) / subject.photos
    per_photo += _FACTOR * (3 if config.idf else 1) + (_ORDER if config.global_search == "ivf" else 0)
    return per_photo, words_lists + _LIVE + (_CELL_STARTS if config.global_search == "ivf" else 0)
