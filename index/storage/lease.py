"""The one writer of an archive among all machines that see its folder: a lease, which can be taken away.

``flock`` keeps two writers of one machine apart, and those of several where the file system passes locks on. Nothing
below needs it. The archive has a folder ``lease/``, and in it a folder of the writer, whose name is a number:

    lease/41/owner       who writes, and a sign of life; renamed to ``released`` when it ends
    lease/41/.tmp-…      files about to be renamed to their places: manifests, CURRENT, failures, statistics

**To take it**, a process makes the folder of the next number (``mkdir``: one process succeeds), makes sure that there
is no higher one, writes ``owner``, removes the folders of all lower numbers, and only then reads ``CURRENT``.

**To change anything that is not named after its content**, the writer makes the new file in its folder and renames it
to its place. **To remove a file**, it renames it into its folder, and unlinks it there.

So the folder is what a writer writes with, and ``rmdir`` takes that away, whatever the writer is doing:

- A rename out of the folder, or into it, comes before the ``rmdir`` or after it. Before: the taker, which reads
  ``CURRENT`` afterwards, sees its effect. After: it fails, as the folder or the file in it is gone, and changes nothing
  (``LeaseLostError``). The taker empties the folder until ``rmdir`` succeeds, and nothing can be made in a removed one.
- A writer that slept between any two of its steps wakes in one of these two cases. Two writers that both took the
  lease have different numbers; the lower one has lost it, before the higher one reads.
- The highest number is never removed but by who made a higher one, and the first one is random, so that a number never
  comes back, even where ``lease/`` was deleted by hand.
- Files named after their content (shards, names, tombstones, vectors) may appear at any time: they are the same
  whoever writes them, and only a manifest makes them count.

No clock decides whether this holds; clocks decide only how soon a silent writer loses its lease. What must hold of the
file system: ``mkdir``, ``rmdir`` and ``rename`` are atomic, a removed folder takes no new files, and a process that
changed a folder sees in it what others had changed before. NFS, SMB, Lustre and local ones promise that.

A disk may be so full that no folder can be made. Then a lease that was of this machine is used again, and where there
never was one ``flock`` alone counts until the next commit: garbage collection must be able to make room.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ctxdeploy.core.errors import LeaseLostError, StorageError
from ctxdeploy.core.files import TEMPORARY, storing
from ctxdeploy.core.heartbeat import PULSE, lease_seconds, silent
from ctxdeploy.core.host import this_host
from ctxdeploy.core.locks import LOCK, LockedError, WriterLock
from ctxdeploy.index.storage.holder import Holder, parse_holder, read_holder_file
from ctxdeploy.index.storage.sharing import is_shared, look_anew, mark_shared

LEASES = "lease"
_OWNER, _RELEASED = "owner", "released"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)
# A sleeper may be making files while its folder is emptied, a few at most.
_ATTEMPTS = 1000
_FIRST = 1 << 40


class WriterLease:
    """The right to write an archive, from now until ``release``, or until another process takes it.

    Waits where a process of another machine holds it: until that gives a sign of life, or for ``lease_seconds``.

    Args:
        folder: the archive.

    Raises:
        LockedError: another process holds it, or another object of this one.
        StorageError: the folder cannot be written.
    """

    _place: Path | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = os.getpid()
        self._holder = Holder.here()
        self._locks = [_lock(folder)]
        try:
            with storing(folder / LEASES):
                self._place = self._take()
            if is_shared(folder) or not self._locks[0].works:
                self._share()
        except BaseException:
            self.release()
            raise

    def _share(self) -> None:
        """Show signs of life, and keep ctxdeploy before 0.2 out, which does not know leases."""
        mark_shared(self._folder)
        if self._place is not None:
            PULSE.keep(self._place / _OWNER, len(self._holder.line))
        path = self._folder / LOCK
        if path.is_file():
            with suppress(OSError, LockedError, StorageError):
                spare = self._folder / f"{TEMPORARY}{secrets.token_hex(4)}-{LOCK}"
                spare.mkdir()
                path.unlink()
                spare.rename(path)
                self._locks.append(_lock(self._folder))

    def _take(self) -> Path | None:
        while True:
            numbers = _numbers(self._folder)
            newest = max(numbers, default=None)
            for number in numbers:
                content = read_holder_file(_leases(self._folder) / str(number) / _OWNER)
                found = None if content is None else parse_holder(content)
                # Without an owner it is free, or is being taken: then one of the two who take it now finds it lost.
                if content is not None and found is not None and not self._is_over(found[0]):
                    _wait(self._folder, number, content, found[0])
            try:
                place = self._make(newest)
            except OSError as error:
                if error.errno not in _FULL or not self._locks[0].works:
                    raise
                return self._use_again(newest)
            if place is not None:
                return place

    def _is_over(self, holder: Holder) -> bool:
        """Return whether a holder is known to be dead: it would have this machine's lock."""
        return self._locks[0].works and holder.is_of(this_host())

    def _make(self, newest: int | None) -> Path | None:
        """Make the folder of the next number and remove the lower ones; None if another process was faster."""
        number = secrets.randbelow(_FIRST) if newest is None else newest + 1
        place = _leases(self._folder) / str(number)
        try:
            with suppress(FileExistsError):
                place.parent.mkdir()
            place.mkdir()
        except FileExistsError:
            return None
        known = -1 if newest is None else newest
        if all(other <= known or other == number for other in _numbers(self._folder)) and self._write_owner(place):
            for lower in _numbers(self._folder):
                if lower < number:
                    revoke(self._folder, lower)
            if _newest(self._folder) == number:
                return place
        with suppress(OSError):  # another process was faster, or this one had not seen all: it looks again
            revoke(self._folder, number)
        return None

    def _use_again(self, newest: int | None) -> Path | None:
        """Take the lease that is there, if it was of this machine, whose lock is held; None if there never was one."""
        if newest is None:
            return None
        place = _leases(self._folder) / str(newest)
        content = read_holder_file(place / _OWNER) or read_holder_file(place / _RELEASED)
        found = None if content is None else parse_holder(content)
        if found is None or not found[0].is_of(this_host()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with suppress(FileNotFoundError):
            os.replace(place / _RELEASED, place / _OWNER)  # noqa: PTH105 (tests count the calls of os)
        self._holder = found[0]
        return place

    def _write_owner(self, place: Path) -> bool:
        """Say who holds the lease; False if it is lost already. It is for others' waiting alone: a full disk is no
        obstacle."""
        temporary = place / f"{TEMPORARY}{_OWNER}"
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                os.write(handle, self._holder.encode())
            finally:
                os.close(handle)
            os.replace(temporary, place / _OWNER)  # noqa: PTH105 (tests count the calls of os)
        except OSError as error:
            if error.errno in _GONE:
                return False
            if error.errno not in _FULL:
                raise
        return True

    def _is_lost(self) -> bool:
        """Return whether another process has taken the lease: whether nothing can be made in its folder any more."""
        if self._place is None:
            return False
        probe = self._place / f"{TEMPORARY}{secrets.token_hex(4)}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            return error.errno in _GONE
        return False

    def check(self) -> None:
        """Raise early what a commit would meet.

        Raises:
            ArchiveError: in a forked child: it and its parent would overwrite each other's states.
            LeaseLostError: another process has taken the lease.
        """
        self._locks[0].check()
        if self._place is not None and not self._place.is_dir():
            raise self._lost()

    @contextmanager
    def fenced(self) -> Iterator[Path | None]:
        """Yield the folder through which the block has to write and remove; None where the disk is too full for one.

        What the block writes elsewhere may be collected as garbage once the lease is lost: that is told as its loss.

        Raises:
            LeaseLostError: another process has taken the lease; what the block did after that changed nothing.
        """
        self.check()
        if self._place is None:
            with storing(self._folder / LEASES):
                self._place = self._take()
        try:
            yield self._place
        except (StorageError, OSError) as error:
            if self._is_lost():
                raise self._lost() from error
            raise

    def _lost(self) -> LeaseLostError:
        found = writer_of(self._folder)
        by = "another process" if found is None else f"process {found[0].told()}"
        return LeaseLostError(
            f"{self._folder} was taken by {by}, as this process gave no sign of life for "
            f"{self._holder.seconds:.0f} seconds: nothing since its last commit is in the archive; run it again"
        )

    def release(self) -> None:
        """Let another writer in; may be called twice. A forked child only lets go of what it inherited."""
        place, self._place = self._place, None
        if place is not None and os.getpid() == self._process:
            PULSE.drop(place / _OWNER)
            with suppress(OSError):
                os.replace(place / _OWNER, place / _RELEASED)  # noqa: PTH105 (tests count the calls of os)
        for lock in reversed(self._locks):
            lock.release()

    def __del__(self) -> None:
        """Let another writer in where an archive was dropped without being closed."""
        if "_locks" in vars(self):
            self.release()


def _lock(folder: Path) -> WriterLock:
    def who(process: str) -> str:
        found = writer_of(folder)
        return found[0].told(found[1]) if found is not None and str(found[0].process) == process else process

    file = f"{LOCK}/{LOCK}" if (folder / LOCK).is_dir() else LOCK
    return WriterLock(folder, file=file, needed=False, holder=who)


def _leases(folder: Path) -> Path:
    return folder / LEASES


def _numbers(folder: Path) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(_leases(folder)) if name.isascii() and name.isdigit())  # noqa: PTH208
    except FileNotFoundError:
        return []


