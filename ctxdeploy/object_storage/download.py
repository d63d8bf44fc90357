"""Files of a published archive to a folder: checked as they arrive, whole under their names or not at all."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import TEMPORARY, make_folder, move, storing
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import printable
from ctxdeploy.index import FileEntry
from ctxdeploy.object_storage.objects import PIECE, Objects
from ctxdeploy.object_storage.published import file_key

# Files that come at the same time: one stream of a store is slower than a network.
_STREAMS = 8
# What a file is called of which not all is there, before its hash.
PARTIAL = f"{TEMPORARY}part-"


def partial_path(folder: Path, entry: FileEntry) -> Path:
    """Return where a file lies until all of it is there."""
    name = hashlib.sha256(entry.file.encode()).hexdigest()[:8]  # two files may have the same content
    return folder / f"{PARTIAL}{entry.sha256}-{name}"


def download(
    objects: Objects,
    entries: Sequence[FileEntry],
    folder: Path,
    arrived: Callable[[FileEntry, Path], None] = lambda entry, path: None,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Bring files into a folder, under their paths in the archive. What has come of a file so far is used again.

    Args:
        objects: the published archive.
        entries: the files.
        folder: of the archive here.
        arrived: called with each file that is whole, and its path, before it has its name.
        advance: called with 1 for each file that is there.

    Raises:
        ArchiveError: one cannot be read, or is damaged there; files that are whole stay.
        StorageError: the folder cannot be written.
    """
    for place in {(folder / entry.file).parent for entry in entries}:
        make_folder(place)

    def bring(entry: FileEntry) -> None:
        path = partial_path(folder, entry)
        if not _filled(objects, entry, path) and not _filled(objects, entry, path):
            raise ArchiveError(
                f"{printable(objects.url)}/{file_key(entry)} ({entry.file}) is damaged there: its sha256 is not its "
                "name: publish the archive again with  ctxdeploy push --check"
            )
        arrived(entry, path)
        move(path, folder / entry.file)
        advance(1)

    each(bring, entries)


def each(work: Callable[[FileEntry], None], entries: Sequence[FileEntry]) -> None:
    """Call ``work`` for all files, several at once; after the first error no further one is begun, and it is raised."""
    if not entries:
        return
    with ThreadPoolExecutor(min(_STREAMS, len(entries)), thread_name_prefix="ctxdeploy-files") as pool:
        futures = [pool.submit(work, entry) for entry in entries]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _filled(objects: Objects, entry: FileEntry, path: Path) -> bool:
    """Fetch what is missing of a file; return whether it is whole, else it is gone."""
    digest = hashlib.sha256()
    with storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            done = _digested(path, digest.update) if os.fstat(handle).st_size <= entry.bytes else 0
            if not done:
                os.ftruncate(handle, 0)
                digest = hashlib.sha256()
            while done < entry.bytes:
                data = objects.read_range(file_key(entry), done, min(done + PIECE, entry.bytes))
                digest.update(data)
                done += _written(handle, data, done)
        finally:
            os.close(handle)
    if digest.hexdigest() == entry.sha256:
        return True
    with storing(path):
        path.unlink()
    return False


def _digested(path: Path, update: Callable[[bytes], object]) -> int:
    done = 0
    with open_regular(path) as file:
        while piece := file.read(PIECE):
            update(piece)
            done += len(piece)
    return done


def _written(handle: int, data: bytes, place: int) -> int:
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, place)
        view, place = view[count:], place + count
    return len(data)
