"""Copies of an archive's states elsewhere: which files a state consists of, and a folder that holds some of them.

A folder of copies is an archive that nobody writes: manifests are put there before the files that they name, and held
meanwhile, so that whoever makes room sees what is needed. It drops a state as garbage collection does: first its
manifest, which it can only while nobody holds it.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import file_sha256, write_file
from ctxdeploy.core.reading import read_regular
from ctxdeploy.index.maintenance.snapshots import SNAPSHOTS, list_snapshots, snapshot_names
from ctxdeploy.index.storage.format import unreadable
from ctxdeploy.index.storage.manifest import (
    CURRENT,
    FileEntry,
    Manifest,
    manifest_name,
    manifest_numbers,
    parse,
    parse_pointer,
)
from ctxdeploy.index.storage.pins import Pin, pin, pin_current, unpinned


@dataclass(frozen=True, kw_only=True)
class HeldState:
    """The state in force of an archive, whose files stay until ``release``.

    Attributes:
        entry: its manifest's file.
        manifest: the manifest.
        kept: the manifests of other states, that snapshots keep, with their files.
        snapshots: the files of the snapshots.
    """

    entry: FileEntry
    manifest: Manifest
    kept: Sequence[tuple[FileEntry, Manifest]]
    snapshots: Sequence[FileEntry]
    _pins: Sequence[Pin]

    @property
    def files(self) -> dict[str, FileEntry]:
        """Every file that these states need, by its path in the archive; manifests and snapshots too."""
        states = [(self.entry, self.manifest), *self.kept]
        found = {entry.file: entry for entry, _ in states} | {entry.file: entry for entry in self.snapshots}
        return found | {file.file: file for _, manifest in states for file in manifest.files}

    def release(self) -> None:
        """Let the states be collected."""
        for held in self._pins:
            held.release()


def hold_states(folder: Path) -> HeldState:
    """Hold the state in force of an archive, and those of its snapshots.

    Raises:
        ArchiveError: no archive, or damaged.
    """
    pins = [pin_current(folder)]
    try:
        entries = [_manifest_entry(folder, pins[0].pointer)]
        names = snapshot_names(folder)
        for info in list_snapshots(folder):
            name = manifest_name(info.manifest)
            if name in {entry.file for entry in entries}:
                continue
            entry = file_entry(folder, name)
            pins.append(pin(folder, _pointer(entry), str(folder / name)))
            entries.append(entry)
        states = [(entry, held.manifest) for entry, held in zip(entries, pins, strict=True)]
        snapshots = [file_entry(folder, f"{SNAPSHOTS}/{name}.json") for name in names]
    except BaseException:
        for held in pins:
            held.release()
        raise
    return HeldState(entry=states[0][0], manifest=states[0][1], kept=states[1:], snapshots=snapshots, _pins=pins)


def file_entry(folder: Path, file: str) -> FileEntry:
    """Return a file of an archive with its size and hash, as it is now; ``ArchiveError`` if it cannot be read."""
    path = folder / file
    try:
        return FileEntry(file=file, bytes=path.stat().st_size, sha256=file_sha256(path))
    except OSError as error:
        raise unreadable(path, error) from error


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Return the manifest in a JSON text; ``where`` names the file in errors (``ArchiveError``)."""
    return parse(text, where)


def hold_copy(folder: Path, entry: FileEntry) -> Pin | None:
    """Hold a state in a folder of copies; None if its manifest is not there, or not the one that is meant."""
    try:
        return pin(folder, _pointer(entry), "the copy")
    except ArchiveError:
        return None


def show_copy(folder: Path, entry: FileEntry) -> None:
    """Make a state the one that ``CURRENT`` names; its files are there."""
    text = _pointer(entry).encode()
    with suppress(OSError):
        if read_regular(folder / CURRENT) == text:
            return
    write_file(folder / CURRENT, [text])


def copied_states(folder: Path) -> list[Path]:
    """Return the manifests in a folder of copies."""
    try:
        return [folder / manifest_name(number) for number in manifest_numbers(folder)]
    except FileNotFoundError:
        return []


def drop_copy(path: Path) -> bool:
    """Remove the manifest of a copied state, unless somebody holds it; return whether it is gone."""
    try:
        with unpinned(path) as free:
            if free:
                path.unlink()
            return free
    except FileNotFoundError:
        return True


def files_of_copies(folder: Path) -> set[str]:
    """Return the paths of the files that the states in a folder of copies need; of a damaged manifest nothing."""
    found: set[str] = set()
    for path in copied_states(folder):
        with suppress(ArchiveError, OSError):
            found |= {path.name, *(file.file for file in parse(read_regular(path), str(path)).files)}
    return found


def damaged_copies(folder: Path, files: Collection[FileEntry]) -> list[FileEntry]:
    """Return which files are not what they should be; every byte is read."""
    found = []
    for entry in files:
        try:
            sound = file_sha256(folder / entry.file) == entry.sha256
        except OSError:
            sound = False
        if not sound:
            found.append(entry)
    return found


def _pointer(entry: FileEntry) -> str:
    return f"{entry.file} {entry.sha256}\n"


def _manifest_entry(folder: Path, pointer: str) -> FileEntry:
    name, sha256 = parse_pointer(pointer, str(folder / CURRENT))
    try:
        return FileEntry(file=name, bytes=(folder / name).stat().st_size, sha256=sha256)
    except OSError as error:
        raise unreadable(folder / name, error) from error
