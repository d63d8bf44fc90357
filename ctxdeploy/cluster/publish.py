"""Segments into an archive, new or not: one commit, files alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.archive import (
    check_origin,
    check_precision,
    has_model,
    is_archive,
    open_model,
    store_model,
    store_origin,
)
from ctxdeploy.cluster.segment import codebook_path, model_path, quantiser_path, remove_abandoned
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.errors import ArchiveError, ConfigError, MismatchError
from ctxdeploy.core.files import file_sha256, new_folder
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.indexing.job import check_free, gives_local

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook, GlobalQuantiser, Index, Published, Segment
    from ctxdeploy.runtime.sources import PhotoList


@dataclass(frozen=True, kw_only=True)
class PublishReceipt:
    """What publishing did.

    Attributes:
        segments: their folders and what each brought, in the order in which they were taken.
        is_new: the archive was made.
        changed: the archive has a new state; False where all was there already.
        images: photos in the archive now.
    """

    segments: "Sequence[tuple[Path, Published]]"
    is_new: bool
    changed: bool
    images: int

    @property
    def totals(self) -> dict[str, int]:
        """What all segments brought together."""
        names = ("added", "replaced", "unchanged", "older", "failed")
        return {name: sum(getattr(one, name) for _, one in self.segments) for name in names}

    def metadata(self) -> dict[str, Any]:
        """Return the receipt as JSON prints it."""
        facts = {"is_new": self.is_new, "changed": self.changed, "images": self.images, **self.totals}
        return {**facts, "segments": [{"path": str(path), **asdict(one)} for path, one in self.segments]}


def publish(
    archive: Path,
    segments: "Sequence[Segment]",
    display: Display,
    *,
    model: Path | None = None,
    moved: bool = False,
) -> PublishReceipt:
    """Take segments into an archive, which is made if there is none; all of them, or none.

    Args:
        archive: its folder.
        segments: at least one, in order: a later one's photo replaces an earlier one's of the same name, unless its
            file is older.
        display: where progress and remarks go.
        model: the bundle that made them, where it does not lie beside them.
        moved: the photos were at another place than the archive's, and are the same ones.

    Raises:
        ConfigError: no segment, or segments of another place.
        MismatchError: segments of another codebook, model, preprocessing, setting, or far precision.
        ArchiveError: a segment or the archive is damaged, another process writes the archive, or other files are there.
        StorageError: it cannot be written; it is as it was.
    """
    from ctxdeploy.index import Index

    if not segments:
        raise ConfigError(f"there is no segment to publish into {printable(str(archive))}")
    if is_archive(archive):
        with Index.open(archive, writable=True) as index:
            return _publish(index, segments, display, moved=moved, is_new=False)
    check_free(archive)
    bundle = _bundle(segments, model)
    codebook = _codebook(segments) if gives_local(bundle) else None
    remove_abandoned(archive.parent, f"-{archive.name}")
    # Whole under its name, or not at all: nobody opens an archive without its photos.
    with new_folder(archive, advice="choose another ARCHIVE") as partial:
        manifest, quantiser = segments[0].manifest, _quantiser(segments)
        with Index.create(
            partial, codebook, config=manifest.config, source=manifest.source, quantiser=quantiser
        ) as index:
            store_model(partial, bundle)
            return _publish(index, segments, display, moved=moved, is_new=True)


def _publish(
    index: "Index", segments: "Sequence[Segment]", display: Display, *, moved: bool, is_new: bool
) -> PublishReceipt:
    archive = index.path
    places = [place_of(segment) for segment in segments]
    if not moved:
        for segment, place in zip(segments, places, strict=True):
            if (place.place, place.folder) != (places[0].place, places[0].folder):
                raise ConfigError(
                    f"{segments[0].path} has photos of {printable(places[0].place)}, {segment.path} of "
                    f"{printable(place.place)}: publish them into archives of their own, or say  --moved  if these "
                    "are the same photos"
                )
        check_origin(archive, places[0])
    for segment in _one_of_each_precision(segments):
        remark = _check_precision(archive, segments[0] if is_new else None, segment)
        if remark is not None:
            display.say(remark)
    before = index.state.manifest.number
    with display.progress("publishing", len(segments), "segments") as bar:
        published = index.publish(segment.path for segment in segments)
        bar.advance(len(segments))
    changed = index.state.manifest.number > before
    if changed:
        store_origin(archive, places[-1], segments[-1].facts["extraction"], moved=True)
    return PublishReceipt(
        segments=[(segment.path, one) for segment, one in zip(segments, published, strict=True)],
        is_new=is_new,
        changed=changed,
        images=len(index),
    )


def place_of(segment: "Segment") -> "PhotoList":
    """Return the place that a segment's photos are of, without its photos."""
    from ctxdeploy.runtime.sources import PhotoList

    folder = segment.facts["folder"]
    return PhotoList(place=segment.facts["place"], photos=[], folder=None if folder is None else Path(folder))


