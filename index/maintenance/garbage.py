"""Removes files that no state needs: not the one in force, no snapshot, no reader."""

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import TEMPORARY, storing, sync_folder
from ctxdeploy.core.reading import read_regular
from ctxdeploy.index.maintenance.snapshots import SNAPSHOTS, snapshot_manifests
from ctxdeploy.index.storage.lease import WriterLease
from ctxdeploy.index.storage.manifest import (
    CURRENT,
    FOLDERS,
    Manifest,
    manifest_name,
    manifest_numbers,
    parse,
)
from ctxdeploy.index.storage.pins import read_current, unpinned
from ctxdeploy.index.storage.sharing import is_shared, look_anew, manifests_read, remove_dead_readers

_OURS = re.compile(r"(failures-\d+\.jsonl|statistics-\d+\.safetensors)")
# A snapshot may be written by another process meanwhile, which needs no lock: younger temporary files are left to it.
_ABANDONED_SECONDS = 86400.0


def collect_garbage(folder: Path, states: Iterable[Manifest], files: Iterable[str], lease: WriterLease) -> list[str]:
    """Remove manifests that are neither in force, nor a snapshot, nor being read, then files that no manifest names.

    Every file is renamed into the folder of the lease and unlinked there: who has lost the lease removes nothing, even
    if it made up its mind before.

    Args:
        folder: the archive.
        states: manifests to keep.
        files: paths in the archive to keep.
        lease: of the archive, which the caller holds.

    Returns:
        The paths removed.

    Raises:
        ArchiveError: a snapshot or a manifest that has to stay is damaged; then nothing but manifests was removed.
        StorageError: a file cannot be removed.
        LeaseLostError: another process has taken the archive.
    """
    # What CURRENT names may be newer than what the caller knows: a commit whose last sync failed is in force.
    kept_states = {manifest_name(state.number): state for state in (*states, read_current(folder))}
    removed = []
    with lease.fenced() as through, storing(folder):
        former = [name for name in map(manifest_name, manifest_numbers(folder)) if name not in kept_states]
        shared = is_shared(folder)
        if shared and former:
            remove_dead_readers(folder, set(former))
        for name in former:
            if name not in kept_states:
                state = _remove_manifest(folder, name, through, shared=shared)
                if state is None:
                    removed.append(name)
                else:
                    kept_states[name] = state
        # First the manifests for good, then what they named: a power cut never leaves a manifest without its files.
        sync_folder(folder)
        kept = {entry.file for state in kept_states.values() for entry in state.files} | set(files)
        for path in _candidates(folder):
            name = path.relative_to(folder).as_posix()
            if name not in kept and _remove(path, through):
                removed.append(name)
    return removed


def _remove(path: Path, through: Path | None) -> bool:
    """Remove a file; return whether it was there: readers rename temporary ones meanwhile."""
    if through is None:
        path.unlink()
        return True
    taken = through / f"{TEMPORARY}{secrets.token_hex(4)}"
    try:
        os.replace(path, taken)  # noqa: PTH105 (tests count the calls of os)
    except FileNotFoundError:
        if path.exists() or not through.is_dir():
            raise
        return False
    taken.unlink()
    return True


def _remove_manifest(folder: Path, name: str, through: Path | None, *, shared: bool) -> Manifest | None:
    """Remove a manifest, unless it is being read or a snapshot: return it then."""
    path = folder / name
    with unpinned(path) as free:
        # Asked inside: a snapshot is written while its state is held.
        if free and name not in snapshot_manifests(folder):
            if not shared or through is None:
                _remove(path, through)
                return None
            if _remove_unread(folder, name, through):
                return None
    try:
        return parse(read_regular(path), str(path))
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def _remove_unread(folder: Path, name: str, through: Path) -> bool:
    """Take a manifest away, then look whether a machine reads it (see ``sharing``); if so, put it back."""
    if name in manifests_read(folder):
        return False
    taken = through / name
    os.replace(folder / name, taken)  # noqa: PTH105 (tests count the calls of os)
    # In this order: a reader's snapshot is there before the reader is gone.
    is_read = name in manifests_read(folder)
    look_anew(folder / SNAPSHOTS)
    if is_read or name in snapshot_manifests(folder):
        os.replace(taken, folder / name)  # noqa: PTH105 (tests count the calls of os)
        return False
    taken.unlink()
    return True


def _candidates(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != CURRENT and (_OURS.fullmatch(path.name) or _is_temporary(path)):
            yield path
    for place in FOLDERS:
        if (folder / place).is_dir():
            yield from sorted(path for path in (folder / place).iterdir() if path.is_file())
    if (folder / SNAPSHOTS).is_dir():
        oldest = time.time() - _ABANDONED_SECONDS
        for path in sorted((folder / SNAPSHOTS).iterdir()):
            with suppress(FileNotFoundError):  # written, and renamed meanwhile
                if _is_temporary(path) and path.stat().st_mtime < oldest:
                    yield path


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(TEMPORARY)
