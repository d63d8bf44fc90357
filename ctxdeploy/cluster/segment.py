"""Segments on disk: what they are called, where they lie, and which parts of a place they are."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.cluster.destination import Destination
from ctxdeploy.core.errors import ArchiveError, ConfigError, StorageError
from ctxdeploy.core.files import TEMPORARY, file_sha256, remove_folder, settings_sha256, write_file
from ctxdeploy.core.locks import LOCK, WriterLock
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import name_bytes, printable

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Bundle
    from ctxdeploy.index import Codebook, Segment
    from ctxdeploy.runtime import Extractor
    from ctxdeploy.runtime.sources import PhotoList

SUFFIX = ".ctxsegment"
_WORK = ".work-"
TRAINED = "trained-"
# Of a list that another worker has too.
REPEAT = ".repeat-"
# Hex digits of a sha256 that a file's name has.
_DIGITS = 32
_FORMAT = 1
_ABANDONED_SECONDS = 86400.0
# Hours of extraction may lie in it, and its task may wait in a queue for days.
_ABANDONED_WORK_SECONDS = 7 * 86400.0
# Letters of the end of its name that a temporary file keeps.
_KEPT_OF_NAME = 40


def segment_id(photos: "PhotoList", destination: Destination, extractor: "Extractor", boxes: Path | None) -> str:
    """Return the hex sha256 of all that decides what a segment holds.

    These are the sorted names with size and time of change of their files, what could not be listed, model,
    preprocessing, codebook, settings of the archive, boxes, limits of decoding, and the precision of the network.
    """
    digest = hashlib.sha256()
    for photo in photos.photos:
        state, name = photo.state(), name_bytes(photo.name)
        size, changed = (-1, -1) if state is None else (state.size, state.mtime_ns)
        digest.update(b"%d %d %d " % (size, changed, len(name)) + name)
    return settings_sha256(
        {
            "segment": _FORMAT,
            "photos": digest.hexdigest(),
            "unlisted": [name_bytes(failure.name).hex() for failure in photos.unreadable],
            **destination.metadata(),
            "boxes": None if boxes is None else file_sha256(boxes),
            "limits": extractor.config.limits.metadata(),
            "precision": extractor.description()["precision"],
        }
    )


def segment_path(parts: Path, identity: str) -> Path:
    """Return the folder of a segment among others."""
    return parts / f"{identity[:_DIGITS]}{SUFFIX}"


def work_path(folder: Path, identity: str) -> Path:
    """Return the folder of what is extracted of a segment so far."""
    return folder / f"{_WORK}{identity[:_DIGITS]}"


def codebook_path(parts: Path, identity: str) -> Path:
    """Return the file of the codebook of segments, by its id."""
    return parts / f"codebook-{identity[:_DIGITS]}.safetensors"


def quantiser_path(parts: Path, sha256: str) -> Path:
    """Return the file of the quantiser of segments, by the hash of its bytes."""
    return parts / f"quantiser-{sha256[:_DIGITS]}.safetensors"


def model_path(parts: Path, model: str, preprocessing: str) -> Path:
    """Return the folder of the model that made segments."""
    key = settings_sha256({"model": model, "preprocessing": preprocessing})
    return parts / f"model-{key[:_DIGITS]}.ctxbundle"


def holds_work(parts: Path) -> bool:
    """Return whether a folder of segments holds what took time: segments, finished or not, or what was trained."""
    return any(path.name.startswith((_WORK, TRAINED)) or path.suffix == SUFFIX for path in parts.glob("*"))


def finished_in(folder: Path) -> list[Path]:
    """Return the segments in a folder, sorted; hidden ones are being written, or their process was killed."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith(TEMPORARY))


def remove_abandoned(folder: Path, ending: str) -> None:
    """Remove what interrupted processes left in a folder of files and folders whose names end so; what is younger than
    a day may be a running one's."""
    _remove_old(folder, TEMPORARY, _ABANDONED_SECONDS, ending[-_KEPT_OF_NAME:])


def remove_abandoned_in(parts: Path) -> None:
    """Remove what interrupted processes left in a folder of segments: after a day what nobody goes on with, after a
    week unfinished segments, unless a process has them open."""
    _remove_old(parts, TEMPORARY, _ABANDONED_SECONDS)
    _remove_old(parts, REPEAT, _ABANDONED_SECONDS)
    _remove_old(parts, _WORK, _ABANDONED_WORK_SECONDS)


