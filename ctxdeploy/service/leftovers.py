"""What a service that was killed has left among the photos: files under temporary names that never got their own."""

import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ctxdeploy.archive import SUFFIX
from ctxdeploy.core.files import TEMPORARY
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.logs import log
from ctxdeploy.service.photo_files import is_listed

# As ``core/files.py`` names what it writes.
_OURS = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{8}-(.+)", re.DOTALL)
# Seconds: another process may be writing one that is younger.
_OLD = 3600.0
# Seconds between two looks at those that were too young, and looks between two walks through all folders.
_PAUSE, _LOOKS = 3600.0, 24
# Entries of folders, a microsecond each, after which others have their turn.
_TOGETHER, _REST = 1000, 0.005


class Leftovers:
    """Removes them in a thread of its own, at the start and now and then.

    Args:
        archives: whose photos are stored by this service, and were by others before it.
    """

    def __init__(self, archives: Iterable[ServedArchive]) -> None:
        self._archives = archives
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ctxdeploy-leftovers", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; may be called without a beginning."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._ended.is_set():
            young = [path for served in self._archives for path in self.remove(served)]
            for _ in range(_LOOKS):
                if self._ended.wait(_PAUSE):
                    return
                young = [path for path in young if not _removed(path)]

    def remove(self, served: ServedArchive) -> list[Path]:
        """Remove those that are old, of the photos of one archive; return those that are not yet."""
        folder = served.folder()
        if folder is None:
            return []
        young, count = [], 0
        for path in self._found(folder):
            if _removed(path):
                count += 1
            else:
                young.append(path)
        if count:
            log.warning("%s: unfinished files of uploads that were cut off were removed: %d", served.name, count)
        return young

    def _found(self, folder: Path) -> Iterator[Path]:
        """Yield temporary files of photos; folders that hold no photos are not entered, and no link is followed."""
        seen = 0
        for place, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(SUFFIX)]
            yield from (Path(place, name) for name in files if name.startswith(TEMPORARY) and _is_of_photo(name))
            seen += len(folders) + len(files)
            if seen >= _TOGETHER:
                seen = 0
                self._ended.wait(_REST)
            if self._ended.is_set():
                return


def _is_of_photo(name: str) -> bool:
    found = _OURS.fullmatch(name)
    return found is not None and is_listed(found[1].lstrip("."))


def _removed(path: Path) -> bool:
    """Remove a file that is old; return whether it is gone. What cannot be removed counts as gone: it would stay so."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return True
        if time.time() - max(found.st_mtime, found.st_ctime) < _OLD:
            return False
        path.unlink()
    except OSError:
        pass
    return True
