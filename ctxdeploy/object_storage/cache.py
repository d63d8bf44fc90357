"""The folder in which a machine keeps files of published archives: bounded, and shared by its processes.

    <cache>/LOCK                                held by the one process that fetches or removes
    <cache>/<hash of the URL>/place.json        which URL it is
    <cache>/<hash of the URL>/published.json    the state of it that was seen last
    <cache>/<hash of the URL>/<name>.ctxindex/  an archive that nobody writes

States that were not used for the longest time go first, never one that is being read. What a file holds says its time
of change, which is made from its hash: whoever writes to a file changes it, and the file is fetched again.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import make_folder, remove_folder, storing
from ctxdeploy.index import FileEntry, copied_states, drop_copy, files_of_copies
from ctxdeploy.object_storage.config import CACHE, CACHE_SIZE
from ctxdeploy.object_storage.download import PARTIAL

_LOCK = "LOCK"
_POLL_SECONDS = 0.05
# Times of change are made from 28 bits of the hash, in seconds from here on (2001).
_FIRST_SECOND = 1_000_000_000


class Cache:
    """The cache of this machine.

    Args:
        folder: of it.
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self._limit = folder, limit

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one that fetches or removes files while the block runs; waits for another process.

        Raises:
            StorageError: the folder cannot be written.
        """
        # Closed to others: archives may be private, and machine code beside is not taken from folders of all.
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        make_folder(self.folder, advice=f"name another folder with {CACHE}")
        for path in missing:
            with suppress(OSError):
                path.chmod(0o700)
        path = self.folder / _LOCK
        with storing(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with storing(path):
                while True:  # threads of this process take turns as well: each has a handle of its own
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(handle)

    def make_room(self, needed: int, url: str, keep: Sequence[Path]) -> None:
        """Remove what was not used for the longest time until so many bytes fit. The lock is held.

        Args:
            needed: bytes that will be written.
            url: what they are of, for the message.
            keep: files that are being fetched.

        Raises:
            ConfigError: they do not fit.
        """
        used = _bytes_in(self.folder)
        if used + needed <= self._limit:
            return
        if needed <= self._limit:  # else nothing is gained
            self._drop_states(needed, keep)
        used = _bytes_in(self.folder)
        if used + needed > self._limit:
            raise ConfigError(
                f"{url} needs {_shown(needed)} more in {self.folder}, which may have {_shown(self._limit)} and holds "
                f"{_shown(used)} that cannot go: give  --cache-size {_shown(used + needed, up=True)}  or more "
                f"({CACHE_SIZE})"
            )

    def _drop_states(self, needed: int, keep: Sequence[Path]) -> None:
        self._remove_unneeded(keep)
        for path in sorted(self._states(), key=_last_use):
            if _bytes_in(self.folder) + needed <= self._limit:
                return
            if drop_copy(path):
                self._remove_unneeded(keep)

    def _archives(self) -> Iterator[Path]:
        with storing(self.folder):
            for place in sorted(self.folder.iterdir()):
                if place.is_dir():
                    yield from sorted(path for path in place.iterdir() if path.is_dir())

    def _states(self) -> Iterator[Path]:
        for archive in self._archives():
            yield from copied_states(archive)

    def _remove_unneeded(self, keep: Sequence[Path]) -> None:
        """Remove what no state needs; an archive without any goes as a whole, its model too."""
        kept = set(keep)
        for archive in list(self._archives()):
            states = files_of_copies(archive)
            if not states and not any(path.is_relative_to(archive) for path in kept):
                remove_folder(archive)
                continue
            for path in archive.iterdir():
                if path.name.startswith(PARTIAL) and path not in kept:
                    _remove(path)
            for place in ("shards", "names", "tombstones", "vectors", "."):
                for path in (archive / place).glob("*"):
                    name = path.relative_to(archive).as_posix()
                    is_state_file = place != "." or name.startswith(("failures-", "statistics-"))
                    if is_state_file and name not in states and path not in kept:
                        _remove(path)

    def find(self, entry: FileEntry) -> Path | None:
        """Return a file of that content in another archive of the cache, whose name is its hash; None if none."""
        if entry.sha256 not in entry.file:
            return None
        return next((path for path in self.folder.glob(f"*/*/{entry.file}") if is_copy(path, entry)), None)


def mark_copy(path: Path, entry: FileEntry) -> None:
    """Let the time of change of a file say what it holds."""
    with storing(path):
        os.utime(path, (time.time(), _mark(entry)))


def is_copy(path: Path, entry: FileEntry) -> bool:
    """Return whether a file was checked when it came, and nobody wrote to it since."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_size == entry.bytes and int(found.st_mtime) == _mark(entry)


def mark_use(manifest: Path) -> None:
    """Let the time of change of a manifest say when its state was used last. Times of access change with each look."""
    with suppress(OSError):
        os.utime(manifest)


def _mark(entry: FileEntry) -> int:
    return _FIRST_SECOND + int(entry.sha256[:7], 16)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    with storing(path), suppress(FileNotFoundError):
        path.unlink()


def _bytes_in(folder: Path) -> int:
    """Return the bytes of all files; one with several names counts once."""
    found: dict[tuple[int, int], int] = {}
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                stat = os.lstat(os.path.join(place, file))  # noqa: PTH118 (a million of them)
                found[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(found.values())


def _shown(count: int, *, up: bool = False) -> str:
    """Return bytes as ``--cache-size`` takes them."""
    unit, name = (10**6, "MB") if count >= 10**7 else (10**3, "KB")
    return f"{-(-count // unit) if up else round(count / unit)}{name}"
