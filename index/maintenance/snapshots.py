"""Named snapshots: states that garbage collection keeps. ``snapshots/<name>.json`` names a manifest and its sha256,
and holds a checksum of itself.

A snapshot may be made while another process writes: it is made of a state that is held (see ``pins``), and garbage
collection looks for snapshots of a manifest after it has made sure that nobody holds it.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.files import checksum, make_folder, storing, sync_folder, write_file
from ctxdeploy.core.reading import read_regular
from ctxdeploy.index.storage.manifest import manifest_name, parse_pointer, pointer_text, read_pointer
from ctxdeploy.index.storage.pins import Pin, pin, pin_current

FORMAT_NAME = "ctxdeploy-snapshot"
FORMAT_VERSION = 1
SNAPSHOTS = "snapshots"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """A named snapshot.

    Attributes:
        name: letters, digits, dot, hyphen, underscore.
        manifest: number of its manifest.
        created: UTC, ISO 8601.
    """

    name: str
    manifest: int
    created: str


def _path(folder: Path, name: str) -> Path:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"the snapshot name {name!r} is not 1..100 letters, digits and '.-_', the first a letter or a digit"
        )
    return folder / SNAPSHOTS / f"{name}.json"


def create_snapshot(folder: Path, name: str, held: Pin) -> SnapshotInfo:
    """Keep a state that is held under a name, durably.

    Raises:
        ConfigError: not a valid name, or one that exists.
        StorageError: it cannot be written.
    """
    path = _path(folder, name)
    file, sha256 = parse_pointer(held.pointer, "the pin")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    facts: dict[str, Any] = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "created": created}
    facts |= {"manifest": file, "sha256": sha256}
    text = json.dumps({**facts, "checksum": checksum(facts)}, indent=1) + "\n"
    make_folder(path.parent)
    try:
        write_file(path, [text.encode("ascii")], exclusive=True)
    except FileExistsError as error:
        raise ConfigError(f"the snapshot {name!r} exists: choose another name, or remove it first") from error
    return SnapshotInfo(name=name, manifest=held.manifest.number, created=created)


def remove_snapshot(folder: Path, name: str) -> None:
    """Forget a snapshot; the next garbage collection removes what only it needed.

    Raises:
        ConfigError: there is none of that name.
        StorageError: it cannot be removed.
    """
    path = _path(folder, name)
    with storing(path):
        try:
            path.unlink()
        except FileNotFoundError as error:
            raise ConfigError(f"there is no snapshot {name!r} in {folder}: see  ctxdeploy snapshot {folder}") from error
    sync_folder(path.parent)


def list_snapshots(folder: Path) -> list[SnapshotInfo]:
    """Return all snapshots, by name; ``ArchiveError`` names a damaged one."""
    result = []
    for name in snapshot_names(folder):
        try:
            result.append(_read(folder, name)[0])
        except ConfigError:  # removed meanwhile, which needs no lock
            continue
    return result


def snapshot_names(folder: Path) -> list[str]:
    """Return the names of all snapshots, sorted."""
    place = folder / SNAPSHOTS
    if not place.is_dir():
        return []
    return sorted(path.stem for path in place.iterdir() if path.suffix == ".json" and _NAME.fullmatch(path.stem))


def snapshot_manifests(folder: Path) -> set[str]:
    """Return the file names of the manifests that snapshots keep; ``ArchiveError`` names a damaged snapshot."""
    return {manifest_name(info.manifest) for info in list_snapshots(folder)}


def _read(folder: Path, name: str) -> tuple[SnapshotInfo, str]:
    """Return a snapshot and its pointer, in the form of ``CURRENT``."""
    path = _path(folder, name)
    try:
        data = json.loads(read_regular(path).decode("ascii"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no snapshot {name!r} in {folder}: see  ctxdeploy snapshot {folder}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{path} is damaged: {error}; remove it to give the snapshot up") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT_NAME:
        raise ArchiveError(f"{path} is damaged: format is not {FORMAT_NAME}; remove it to give the snapshot up")
    if data.get("format_version") != FORMAT_VERSION:
        version = data.get("format_version")
        raise ArchiveError(f"{path}: format_version {version!r}, this ctxdeploy reads {FORMAT_VERSION}: upgrade it")
    if data.get("checksum") != checksum(data):
        raise ArchiveError(f"{path} is damaged: checksum is not that of its content; remove it to give the snapshot up")
    pointer = f"{data.get('manifest')} {data.get('sha256')}\n"
    file, _ = parse_pointer(pointer, str(path))
    info = SnapshotInfo(name=name, manifest=int(file[9:-5]), created=str(data.get("created")))
    return info, pointer


def pin_state(folder: Path, at: str | int | None) -> Pin:
    """Open and hold a state: the one in force, a snapshot by name, or a manifest by number (in digits, too).

    Raises:
        ArchiveError: it is not there any more, or damaged.
        ConfigError: no snapshot of that name, or neither a name nor a number.
    """
    if at is None:
        return pin_current(folder)
    read_pointer(folder)  # is this an archive at all?
    if isinstance(at, str) and at.isascii() and at.isdigit() and at not in snapshot_names(folder):
        at = int(at)
    if isinstance(at, str):
        return pin(folder, _read(folder, at)[1], str(_path(folder, at)))
    if isinstance(at, bool) or not isinstance(at, int):
        raise ConfigError(f"{at!r} is neither a snapshot's name nor the number of a manifest")
    name = manifest_name(at)
    try:
        text = read_regular(folder / name)
    except OSError as error:
        raise ArchiveError(f"{folder} has no manifest {at}: it was removed as garbage, or never was") from error
    return pin(folder, pointer_text(name, text).decode(), str(folder / name))
