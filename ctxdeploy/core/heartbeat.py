"""Signs of life for processes of other machines: a file that its owner changes now and then, and who watches it.

Who watches goes by the own clock alone, one that is never set: a file that did not change for so many of the watcher's
seconds is silent. What two machines call now is never compared.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ctxdeploy.core.errors import ConfigError

VARIABLE = "CTXDEPLOY_LEASE_SECONDS"
DEFAULT_SECONDS = 60.0
_LEAST, _MOST = 1.0, 86400.0
# Signs of life within the time after which silence is taken for death: a server that stutters costs some of them.
_BEATS = 6


def lease_seconds() -> float:
    """Return how long a process may be silent: 60 seconds, or the number in ``CTXDEPLOY_LEASE_SECONDS``.

    Raises:
        ConfigError: it is not a number of 1 to 86400.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text or DEFAULT_SECONDS)
    except ValueError:
        seconds = -1.0
    if not _LEAST <= seconds <= _MOST:
        raise ConfigError(f"{VARIABLE}={text!r} is not a number of seconds from {_LEAST:.0f} to {_MOST:.0f}")
    return seconds


def beat_interval() -> float:
    """Return the seconds between two signs of life of this process."""
    return lease_seconds() / _BEATS


def beat_line(beat: int, seconds: float) -> bytes:
    """Return a sign of life, always as long: its number, and the seconds since its owner began."""
    return f"{beat:012d} {int(seconds):012d}\n".encode()


class Pulse:
    """Gives signs of life in files of this process, from one thread, which lives while there are files."""

    _thread: threading.Thread | None

    def __init__(self) -> None:
        self._files: dict[Path, tuple[int, float]] = {}
        self.forget()

    def keep(self, path: Path, offset: int) -> None:
        """Write ``beat_line`` at an offset of a file from now on, until ``drop``, or until it is gone.

        Raises:
            ConfigError: as ``lease_seconds``.
        """
        beat_interval()
        with self._lock:
            self._files[path] = (offset, time.monotonic())
            if self._thread is None:
                self._wake = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._wake,), name="ctxdeploy-heartbeat", daemon=True
                )
                self._thread.start()

    def drop(self, path: Path) -> None:
        """Give no sign any more in a file; none is being given when this returns."""
        with self._lock:
            self._files.pop(path, None)
            if not self._files and self._thread is not None:
                self._wake.set()
                self._thread = None

    def forget(self) -> None:
        """Begin anew in a forked child, which has no threads; the files are its parent's."""
        # Entered again where an archive that nobody closed is collected meanwhile.
        self._lock = threading.RLock()
        self._files.clear()
        self._wake = threading.Event()
        self._thread = None

    def _run(self, wake: threading.Event) -> None:
        beat = 0
        while not wake.wait(beat_interval()):
            beat += 1
            with self._lock:
                for path, (offset, began) in list(self._files.items()):
                    if not write_beat(path, offset, beat_line(beat, time.monotonic() - began)):
                        self._files.pop(path, None)


def write_beat(path: Path, offset: int, line: bytes) -> bool:
    """Change a file; return False where it is gone. Whatever else fails, the next sign may succeed."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    with suppress(OSError):
        try:
            os.pwrite(handle, line, offset)
        finally:
            os.close(handle)  # what NFS sends when it is closed, others see
    return True


PULSE = Pulse()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PULSE.forget)


def silent(read: Callable[[], Mapping[str, bytes]], seconds: float) -> set[str]:
    """Watch files until each has changed, is gone, or has been silent for so long; return the silent ones.

    Args:
        read: returns their contents, by any name; ``OSError`` of it is raised.
        seconds: by the own clock. What passes without a look, while the watcher or its file system stood still,
            counts as two pauses at most: those it watches may have stood still with it.
    """
    first = read()
    waiting, watched, pause = set(first), 0.0, min(1.0, seconds / 20)
    last = time.monotonic()
    while waiting and watched < seconds:
        time.sleep(pause)
        content, now = read(), time.monotonic()
        watched, last = watched + min(now - last, 2 * pause), now
        waiting = {name for name in waiting if content.get(name) == first[name]}
    return waiting
