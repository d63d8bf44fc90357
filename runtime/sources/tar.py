"""Photos in tar files, WebDataset's shards among them."""

import math
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime.photo import PhotoReader
from ctxdeploy.runtime.sources.base import PhotoList
from ctxdeploy.runtime.sources.packed import PackedFile, TakesName, list_packed, member_name, too_large, unreadable
from ctxdeploy.runtime.sources.selection import ALL, Selection

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_KIND = "tar file"
# Bytes of a name or of a pax header; paths have 4,096 at most.
MAX_HEADER = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """Reads a photo in a tar file: ``size`` bytes from ``offset`` on; ``mtime_ns`` is the member's own."""

    file: PackedFile
    offset: int
    size: int
    mtime_ns: int

    def read(self) -> bytes:
        """Return the bytes; ``PhotoError`` with the bare reason if that fails."""
        reason = too_large(self.size)
        if reason is not None:
            raise PhotoError(reason)
        return self.file.read(self.offset, self.size)

    def state(self) -> FileState:
        """Return size and time of change that the tar file gives."""
        return FileState(size=self.size, mtime_ns=self.mtime_ns)


class _Bounded:
    """The file as ``tarfile`` reads its headers, of which it would read any number of bytes that they say they have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def list_tars(place: str, selection: Selection = ALL) -> PhotoList:
    """List the photos in a tar file, or in all that a pattern names; names and errors as ``list_packed``.

    Of members of one name the last counts, as when the file is unpacked. What is not a plain file, or hidden, is left
    out. A compressed file is an error.
    """
    return list_packed(place, _KIND, _list_members, selection)


def _list_members(file: PackedFile, takes: TakesName) -> tuple[dict[str, PhotoReader], str | None]:
    """Return the photos of a tar file and what is wrong with it, None if nothing is."""
    found: dict[str, PhotoReader] = {}
    try:
        with (
            open_regular(Path(file.path)) as opened,
            tarfile.open(
                fileobj=cast(IO[bytes], _Bounded(opened)), mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.size < 0:  # it leads back, and round in a circle
                    raise tarfile.ReadError("a member ends before it begins")
                name = member_name(member.name)
                if name and member.isreg() and not member.issparse() and takes(name):
                    found[name] = TarMember(
                        file=file, offset=member.offset_data, size=member.size, mtime_ns=_nanoseconds(member.mtime)
                    )
            reason = _check_end(tar)
    except OSError as error:
        reason = unreadable(_KIND, error)
    except Exception as error:  # damaged headers raise anything: TarError, ValueError, RecursionError, MemoryError, ...
        reason = _why(file.path, error)
    return found, reason


def _check_end(tar: tarfile.TarFile) -> str | None:
    """Return what is wrong where ``tarfile`` stopped: it takes a damaged header for the end."""
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return "the tar file is truncated"
    return f"the tar file is damaged at byte {tar.offset:,}" if any(block) else None


def _why(path: str, error: Exception) -> str:
    with Path(path).open("rb") as file:
        start = file.read(8)
    if start.startswith(_MAGIC):
        return "the file is compressed, whatever its name: decompress it to a plain .tar"
    if not start:
        return "the file is empty"
    return f"the tar file is truncated or damaged ({printable(' '.join(str(error).split()))})"


def _nanoseconds(seconds: float) -> int:
    """Return a member's time as an int64 takes it; pax headers have fractions."""
    return min(max(round(seconds * 1_000_000_000), 0), (1 << 63) - 1) if math.isfinite(seconds) else 0