def _one_of_each_precision(segments: "Sequence[Segment]") -> "list[Segment]":
    found: dict[str, Segment] = {}
    for segment in segments:
        found.setdefault(segment.facts["extraction"]["precision"], segment)
    return list(found.values())


def _check_precision(archive: Path, first: "Segment | None", segment: "Segment") -> str | None:
    if not has_model(archive):
        return None
    bundle, precision = open_model(archive, check_hashes=False), segment.facts["extraction"]["precision"]
    if first is None:
        return check_precision(archive, bundle, precision, other=f" of {printable(str(segment.path))}")
    former = first.facts["extraction"]["precision"]
    return check_precision(archive, bundle, precision, other=f" of {printable(str(segment.path))}", former=former)


def _bundle(segments: "Sequence[Segment]", given: Path | None) -> Bundle:
    """Return the bundle that made the first segment: the given one, or the one beside a segment."""
    source = segments[0].manifest.source
    if source is None:
        raise ArchiveError(f"{segments[0].path} does not say which model made it: extract it anew")
    if given is not None:
        bundle = open_bundle(given)
        if (bundle.model_id, bundle.preprocessing.hash) != (source.model, source.preprocessing):
            raise MismatchError(
                f"{segments[0].path} was made with the model {source.model[:12]} ({source.description}), but --model "
                f"{printable(str(given))} is {bundle.model_id[:12]}: give the model of  ctxdeploy extract"
            )
        return bundle
    for segment in segments:
        path = model_path(segment.path.parent, source.model, source.preprocessing)
        if path.exists():
            return open_bundle(path)
    raise ConfigError(
        f"a new archive needs the model of its segments, and {printable(str(segments[0].path.parent))} has no "
        f"{model_path(Path(), source.model, source.preprocessing)}: name the bundle with --model"
    )


def _codebook(segments: "Sequence[Segment]") -> "Codebook":
    from ctxdeploy.index import Codebook

    wanted = segments[0].manifest.codebook_id
    path = _beside(segments, "codebook", codebook_path(Path(), wanted).name)
    codebook = Codebook.load(path)
    codebook.check(str(path))
    if codebook.id != wanted:
        raise ArchiveError(f"{path} is damaged: it is not the codebook of its name; delete it and extract again")
    return codebook


def _quantiser(segments: "Sequence[Segment]") -> "GlobalQuantiser | None":
    """Return what the global vectors of segments are coded with and found by; None where they need nothing."""
    from ctxdeploy.index import GlobalQuantiser

    entry = segments[0].manifest.quantiser
    if entry is None:
        return None
    path = _beside(segments, "quantiser", quantiser_path(Path(), entry.sha256).name)
    if file_sha256(path) != entry.sha256:
        raise ArchiveError(f"{path} is damaged: it is not the quantiser of its name; delete it and extract again")
    return GlobalQuantiser.load(path, segments[0].manifest.config)


def _beside(segments: "Sequence[Segment]", kind: str, name: str) -> Path:
    """Return the file of a name that lies beside one of the segments."""
    paths = [parts / name for parts in dict.fromkeys(segment.path.parent for segment in segments)]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise ArchiveError(f"a new archive needs the {kind} of its segments, and {paths[0]} is missing: copy it there")
    return path
