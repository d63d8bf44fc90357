"""Archives that several machines use at once, and their readers, who say there what they read.

On one machine, and where the file system passes ``flock`` on, a lock on a manifest holds it (see ``pins``). Elsewhere a
reader puts a file into the archive's folder ``readers/``, which names its manifest, and gives signs of life in it:

- the reader: puts its file there, by a rename from the archive's folder, then opens the manifest once more. If it is
  gone, it was removed: the reader takes its file away and opens the archive again.
- garbage collection: takes the manifest away, by a rename, then looks into ``readers/``. If a file names the manifest,
  it puts it back.

Each does its own step first and then looks for the other's, so that one of the two sees the other, whatever happens in
between. Each has just changed the folder that it looks into, so that NFS shows it what is there.

A reader that was silent for long is taken for dead. One that may not write there is protected by ``flock`` alone.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from ctxdeploy.core.files import TEMPORARY
from ctxdeploy.core.heartbeat import PULSE, lease_seconds, silent
from ctxdeploy.core.host import is_network_folder, this_host
from ctxdeploy.index.storage.holder import Holder, parse_holder, read_holder_file

READERS = "readers"


def is_shared(folder: Path) -> bool:
    """Return whether several machines may use an archive: it has ``readers/``, or lies on a network file system."""
    return (folder / READERS).is_dir() or is_network_folder(folder)


def mark_shared(folder: Path) -> None:
    """Make ``readers/``, by which a machine knows that has the archive on a local disk; what fails is left so."""
    with suppress(OSError):
        (folder / READERS).mkdir()


class ReaderMark:
    """A file in ``readers/``, until ``release``."""

    def __init__(self, path: Path) -> None:
        self._path: Path | None = path
        self._process = os.getpid()

    def release(self) -> None:
        """Take the file away; may be called twice, and does nothing in a forked child, whose parent reads on."""
        path, self._path = self._path, None
        if path is not None and os.getpid() == self._process:
            PULSE.drop(path)
            with suppress(OSError):
                path.unlink()


def mark_reader(folder: Path, manifest: str) -> ReaderMark | None:
    """Say in an archive that this process reads a state; the caller has to open its manifest once more afterwards.

    None where the archive is not shared, or its folder cannot be written.
    """
    if not is_shared(folder):
        return None
    holder = Holder.here(manifest)
    path = folder / READERS / holder.token
    temporary = folder / f"{TEMPORARY}{holder.token}"
    mark_shared(folder)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.write(handle, holder.encode())
        finally:
            os.close(handle)
        os.replace(temporary, path)  # noqa: PTH105 (tests count the calls of os)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        return None
    PULSE.keep(path, len(holder.line))
    return ReaderMark(path)


def readers_of(folder: Path) -> dict[str, bytes]:
    """Return the files of readers, by name, and their contents."""
    try:
        names = os.listdir(folder / READERS)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = ((name, read_holder_file(folder / READERS / name)) for name in names if not name.startswith(TEMPORARY))
    return {name: content for name, content in found if content is not None}


def manifests_read(folder: Path) -> set[str]:
    """Return the manifests that files in ``readers/`` name."""
    look_anew(folder / READERS)
    parsed = map(parse_holder, readers_of(folder).values())
    return {found[0].manifest for found in parsed if found is not None}


def look_anew(folder: Path) -> None:
    """Change a folder, if it is there: afterwards NFS shows what others changed in it before."""
    with suppress(OSError):
        probe = folder / f"{TEMPORARY}{secrets.token_hex(4)}"
        probe.mkdir()
        probe.rmdir()


def remove_dead_readers(folder: Path, manifests: set[str]) -> None:
    """Remove the files of readers that are silent and hold one of these manifests; waits for their signs of life."""

    def read() -> dict[str, bytes]:
        contents = readers_of(folder)
        found = {name: parse_holder(content) for name, content in contents.items()}
        return {name: contents[name] for name, one in found.items() if one is not None and one[0].manifest in manifests}

    held = [found[0] for found in map(parse_holder, read().values()) if found is not None]
    mine = [holder for holder in held if holder.boot == this_host().boot and holder.process == os.getpid()]
    if len(mine) == len(held):
        return
    for name in silent(read, max([lease_seconds(), *(holder.seconds for holder in held)])):
        with suppress(OSError):
            (folder / READERS / name).unlink()
