"""A worker of a cluster: makes segments of lists of names; it knows nothing of Ray."""

import json
import shutil
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.cluster.config import Part, SegmentConfig, named
from ctxdeploy.cluster.destination import destination_of
from ctxdeploy.cluster.unit import Receipt, SegmentMaker
from ctxdeploy.core import errors
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.errors import CtxdeployError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import native_path

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig, ExtractorConfig, PhotoFailure
    from ctxdeploy.runtime.sources import PhotoList, RemoteConfig, Selection


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """All that a worker needs to know, wherever it runs: paths on storage that all machines see, and settings.

    Attributes:
        place: of the photos: an absolute path, or a URL.
        folder: the folder that the names are paths in; None for places that have to be listed.
        recursive, selection, remote: how the place is listed.
        backend, extraction: of the network.
        parts: folder of the segments.
        model: folder of the bundle.
        segment: codebook and settings.
    """

    place: str
    folder: Path | None
    recursive: bool
    selection: "Selection"
    remote: "RemoteConfig"
    backend: "BackendConfig"
    extraction: "ExtractorConfig"
    parts: Path = Path()
    model: Path = Path()
    segment: SegmentConfig = field(default_factory=SegmentConfig)


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


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What comes back for a list: the receipt, or the error's class, text and machine.

    Attributes:
        reasons: how often photos failed for which reason.
    """

    part: Part
    receipt: Receipt | None = None
    reasons: "Counter[str] | None" = None
    error: str = ""
    text: str = ""

    def raised(self) -> CtxdeployError:
        """Return the error as it was raised there."""
        kind = getattr(errors, self.error, CtxdeployError)
        # Its text is made of other arguments.
        return CtxdeployError(self.text) if kind is errors.MissingExtraError else kind(self.text)


class SegmentWorker:
    """Makes one segment after the other; the network is loaded with the first.

    Args:
        spec: what it needs to know.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec

    def make(self, names: NameList, *, is_repeat: bool = False) -> Reply:
        """Make the segment of a list, or find that it is there; an error of ours becomes a reply.

        Args:
            names: the photos.
            is_repeat: another worker is at it too: work in a folder of one's own.
        """
        work = self._spec.parts / f".repeat-{socket.gethostname()}-{names.part.number}" if is_repeat else None
        try:
            receipt = self._maker(work).make(self._photos(names), names.part)
        except CtxdeployError as error:
            return Reply(part=names.part, error=type(error).__name__, text=f"{socket.gethostname()}: {error}")
        finally:
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)
        return Reply(part=names.part, receipt=receipt, reasons=_reasons(receipt) if receipt.is_new else Counter())

    @cached_property
    def _parts(self) -> dict[str, Any]:
        from ctxdeploy.runtime import Extractor

        spec = self._spec
        bundle = open_bundle(spec.model)
        extractor = Extractor(bundle, backend=spec.backend, config=spec.extraction)
        return {"extractor": extractor, "destination": destination_of(spec.segment, bundle)}

    def _maker(self, work: Path | None) -> SegmentMaker:
        made = self._parts
        shown = Display(quiet=True)
        return SegmentMaker(self._spec.parts, made["extractor"], made["destination"], self._spec.segment, shown, work)

    @cached_property
    def _listed(self) -> "PhotoList":
        from ctxdeploy.runtime.sources import list_photos

        spec = self._spec
        return list_photos(spec.place, recursive=spec.recursive, remote=spec.remote, selection=spec.selection)

    def _photos(self, names: NameList) -> "PhotoList":
        """Return the photos of the names; those of a folder without looking into it."""
        from ctxdeploy.runtime import PhotoSource
        from ctxdeploy.runtime.sources import PhotoList

        folder = self._spec.folder
        if folder is None:
            return replace(named(self._listed, list(names.names), "the driver"), unreadable=tuple(names.unlisted))
        return PhotoList(
            place=str(folder),
            photos=[PhotoSource(name=name, path=folder / native_path(name)) for name in names.names],
            unreadable=tuple(names.unlisted),
            folder=folder,
        )


def _reasons(receipt: Receipt) -> "Counter[str]":
    from ctxdeploy.index import open_segment

    entry = open_segment(receipt.segment).manifest.failures
    if entry is None:
        return Counter()
    with (receipt.segment / entry.file).open(encoding="ascii") as lines:
        return Counter(json.loads(line)["reason"] for line in lines)