def _remove_old(folder: Path, beginning: str, seconds: float, ending: str = "") -> None:
    """Remove what is called so and was not changed for so long, and what cannot be looked at stays."""
    with suppress(OSError):
        found = [path for path in folder.iterdir() if path.name.startswith(beginning) and path.name.endswith(ending)]
        for path in found:
            with suppress(OSError):  # another process may be faster
                if time.time() - _changed(path) > seconds:
                    remove_unused(path)


def _changed(path: Path) -> float:
    """Return when a file changed, or a folder or one in it: commits change the folder of an archive, shards those
    below."""
    return float(max(found.stat().st_mtime for found in (path, *(path.iterdir() if path.is_dir() else ()))))


def remove_unused(path: Path) -> None:
    """Remove a file, or a folder that no process has open for writing; what cannot be removed stays."""
    with suppress(OSError, ArchiveError, StorageError):
        if not path.is_dir():
            path.unlink()
            return
        lock = WriterLock(path) if (path / LOCK).exists() else None
        try:
            remove_folder(path)
        finally:
            if lock is not None:
                lock.release()


def store_shared(parts: Path, destination: Destination, bundle: "Bundle") -> None:
    """Put codebook, quantiser and model beside the segments, once: a new archive is made of them. Several machines may
    do so."""
    codebook: Codebook | None = destination.codebook
    if codebook is not None and not codebook_path(parts, codebook.id).exists():
        codebook.save(codebook_path(parts, codebook.id))
    quantiser, identity = destination.quantiser, destination.quantiser_id
    if quantiser is not None and not quantiser_path(parts, identity).exists():
        write_file(quantiser_path(parts, identity), quantiser.encode())
    store_model_beside(parts, bundle)


def store_model_beside(parts: Path, bundle: "Bundle") -> None:
    """Put a model beside the segments, once."""
    from ctxdeploy.archive import copy_model

    target = model_path(parts, bundle.model_id, bundle.preprocessing.hash)
    if target.exists():
        return
    try:
        copy_model(bundle, target)
    except StorageError:
        if not target.exists():  # else another machine was faster
            raise


@dataclass(frozen=True, kw_only=True)
class FoundSegments:
    """The segments in some folders.

    Attributes:
        segments: those of parts in their order, then the others by their first name; each id once.
        unfinished: work of segments that are not finished.
        missing: parts that are not there, where the others were made with ``--part``.
    """

    segments: Sequence["Segment"]
    unfinished: Sequence[Path]
    missing: Sequence[Part]


def find_segments(paths: Iterable[Path]) -> FoundSegments:
    """Return the segments at some paths: a segment itself, or a folder that holds some.

    Raises:
        ConfigError: a path is neither.
        ArchiveError: a segment is damaged.
    """
    from ctxdeploy.index import is_segment, open_segment

    found: dict[str, Segment] = {}
    unfinished: list[Path] = []
    for path in paths:
        inside = [path] if is_segment(path) else finished_in(path)
        works = sorted(path.glob(f"{_WORK}*"))
        if not inside and not works:
            there = "holds no segment" if path.is_dir() else "is not a folder with segments"
            raise ConfigError(f"{printable(str(path))} {there}: make some with  ctxdeploy extract -o")
        for segment in map(open_segment, inside):
            found.setdefault(segment.id, segment)
        unfinished += works
    segments = sorted(found.values(), key=_order)
    finished = {segment_path(Path(), identity).stem for identity in found}
    left = [work for work in unfinished if work.name.removeprefix(_WORK) not in finished]
    return FoundSegments(segments=segments, unfinished=left, missing=_missing(segments))


def part_of(segment: "Segment") -> Part | None:
    """Return which part of its place a segment is; None if it was made of given names."""
    part = segment.facts.get("part")
    return None if part is None else Part(number=part[0], count=part[1])


def _order(segment: "Segment") -> tuple[bool, int, bytes, str]:
    part: Any = part_of(segment)
    return part is None, 0 if part is None else part.number, name_bytes(segment.facts["first"]), segment.id


def _missing(segments: Sequence["Segment"]) -> list[Part]:
    parts = {part for part in map(part_of, segments) if part is not None}
    counts = {part.count for part in parts}
    wanted = {Part(number=number, count=count) for count in counts for number in range(1, count + 1)}
    return sorted(wanted - parts, key=lambda part: (part.count, part.number))
