"""An archive of this machine to a URL: files that it lacks, then what names them, then ``CURRENT``."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ArchiveError, StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.index import FileEntry, HeldState, copied_states, file_entry, hold_states
from ctxdeploy.object_storage.download import each
from ctxdeploy.object_storage.garbage import needed_files
from ctxdeploy.object_storage.objects import Objects, ReplacedError
from ctxdeploy.object_storage.published import (
    CURRENT,
    FILES,
    JUDGEMENT,
    MODEL,
    ORIGIN,
    PublishedState,
    file_key,
    read_state,
    state_id,
    state_key,
)
from ctxdeploy.object_storage.record import read_record, write_record

# Garbage of this age may be removed by somebody at any moment, whatever this publisher wants with it: it is sent again.
REUSED_SECONDS = 43200.0
_ATTEMPTS = 3


class DivergedError(ArchiveError):
    """What is in force at a URL is not what this archive was published as, or fetched from."""


@dataclass(frozen=True, kw_only=True)
class PushReceipt:
    """What publishing an archive did.

    Attributes:
        url: of the archive.
        state: id of the state that is in force there now.
        manifest: number of its manifest.
        images: photos in it.
        uploaded: files that were sent.
        bytes: of these.
        changed: a new state is in force; False where it was there already.
        is_guarded: the store decides between two that publish at the same moment.
    """

    url: str
    state: str
    manifest: int
    images: int
    uploaded: int
    bytes: int
    changed: bool
    is_guarded: bool

    def metadata(self) -> dict[str, Any]:
        """Return the receipt as JSON prints it."""
        return asdict(self)


def push(
    archive: Path, objects: Objects, display: Display, *, replace: bool = False, check: bool = False
) -> PushReceipt:
    """Make the state in force of an archive, with its snapshots and its model, the one at a URL; all of it, or nothing.

    Interrupted anywhere, it leaves there the state before or this one; done again, it sends what is missing.

    Args:
        archive: its folder; others may write it meanwhile.
        objects: at the URL.
        display: where progress goes.
        replace: put it in the place of an archive that this one does not come from, too.
        check: send files again that are there already: one may have been damaged there.

    Raises:
        ArchiveError: no archive, or a file of it is damaged.
        DivergedError: another archive is there, or another machine has published meanwhile; nothing was changed.
        StorageError: the store cannot be written.
    """
    held = hold_states(archive)
    try:
        for _ in range(_ATTEMPTS):
            try:
                return _push(archive, held, objects, display, replace=replace, check=check)
            except ReplacedError:
                # By a commit that this archive does not know, which the next attempt says; or garbage was collected.
                continue
        raise StorageError(f"{printable(objects.url)} is replaced faster than it can be published: try again")
    finally:
        held.release()


def _push(
    archive: Path, held: HeldState, objects: Objects, display: Display, *, replace: bool, check: bool
) -> PushReceipt:
    tag = objects.tag(CURRENT)
    found = None if tag is None else _in_force(objects, damaged=replace)
    former = None if found is None else found[1]
    if former is not None and not replace:
        check_lineage(archive, objects.url, former)
    beside = tuple(_beside(archive, held))
    if found is not None and former is not None and _is_same(former, held, beside) and not check:
        write_record(archive, objects.url, committed=held.entry.sha256)
        return _receipt(objects, held, state_id(found[0]), [], changed=False)
    entries = {entry.sha256: entry for entry in (*held.files.values(), *beside)}
    missing = list(entries.values()) if check else _missing(objects, entries, former)
    with display.progress("uploading", len(missing), "files") as bar:

        def send(entry: FileEntry) -> None:
            objects.put_file(file_key(entry), archive / entry.file, entry.bytes, entry.sha256)
            bar.advance(1)

        each(send, missing)
    text = _new_state(held, beside, None if found is None else state_id(found[0])).encode()
    base = read_record(archive, objects.url).committed if former is None or replace else former.manifest.sha256
    _commit(archive, objects, held, text, base, tag)
    return _receipt(objects, held, state_id(text), missing, changed=True)


def check_lineage(archive: Path, url: str, former: PublishedState) -> None:
    """Raise ``DivergedError`` unless an archive comes from the state that is in force at a URL.

    It does if it was published as that state, or fetched from it, or has its manifest still.
    """
    sha256 = former.manifest.sha256
    if read_record(archive, url).knows(sha256):
        return
    for path in copied_states(archive):
        if path.name == former.manifest.file and file_entry(archive, path.name).sha256 == sha256:
            return
    raise DivergedError(diverged(archive, url))


def diverged(archive: Path, url: str) -> str:
    """Return what is said, and what can be done, where two archives went different ways."""
    shown, name = printable(url), printable(str(archive))
    return (
        f"{shown} has a state that {name} does not come from: another machine published it. Nothing was changed. Keep "
        f"both: move {name} away, fetch theirs with  ctxdeploy fetch {shown} {name}  , take yours in with  ctxdeploy "
        f"merge {name} MOVED  , and push again; or put yours in its place with  ctxdeploy push --replace"
    )


def _in_force(objects: Objects, *, damaged: bool) -> tuple[bytes, PublishedState] | None:
    """Return text and content of the state in force; None of one that is damaged, where that does not matter."""
    try:
        return read_state(objects)
    except ArchiveError:
        if damaged:
            return None
        raise


def _commit(archive: Path, objects: Objects, held: HeldState, text: bytes, base: str | None, tag: str | None) -> None:
    """Put a state in force. What may be in force afterwards is remembered before: nobody knows what a crash left."""
    objects.put(state_key(state_id(text)), text)
    write_record(archive, objects.url, committed=base, begun=held.entry.sha256)
    try:
        objects.replace(CURRENT, text, tag)
    except ReplacedError:
        write_record(archive, objects.url, committed=base)
        raise
    write_record(archive, objects.url, committed=held.entry.sha256)


def _missing(objects: Objects, entries: dict[str, FileEntry], former: PublishedState | None) -> list[FileEntry]:
    """Return the files that are not there; of those that are, old garbage may vanish, and counts as not there."""
    in_force = set[str]()
    if former is not None:
        with suppress(ArchiveError):  # what is damaged there is sent again
            in_force = needed_files(objects, former)
    there, oldest = set[str](), time.time() - REUSED_SECONDS
    for stored in objects.list(FILES):
        sha256 = stored.key.rpartition("/")[2]
        entry = entries.get(sha256)
        if entry is not None and entry.bytes == stored.bytes and (stored.changed > oldest or sha256 in in_force):
            there.add(sha256)
    return [entry for sha256, entry in sorted(entries.items()) if sha256 not in there]


def _beside(archive: Path, held: HeldState) -> Iterator[FileEntry]:
    yield from held.snapshots
    for name in (ORIGIN, JUDGEMENT):
        if (archive / name).is_file():
            yield file_entry(archive, name)
    for path in sorted((archive / MODEL).rglob("*")):
        if path.is_file():
            yield file_entry(archive, path.relative_to(archive).as_posix())


def _is_same(former: PublishedState, held: HeldState, beside: tuple[FileEntry, ...]) -> bool:
    kept = tuple(entry for entry, _ in held.kept)
    return (former.manifest, former.kept, former.beside) == (held.entry, kept, beside)


def _new_state(held: HeldState, beside: tuple[FileEntry, ...], parent: str | None) -> PublishedState:
    return PublishedState(
        manifest=held.entry,
        kept=tuple(entry for entry, _ in held.kept),
        beside=beside,
        parent=parent,
        published=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _receipt(objects: Objects, held: HeldState, state: str, sent: list[FileEntry], *, changed: bool) -> PushReceipt:
    return PushReceipt(
        url=objects.url,
        state=state,
        manifest=held.manifest.number,
        images=held.manifest.images,
        uploaded=len(sent),
        bytes=sum(entry.bytes for entry in sent),
        changed=changed,
        is_guarded=objects.is_guarded,
    )
