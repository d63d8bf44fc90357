"""Files that come from others, read up to a limit and never for ever: no device, no pipe, no file without end."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

# Of what describes other files: manifests, settings, ground truths. The largest known, of a million photos, has 60 MB.
MAX_DESCRIPTION = 256 << 20
NOT_REGULAR = "it is not a regular file"
# Bytes read at first of a file that says it has fewer: those of /proc say 0.
_SMALL = 1 << 16


class TooManyBytesError(OSError):
    """A file has more bytes than are to be read.

    Args:
        limit: bytes that were to be read at most.
        size: of the file; None if it grew while it was read.
    """

    def __init__(self, limit: int, size: int | None) -> None:
        has = "more" if size is None else f"{size:,} bytes, more"
        super().__init__(errno.EFBIG, f"it has {has} than the {limit:,} that are read")
        self.limit, self.size = limit, size


def open_regular(path: Path) -> BufferedReader:
    """Return an open file; ``OSError`` if it cannot be opened or is not a regular file, as its ``strerror`` says."""
    # Opened without blocking: a named pipe would hold the reader for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise OSError(errno.EINVAL, NOT_REGULAR)
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, limit: int = MAX_DESCRIPTION) -> bytes:
    """Return the bytes of a file.

    Raises:
        TooManyBytesError: it has more than ``limit``.
        OSError: as ``open_regular``.
    """
    with open_regular(path) as file:
        found = os.fstat(file.fileno())
        if found.st_size > limit:
            raise TooManyBytesError(limit, found.st_size)
        expected = min(max(found.st_size, _SMALL), limit)
        data = file.read(expected + 1)
        if len(data) > expected:
            data += file.read(limit + 1 - len(data))
        if len(data) > limit:
            raise TooManyBytesError(limit, None)
        return data
