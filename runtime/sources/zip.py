"""Photos in zip files."""

import calendar
import os
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime.photo import PhotoReader
from ctxdeploy.runtime.sources.base import PhotoList
from ctxdeploy.runtime.sources.packed import PackedFile, TakesName, list_packed, member_name, too_large
from ctxdeploy.runtime.sources.selection import ALL, Selection

_KIND = "zip file"
_SIGNATURE = b"PK\3\4"
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard"}
_ENCRYPTED, _UTF8 = 0x1, 0x800  # bits of a member's flags
_UNIX = 3  # the system of a member whose attributes hold the mode of a file
# A member's own header: signature, 22 bytes that the directory repeats, and the lengths of its name and extra fields.
_HEADER = struct.Struct("<4s22xHH")
# Bytes of the directory: of four million members.
MAX_DIRECTORY = 512 << 20
# The records at the end, with the longest remark and room for what zip64 adds.
_MAX_END = (1 << 16) + 4096
# Deflate packs zeros 1,030 to 1, photos hardly at all, and a drawing without compression of its own rarely 100 to 1.
_MAX_RATIO = 100
_NEVER_A_BOMB = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipMember:
    """Reads a photo in a zip file.

    A member is read at its place and not with ``zipfile``, whose open file keeps the whole directory in memory and lets
    one thread read at a time.

    Attributes:
        file: the zip file.
        offset: of the member's own header.
        packed: bytes in the file.
        size: bytes of the photo, as the directory says.
        crc: of the photo.
        method: of compression.
        encrypted: it needs a password.
        mtime_ns: the member's time of change.
    """

    file: PackedFile
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool
    mtime_ns: int

    def read(self) -> bytes:
        """Return the bytes; ``PhotoError`` with the bare reason if that fails."""
        reason = self._refusal()
        if reason is not None:
            raise PhotoError(reason)
        signature, name, extra = _HEADER.unpack(self.file.read(self.offset, _HEADER.size))
        if signature != _SIGNATURE:
            raise PhotoError(f"the zip file is damaged at byte {self.offset:,}")
        data = self.file.read(self.offset + _HEADER.size + name + extra, self.packed)
        if self.method == zipfile.ZIP_DEFLATED:
            data = self._inflate(data)
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise PhotoError("it is damaged in the zip file: its size or checksum differs from the directory's")
        return data

    def state(self) -> FileState:
        """Return size and time of change that the zip file gives."""
        return FileState(size=self.size, mtime_ns=self.mtime_ns)

    def _refusal(self) -> str | None:
        """Return why it is not read, None if it is."""
        if self.encrypted:
            return "it is encrypted: unpack the zip file with its password, and index the folder"
        if self.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            name = _METHODS.get(self.method, f"method {self.method}")
            return f"it is compressed with {name}, which is not read: pack it with store or deflate"
        if self.size > max(_NEVER_A_BOMB, _MAX_RATIO * self.packed):
            return f"{self.packed:,} bytes would become {self.size:,}, which no photo does"
        return too_large(self.size) or too_large(self.packed)

    def _inflate(self, data: bytes) -> bytes:
        try:
            # One byte more than the directory says is enough to see that it is wrong.
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
        except zlib.error as error:
            raise PhotoError(f"it is damaged in the zip file ({error})") from error


def list_zips(place: str, selection: Selection = ALL) -> PhotoList:
    """List the photos in a zip file, or in all that a pattern names; names and errors as ``list_packed``.

    Of members of one name the last counts, as when the file is unpacked. Links and hidden members are left out. Only
    the directory at the end is read: a zip file whose end is missing lists nothing.
    """
    return list_packed(place, _KIND, _list_members, selection)


def _list_members(file: PackedFile, takes: TakesName) -> tuple[dict[str, PhotoReader], str | None]:
    """Return the photos of a zip file and what is wrong with it, None if nothing is."""
    found: dict[str, PhotoReader] = {}
    try:
        _check_directory(Path(file.path))
        with zipfile.ZipFile(file.path) as opened:
            members = opened.infolist()
    except OSError:
        raise
    except PhotoError as error:
        return found, str(error)
    except Exception as error:  # damaged directories raise anything: BadZipFile, struct.error, NotImplementedError, ...
        return found, _why(file.path, error)
    for member in members:
        name = member_name(_name(member))
        if not name or member.is_dir() or _is_link(member) or not takes(name):
            continue
        found[name] = ZipMember(
            file=file,
            offset=member.header_offset,
            packed=member.compress_size,
            size=member.file_size,
            crc=member.CRC,
            method=member.compress_type,
            encrypted=bool(member.flag_bits & _ENCRYPTED),
            mtime_ns=_nanoseconds(member.date_time),
        )
    return found, None


def _check_directory(path: Path) -> None:
    """Raise ``PhotoError`` where the directory has more bytes than are read: ``zipfile`` reads it whole."""
    with open_regular(path) as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _MAX_END, 0))
        end = file.read()
    wide = [_number(end, found.start() + 40, 8) for found in re.finditer(b"PK\6\6", end)]  # of zip64
    plain = [_number(end, found.start() + 12, 4) for found in re.finditer(b"PK\5\6", end)]
    if wide:
        plain = [size for size in plain if size != 0xFFFFFFFF]
    size = max(wide + plain, default=0)
    if size > MAX_DIRECTORY:
        raise PhotoError(f"its directory has {size:,} bytes, more than the {MAX_DIRECTORY:,} that are read: divide it")


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _name(member: zipfile.ZipInfo) -> str:
    """Return the name of a member: UTF-8 also where it is not marked, as macOS packs; code page 437 otherwise."""
    if member.flag_bits & _UTF8:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _is_link(member: zipfile.ZipInfo) -> bool:
    return member.create_system == _UNIX and stat.S_ISLNK(member.external_attr >> 16)


def _why(path: str, error: Exception) -> str:
    if not Path(path).stat().st_size:
        return "the file is empty"
    return f"the zip file is truncated or damaged ({printable(' '.join(str(error).split()))})"


def _nanoseconds(time: tuple[int, int, int, int, int, int]) -> int:
    """Return a member's time, which has no time zone and is taken for UTC, so that it is the same everywhere."""
    try:
        return max(calendar.timegm(time), 0) * 1_000_000_000
    except ValueError:  # month 0, day 31 of February
        return 0
