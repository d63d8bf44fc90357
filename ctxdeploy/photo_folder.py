"""Where an archive's photos are, for those who ask with every query."""

import time
from pathlib import Path

from ctxdeploy.archive import ORIGIN, photo_folder

# A file that was written just now may be written again without another time: clocks of file systems are that coarse.
_SETTLED_SECONDS = 2.0


class LatestFolder:
    """The folder of an archive's photos; its file is read again when it has changed. Any thread may ask.

    Args:
        archive: its folder.
    """

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._held: tuple[tuple[int, ...], Path | None] | None = None

    def read(self) -> Path | None:
        """Return the folder, as ``photo_folder`` does. Costs a look at the file's time if it is the one of before.

        Raises:
            ArchiveError: the file is damaged.
        """
        seen, held = self._seen(), self._held
        if held is not None and held[0] == seen:
            return held[1]
        folder = photo_folder(self._archive)
        self._held = None if seen is None else (seen, folder)
        return folder

    def _seen(self) -> tuple[int, ...] | None:
        """Return what tells the file from a later one; None where that cannot be told, or there is none."""
        try:
            found = (self._archive / ORIGIN).stat()
        except OSError:
            return None
        if time.time() - found.st_mtime < _SETTLED_SECONDS:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