def _newest(folder: Path) -> int | None:
    return max(_numbers(folder), default=None)


def writer_of(folder: Path) -> tuple[Holder, int] | None:
    """Return who holds the lease of an archive, as far as its file says, and the seconds that it has been at it; None
    if nobody does. It may be dead."""
    try:
        newest = _newest(folder)
        content = None if newest is None else read_holder_file(_leases(folder) / str(newest) / _OWNER)
    except OSError:
        return None
    return None if content is None else parse_holder(content)


def _wait(folder: Path, number: int, content: bytes, holder: Holder) -> None:
    """Return once the holder of a lease has been silent for long, or has lost or released it.

    Raises:
        LockedError: it gave a sign of life.
    """
    path = _leases(folder) / str(number) / _OWNER

    def read() -> dict[str, bytes]:
        now = read_holder_file(path)
        return {} if now is None else {_OWNER: now}

    if silent(read, max(lease_seconds(), holder.seconds)):
        return
    now = read_holder_file(path)
    found = None if now is None or now == content else parse_holder(now)
    if found is not None:
        who = found[0].told(found[1])
        raise LockedError(f"{folder} is being written by process {who}: wait until it ends, or stop it")


def revoke(folder: Path, number: int) -> None:
    """Take a lease away: remove its folder. What was about to be removed through it comes back.

    Raises:
        StorageError, OSError: it cannot be removed.
    """
    place = _leases(folder) / str(number)
    for _ in range(_ATTEMPTS):
        try:
            for name in os.listdir(place):  # noqa: PTH208
                with suppress(FileNotFoundError):
                    if name.startswith("manifest-"):
                        os.replace(place / name, folder / name)  # noqa: PTH105
                    else:
                        (place / name).unlink()
            place.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            look_anew(place)
            continue
        return
    raise StorageError(f"{place} cannot be removed: a process of this machine has files in it open; end that first")


def break_lease(folder: Path) -> tuple[Holder, int] | None:
    """Take the lease of an archive from whoever holds it, without waiting, and release it; return who held it.

    Raises:
        LockedError: a process of this machine holds it, and lives.
        StorageError: the folder cannot be written.
    """
    lock = _lock(folder)
    try:
        found = writer_of(folder)
        with storing(_leases(folder)):
            newest = _newest(folder)
            if newest is not None:
                place = _leases(folder) / str(newest + 1)
                with suppress(FileExistsError):
                    place.mkdir()
                for number in _numbers(folder):
                    if number <= newest:
                        revoke(folder, number)
        return found
    finally:
        lock.release()
