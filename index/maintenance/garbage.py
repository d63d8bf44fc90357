"""Removes files that no state needs: not the one in force, no snapshot, no reader."""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import TEMPORARY, storing, sync_folder
from ctxdeploy.core.reading import read_regular
from ctxdeploy.index.maintenance.snapshots import SNAPSHOTS, snapshot_manifests
from ctxdeploy.index.storage.manifest import (
    CURRENT,
    FOLDERS,
    Manifest,
    manifest_name,
    manifest_numbers,
    parse,
)
from ctxdeploy.index.storage.pins import read_current, unpinned

_OURS = re.compile(r"(failures-\d+\.jsonl|statistics-\d+\.safetensors)")
# A snapshot may be written by another process meanwhile, which needs no lock: younger temporary files are left to it.
_ABANDONED_SECONDS = 86400.0


def collect_garbage(folder: Path, states: Iterable[Manifest], files: Iterable[str]) -> list[str]:
    """Remove manifests that are neither in force, nor a snapshot, nor being read, then files that no manifest names.

    Args:
        folder: the archive, whose lock the caller holds.
        states: manifests to keep.
        files: paths in the archive to keep.

    Returns:
        The paths removed.

    Raises:
        ArchiveError: a snapshot or a manifest that has to stay is damaged; then nothing but manifests was removed.
        StorageError: a file cannot be removed.
    """
    # What CURRENT names may be newer than what the caller knows: a commit whose last sync failed is in force.
    kept_states = {manifest_name(state.number): state for state in (*states, read_current(folder))}
    removed = []
    with storing(folder):
        for name in map(manifest_name, manifest_numbers(folder)):
            if name not in kept_states:
                state = _remove_manifest(folder, name)
                if state is None:
                    removed.append(name)
                else:
                    kept_states[name] = state
        # First the manifests for good, then what they named: a power cut never leaves a manifest without its files.
        sync_folder(folder)
        kept = {entry.file for state in kept_states.values() for entry in state.files} | set(files)
        for path in _candidates(folder):
            name = path.relative_to(folder).as_posix()
            if name not in kept:
                path.unlink()
                removed.append(name)
    return removed


def _remove_manifest(folder: Path, name: str) -> Manifest | None:
    """Remove a manifest, unless it is being read or a snapshot: return it then."""
    path = folder / name
    with unpinned(path) as free:
        # Asked inside: a snapshot is written while its state is held.
        if free and name not in snapshot_manifests(folder):
            path.unlink()
            return None
    try:
        return parse(read_regular(path), str(path))
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error


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
