"""A published archive as one of this machine that can be written, and commands that work on one and publish it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctxdeploy.core.errors import ArchiveError, SomePhotosFailedError
from ctxdeploy.core.files import new_folder
from ctxdeploy.core.locks import WriterLock
from ctxdeploy.core.progress import Display
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import counted, printable
from ctxdeploy.index import FileEntry, file_entry, hold_states, parse_manifest, show_copy
from ctxdeploy.object_storage.download import download
from ctxdeploy.object_storage.objects import Objects
from ctxdeploy.object_storage.place import given_url
from ctxdeploy.object_storage.published import CURRENT, PublishedState, entries_of, read_state
from ctxdeploy.object_storage.push import PushReceipt, check_lineage, push
from ctxdeploy.object_storage.record import read_record, write_record
from ctxdeploy.object_storage.stores import open_objects


def fetch(objects: Objects, archive: Path, display: Display) -> PublishedState:
    """Make a new archive of this machine from a published one, whole or not at all.

    Raises:
        ArchiveError: there is none, or a file of it is damaged.
        StorageError: it cannot be written, or there is something at ``archive``.
    """
    found = read_state(objects)
    if found is None:
        raise ArchiveError(f"{printable(objects.url)} is not an archive (no {CURRENT}): make one with  ctxdeploy push")
    with new_folder(archive, advice="choose another folder") as partial:
        _bring(objects, found[1], partial, display)
        # For the files of later states there are folders, too.
        for name in ("shards", "names", "tombstones"):
            (partial / name).mkdir(exist_ok=True)
        show_copy(partial, found[1].manifest)
        write_record(partial, objects.url, committed=found[1].manifest.sha256)
    return found[1]


def update(objects: Objects, archive: Path, display: Display) -> bool:
    """Take the newest published state into an archive that was published as, or fetched from, a former one.

    Returns:
        Whether there was a newer one.

    Raises:
        DivergedError: both have changed; nothing was done.
        ArchiveError: another process writes the archive, or it is damaged.
    """
    found = read_state(objects)
    if found is None:
        return False
    newest = found[1].manifest
    held = hold_states(archive)
    try:
        here = held.entry.sha256
    finally:
        held.release()
    if newest.sha256 == here:
        return False
    record = read_record(archive, objects.url)
    if record.committed != here or record.begun is not None:  # something here is not published, or may not be
        check_lineage(archive, objects.url, found[1])
        return False
    lock = WriterLock(archive)
    try:
        _bring(objects, found[1], archive, display)
        show_copy(archive, newest)
        write_record(archive, objects.url, committed=newest.sha256)
    finally:
        lock.release()
    return True


def _bring(objects: Objects, state: PublishedState, archive: Path, display: Display) -> None:
    """Bring the files of a state that are not there, its manifests last."""
    manifests = [state.manifest, *state.kept]
    download(objects, manifests, archive)
    files: dict[str, FileEntry] = {entry.file: entry for entry in entries_of(state) if entry not in manifests}
    for entry in manifests:
        manifest = parse_manifest(read_regular(archive / entry.file), str(archive / entry.file))
        files |= {file.file: file for file in manifest.files}
    missing = [entry for entry in files.values() if not _is_there(archive, entry)]
    with display.progress("downloading", len(missing), "files") as bar:
        download(objects, missing, archive, advance=bar.advance)


def _is_there(archive: Path, entry: FileEntry) -> bool:
    try:
        return file_entry(archive, entry.file).sha256 == entry.sha256
    except ArchiveError:
        return False


@contextmanager
def working_archive(given: Path, display: Display, *, dry_run: bool = False) -> Iterator[Path]:
    """Yield the archive of this machine that a command writes; of a URL it is published when the command is done.

    It lies in the working folder, under the last part of the URL, and is fetched where it is not there. After an error
    or an interruption it is not published; the same command goes on.

    Args:
        given: a folder, or a URL.
        display: where progress and remarks go.
        dry_run: nothing is fetched or published.

    Raises:
        DivergedError: another machine has published what the archive here does not have; nothing was done.
    """
    url = given_url(given)
    if url is None:
        yield given
        return
    objects = open_objects(url)
    archive = Path(objects.url.rpartition("/")[2])
    if dry_run:
        yield archive
        return
    if (archive / CURRENT).exists():
        if update(objects, archive, display):
            display.say(f"{archive}: took in what was published at {printable(objects.url)} meanwhile")
    elif objects.tag(CURRENT) is not None:
        fetch(objects, archive, display)
        display.say(f"{archive}: fetched from {printable(objects.url)}")
    else:
        display.say(f"{archive} is the archive here; it is published at {printable(objects.url)} when all is done")
    try:
        yield archive
    except SomePhotosFailedError:
        _publish(archive, objects, display)
        raise
    _publish(archive, objects, display)


def _publish(archive: Path, objects: Objects, display: Display) -> None:
    if not (archive / CURRENT).exists():  # a dry run, or nothing to do
        return
    display.say(described(push(archive, objects, display)))


def described(receipt: PushReceipt) -> str:
    """Return what was published in one line."""
    shown = printable(receipt.url)
    if not receipt.changed:
        return f"{shown}: all was there already"
    sent = f"{counted(receipt.uploaded, 'file')}, {receipt.bytes / 1e6:.1f} MB"
    warning = "" if receipt.is_guarded else "; one machine at a time may publish there"
    return f"{shown}: {counted(receipt.images, 'photo')} published ({sent}){warning}"
