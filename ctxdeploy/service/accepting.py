"""Which photos are accepted to be added or removed, before their job waits."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from ctxdeploy.archive import has_model
from ctxdeploy.core.errors import StorageError
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.jobs import ADD, REMOVE, Job, NewPhoto
from ctxdeploy.service.photo_files import PhotoFiles, check_new_name, is_listed
from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.replies import no_such_photo
from ctxdeploy.service.service import Service

# Bytes that a commit takes besides the photos' files, and that others of the machine need.
_SPARE = 4 << 20


def check_writable(service: Service, served: ServedArchive) -> None:
    """Raise ``ProblemError`` unless photos may be added to an archive and removed (403), and it is there (503)."""
    if not service.config.writable:
        raise ProblemError(403, "photos are not added or removed here (--writable)", code="NotWritable")
    if not served.path.is_dir():
        raise ProblemError(
            503, f"{served.name} is not there any more: nothing can be written to it", code="ArchiveError"
        )
    if not has_model(served.path):
        raise ProblemError(403, f"{served.name} has no network to describe photos with", code="NotWritable")


def accept_photos(service: Service, served: ServedArchive, photos: tuple[NewPhoto, ...]) -> Job:
    """Return the job that adds photos.

    Raises:
        ConfigError: a name that no photo can have.
        ProblemError: a name twice (422), a file that is in the way (409), too much waits (429), the disk is
            full (507).
    """
    names = tuple(photo.name for photo in photos)
    if len(set(names)) < len(names):
        raise ProblemError(422, "two of the photos have the same name", code="ConfigError")
    folder = served.folder() if service.config.store_photos else None
    files = None if folder is None else PhotoFiles(folder)
    for photo in photos:
        check_new_name(photo.name)
        if files is not None:
            _check_file(served, files, photo)
    _check_room((served.path, *(() if folder is None else (folder,))), sum(len(photo.data) for photo in photos))
    job = Job(kind=ADD, archive=served.name, names=names, photos=photos, seconds=service.config.write_timeout)
    service.writers.submit(served, job)
    return job


def _check_room(places: Iterable[Path], size: int) -> None:
    """Raise ``ProblemError`` (507) where it is plain beforehand that there is no room to write."""
    for place in places:
        try:
            free = shutil.disk_usage(place).free
        except OSError:
            continue
        if free < size + _SPARE:
            detail = f"the server's disk is full: {free:,} bytes are free, and {size + _SPARE:,} are needed"
            raise ProblemError(507, detail, code="StorageError", exit_code=StorageError.exit_code)


def _check_file(served: ServedArchive, files: PhotoFiles, photo: NewPhoto) -> None:
    name = photo.name
    if not is_listed(name):
        how = "end its name with .jpg or the like, and begin no part with a dot"
        detail = f"a file {name!r} would not be taken for a photo: {how}"
        raise ProblemError(422, detail, code="ConfigError")
    # The same bytes are what a service stored that was killed before it committed them.
    if name not in served.photos and files.exists(name) and files.same(name, photo.data) is None:
        detail = f"there is a file {name!r}, and the archive holds no such photo: give another name"
        raise ProblemError(409, detail, code="FileExists")


def accept_removal(service: Service, served: ServedArchive, name: str, *, with_files: bool) -> Job:
    """Return the job that removes a photo.

    Raises:
        ProblemError: there is no such photo, and none on its way (404); too much waits (429); files are not removed
            here (403).
    """
    if name not in served.photos and not service.writers.jobs.is_waiting(served.name, name):
        raise no_such_photo(name)
    if with_files and not service.config.store_photos:
        raise ProblemError(403, "files are not removed here (--store-photos)", code="NotWritable")
    seconds = service.config.write_timeout
    job = Job(kind=REMOVE, archive=served.name, names=(name,), with_files=with_files, seconds=seconds)
    service.writers.submit(served, job)
    return job
