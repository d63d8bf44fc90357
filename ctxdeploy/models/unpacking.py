"""A packed folder of the authors', unpacked: files and folders below one folder, and nothing else."""

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ConfigError, DownloadError
from ctxdeploy.core.files import make_folder, storing
from ctxdeploy.core.text import printable

# A SavedModel has about ten files; DELG's on ResNet-101 has 0.4 GB in all.
MAX_FILES, MAX_BYTES = 1000, 4_000_000_000
# Names that tar's extensions hold are read into memory at once.
_PIECE = 1 << 20


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack a ``.tar.gz`` into a folder that is made; return it, or the only folder that came into it.

    Args:
        archive: the file.
        folder: must not exist; it may be left half full if this fails.
        max_bytes: of everything in it, as it is unpacked.

    Raises:
        ConfigError: this Python cannot refuse names that lead outside: 3.11.0 to 3.11.3.
        DownloadError: it is damaged or larger than that, or holds links, devices or names outside the folder.
        StorageError: the folder cannot be written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise ConfigError("this Python does not unpack files safely: upgrade it to 3.11.4 or later")
    make_folder(folder)
    try:
        with gzip.open(archive) as plain:
            bounded: Any = _Bounded(plain, max_bytes)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:
                for count, member in enumerate(tar, 1):
                    if count > MAX_FILES:
                        raise _RefusedError(f"holds more than {MAX_FILES:,} files")
                    _extract(tar, member, folder)
            while bounded.read(_PIECE):  # what follows the last file; only the end has the checksum
                pass
    except (_RefusedError, tarfile.FilterError) as error:
        raise DownloadError(f"{archive.name} {printable(str(error))}: nothing of it is used") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise DownloadError(f"{archive.name} is not a whole .tar.gz file ({error}): fetch it again") from error
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


class _RefusedError(Exception):
    """What an archive holds is not to be written; the text says what."""


class _Bounded:
    """A file that is read forwards, in pieces, up to a size; what asks for more is refused."""

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        if not 0 <= size <= _PIECE:
            raise _RefusedError("has a header that is too long")
        data: bytes = self._file.read(size)
        self._check(self._file.tell())
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, counted from the beginning."""
        if whence:
            raise _RefusedError("cannot be read from its end")
        self._check(offset)
        return self._file.seek(offset)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def _check(self, place: int) -> None:
        if place > self._limit:
            raise _RefusedError(f"is larger than {self._limit / 1e6:,.0f} MB when it is unpacked")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise _RefusedError(f"holds {member.name}, which is neither a plain file nor a folder")
    # It refuses absolute names and those that lead outside.
    safe = tarfile.data_filter(member, str(folder))
    target = folder / safe.name
    with storing(target):
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        if content is None:
            raise _RefusedError(f"holds {member.name}, which has no content")
        with content, target.open("xb") as file:
            shutil.copyfileobj(content, file, _PIECE // 2)
