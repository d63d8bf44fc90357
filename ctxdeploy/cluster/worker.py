"""A worker of a cluster: makes segments of lists of names; it knows nothing of Ray."""

import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import ctxdeploy
from ctxdeploy.cluster.config import SegmentConfig, named
from ctxdeploy.cluster.destination import Destination, destination_of
from ctxdeploy.cluster.lists import NameList
from ctxdeploy.cluster.progress import WorkerDisplay, progress_path
from ctxdeploy.cluster.segment import REPEAT
from ctxdeploy.cluster.unit import Receipt, SegmentMaker
from ctxdeploy.core import errors
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.errors import CtxdeployError
from ctxdeploy.core.locks import LockedError
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import native_path
from ctxdeploy.indexing.descriptor_cache import DescriptorCache

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig, Extractor, ExtractorConfig
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
        training: folder of descriptors that train the codebook of a new archive.
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
    training: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What comes back for a list: the receipt, or the error's class, text and machine.

    Attributes:
        part: which list.
        receipt: of its segment.
        described: photos of the list whose descriptors are kept for training.
        failed: those that could not be read then.
        reasons: how often photos failed for which reason.
        error: name of a class in ``ctxdeploy.core.errors``.
        text: of the error, after the name of the machine.
        is_locked: another process is at it, or was a moment ago.
        worker: machine and process.
    """

    part: Part
    receipt: Receipt | None = None
    described: int | None = None
    failed: Sequence[str] = ()
    reasons: "Counter[str] | None" = None
    error: str = ""
    text: str = ""
    is_locked: bool = False
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")

    @classmethod
    def of_error(cls, part: Part, error: CtxdeployError) -> Self:
        """Return what is said of an error; of a class that ``errors`` lacks, by the one that it stands for there."""
        kind = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
        text = f"{socket.gethostname()}: {error}"
        return cls(part=part, error=kind, text=text, is_locked=isinstance(error, LockedError))

    @property
    def is_done(self) -> bool:
        """Whether the list is done; else there is an error."""
        return self.receipt is not None or self.described is not None

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

    def version(self) -> tuple[str, str]:
        """Return the machine, and its version of ctxdeploy: the worker is there."""
        return socket.gethostname(), ctxdeploy.__version__

    def make(self, names: NameList, *, is_repeat: bool = False) -> Reply:
        """Make the segment of a list, or find that it is there; an error of ours becomes a reply.

        Args:
            names: the photos.
            is_repeat: another worker is at it too: work in a folder of one's own.
        """
        own = f"{REPEAT}{socket.gethostname()}-{os.getpid()}-{names.part.number}"
        work = self._spec.parts / own if is_repeat else None
        try:
            receipt = self._maker(work, names.part.number).make(self._photos(names), names.part)
        except CtxdeployError as error:
            return Reply.of_error(names.part, error)
        finally:
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)
        return Reply(part=names.part, receipt=receipt, reasons=_reasons(receipt))

    def describe(self, names: NameList, *, is_repeat: bool = False) -> Reply:
        """Extract the descriptors of a list for training, but for those that are there; they are kept on disk.

        Args:
            names: the photos.
            is_repeat: another worker is at it too, which does no harm: files are whole or not there.
        """
        from ctxdeploy.runtime import PhotoFailure

        try:
            extractor, bundle = self._extractor, self._extractor.bundle
            cache = training_cache(self._spec.training or Path(), bundle)
            photos = [photo for photo in self._photos(names).photos if not cache.has(photo.name, photo.state())]
            failed: dict[str, str] = {}
            with closing(extractor.extract(photos)) as results:
                for result in results:
                    if isinstance(result, PhotoFailure):
                        failed[result.name] = result.reason
                    else:
                        cache.put(result)
        except CtxdeployError as error:
            return Reply.of_error(names.part, error)
        described = len(names.names) - len(failed)
        return Reply(part=names.part, described=described, failed=list(failed), reasons=Counter(failed.values()))

    @cached_property
    def _extractor(self) -> "Extractor":
        from ctxdeploy.runtime import Extractor

        spec = self._spec
        return Extractor(open_bundle(spec.model), backend=spec.backend, config=spec.extraction)

    @cached_property
    def _destination(self) -> Destination:
        return destination_of(self._spec.segment, self._extractor.bundle)

    def _maker(self, work: Path | None, number: int) -> SegmentMaker:
        spec = self._spec
        shown = WorkerDisplay(progress_path(spec.parts, number))
        return SegmentMaker(
            spec.parts, self._extractor, self._destination, spec.segment, shown, work, training=spec.training
        )

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


def training_cache(folder: Path, bundle: Bundle) -> DescriptorCache:
    """Return the descriptors of a model that train a codebook."""
    return DescriptorCache(folder, {"model": bundle.model_id, "preprocessing": bundle.preprocessing.hash})


def _reasons(receipt: Receipt) -> "Counter[str]":
    from ctxdeploy.index import open_segment

    entry = open_segment(receipt.segment).manifest.failures
    if entry is None:
        return Counter()
    with (receipt.segment / entry.file).open(encoding="ascii") as lines:
        return Counter(json.loads(line)["reason"] for line in lines)
