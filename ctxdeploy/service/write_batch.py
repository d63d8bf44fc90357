"""The jobs that go into one commit: photos described, files stored, the archive changed, readers moved on."""

import errno
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError, PhotoError, StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import FileState, PhotoDescriptors
from ctxdeploy.index import Index
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.job import IndexingJob
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.jobs import ADD, REMOVE, Job, NewPhoto
from ctxdeploy.service.logs import log
from ctxdeploy.service.photo_files import OutsideError, PhotoFiles

if TYPE_CHECKING:
    from ctxdeploy.runtime import Extractor

# Photos that are described at the same time: one is decoded while the network has another.
_DESCRIBING = 3
_LOOKS, _PAUSE = 10, 0.1
_NO_FOLDER = "no picture is kept: the folder of the archive's photos is not known, or not there"


class WriteBatch:
    """Jobs that become one commit. Use it once.

    Args:
        served: the archive.
        index: it, open for writing.
        jobs: no two of the same photo.
        store_photos: the files of new photos are stored.
    """

    def __init__(self, served: ServedArchive, index: Index, jobs: Sequence[Job], *, store_photos: bool) -> None:
        self._served, self._index, self._jobs, self._store_photos = served, index, jobs, store_photos
        folder = served.folder() if store_photos else None
        self._files = None if folder is None else PhotoFiles(folder)
        self._stored: dict[str, FileState] = {}

    def commit(self) -> int:
        """Do the jobs, and return the number of the state that searches of this service are answered from now.

        Raises:
            CtxdeployError: nothing of it is in the archive; call ``undo``.
        """
        adding = [job for job in self._jobs if job.kind == ADD]
        removing = [job for job in self._jobs if job.kind == REMOVE]
        described = {job: self._described(job) for job in adding}
        files = {job: self._remove(job) for job in removing}
        self._add(described)
        self._index.commit()
        state = self._show(self._index.state.manifest.number)
        for job, states in files.items():
            self._remove_files(job, states)
        return state

    def undo(self) -> None:
        """Remove the files that were stored for new photos."""
        for name, state in self._stored.items():
            self._forget_file(name, state)

    def _described(self, job: Job) -> list[PhotoDescriptors]:
        """Describe the photos of a job, and store the files of those that can be read."""
        extractor = self._served.extractor
        if extractor is None:
            raise ConfigError(f"{self._served.name} has no network to describe photos with")
        if self._store_photos and self._files is None:
            job.remarks.append(_NO_FOLDER)
        found: list[PhotoDescriptors] = []
        with ThreadPoolExecutor(min(_DESCRIBING, len(job.photos))) as threads:
            results = threads.map(lambda photo: _describe(extractor, photo), job.photos)
            for photo, result in zip(job.photos, results, strict=True):
                try:
                    if isinstance(result, PhotoError):
                        raise result
                    found.append(replace(result, file=self._store(job, photo)))
                except PhotoError as error:
                    self._refuse(job, photo.name, str(error))
        return found

    def _refuse(self, job: Job, name: str, reason: str) -> None:
        reason = reason.removeprefix(f"{printable(name)}: ")
        job.failures.append({"name": name, "reason": self._served.told(reason)})

    def _store(self, job: Job, photo: NewPhoto) -> FileState | None:
        """Store the file of a photo and return its state; None where it cannot be, which is remarked.

        Raises:
            PhotoError: there is another file of this name, and it is not the archive's.
            StorageError: the disk is full.
        """
        if self._files is None:
            return None
        is_known = photo.name in self._index
        try:
            state = self._files.store(photo.name, photo.data, replace=is_known)
        except FileExistsError as error:
            same = self._files.same(photo.name, photo.data)
            if same is None:
                raise PhotoError("there is a file of this name, and the archive holds no such photo") from error
            return same
        except OutsideError as error:
            log.warning("%s: a photo is not stored: %s", self._served.name, error)
            job.remarks.append(f"{printable(photo.name)}: no picture is kept: its path is not one of plain folders")
        except StorageError as error:
            if _is_full(error):
                raise
            log.warning("%s: a photo is not stored: %s", self._served.name, error)
            job.remarks.append(f"{printable(photo.name)}: no picture is kept: {self._served.told(str(error))}")
        else:
            if not is_known:
                self._stored[photo.name] = state
            return state
        return None

    def _add(self, described: dict[Job, list[PhotoDescriptors]]) -> None:
        photos = [photo for found in described.values() for photo in found]
        extractor = self._served.extractor
        if not photos or extractor is None:
            return
        run = IndexingJob(self._served.path, extractor, IndexingConfig(), Display(quiet=True), self._index)
        refused = {failure["name"]: failure["reason"] for failure in run.described(photos).failures}
        for job, found in described.items():
            for name in refused.keys() & {photo.name for photo in found}:
                self._refuse(job, name, refused[name])
                state = self._stored.pop(name, None)
                if state is not None:
                    self._forget_file(name, state)

    def _remove(self, job: Job) -> dict[str, FileState | None]:
        """Remove the photos of a job, and return the states of the files that are to go as well."""
        held = [name for name in job.names if name in self._index]
        for name in job.names:
            if name not in held:
                self._refuse(job, name, "the archive holds no such photo")
        states = {name: self._index.file_of(name) for name in held} if job.with_files else {}
        self._index.remove(held)
        return states

    def _show(self, number: int) -> int:
        """Let searches of this service see a commit; return the number of the state that they see."""
        for _ in range(_LOOKS):
            self._served.look()
            state = self._served.photos.state
            if state >= number:
                return state
            time.sleep(_PAUSE)
        for job in self._jobs:
            job.remarks.append("it is committed, but this service cannot read the new state: its log says why")
        return number

    def _remove_files(self, job: Job, states: dict[str, FileState | None]) -> None:
        for name, state in states.items():
            try:
                if self._files is None or not self._files.remove(name, state):
                    job.remarks.append(f"{printable(name)}: its file is not there, or another one than was indexed")
            except StorageError as error:
                job.remarks.append(self._served.told(str(error)))

    def _forget_file(self, name: str, state: FileState) -> None:
        try:
            if self._files is not None:
                self._files.remove(name, state)
        except StorageError as error:
            log.warning("%s: the file of a photo that was not added is left: %s", self._served.name, error)


def _is_full(error: StorageError) -> bool:
    """Return whether there is no room, which may be made; else a folder is one that cannot be written."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _describe(extractor: "Extractor", photo: NewPhoto) -> PhotoDescriptors | PhotoError:
    from ctxdeploy.runtime import PhotoSource

    try:
        return extractor.extract_turned(PhotoSource(name=photo.name, data=photo.data))[0]
    except PhotoError as error:
        return error
