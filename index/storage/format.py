"""Reading and writing of safetensors files, every offset checked before use.

A file is 8 bytes (length of the header, little-endian), the header (JSON: ``{name: {dtype, shape, data_offsets}}`` and
``__metadata__`` of texts), then the tensors without gaps. We read it ourselves, because ``safetensors.safe_open``
copies what it reads (twice the file in memory), while a map costs nothing. We write tensors by falling element size
behind a header padded to 64 bytes, so that each lies at a multiple of its element size.
"""

import errno
import hashlib
import json
import mmap
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import Piece
from ctxdeploy.core.reading import open_regular

MAX_HEADER = 1 << 20
_ALIGNMENT = 64
_DTYPES = {
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}

Arrays = dict[str, NDArray[Any]]
# What a tensor must be: its dtype, and its shape, or None for one dimension of any length.
Wanted = tuple[str, tuple[int, ...] | None]


class NotDamagedError(ArchiveError):
    """A file cannot be used, though nothing is known to be wrong with it: nothing may be repaired."""


class NewerFormatError(NotDamagedError):
    """A file is of a format that a newer ctxdeploy writes."""


class UnreadableError(NotDamagedError):
    """A file cannot be read by this process or at this time: no permission, too many open files, no memory."""


_NOT_NOW = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EINTR", "ETIMEDOUT", "ESTALE")
}

_NO_MAPS = (errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP)


def unreadable(path: Path, error: OSError | ValueError, why: str = "") -> ArchiveError:
    """Return the error of a file that cannot be read, ``UnreadableError`` if that says nothing about the file."""
    number = getattr(error, "errno", None)
    advice = ": raise the limit (ulimit -n), or merge small shards with  ctxdeploy compact"
    text = f"{path} cannot be read{why}: {getattr(error, 'strerror', None) or error}"
    text += advice if number == errno.EMFILE else ""
    return UnreadableError(text) if number in _NOT_NOW else ArchiveError(text)


def encode(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> list[Piece]:
    """Return the pieces of a file: header, then the tensors by falling element size, equal sizes by name."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name, array in ordered:
        end = position + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ArchiveError(f"a header of {len(text)} bytes is above the limit of {MAX_HEADER}")
    return [len(text).to_bytes(8, "little") + text, *(array for _, array in ordered)]


def map_file(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Open a file without reading its data: (read-only arrays mapped from it, metadata).

    Raises:
        ArchiveError: it is missing, or not a valid file; the text names the file and the field.
    """
    return decode(map_bytes(path), str(path))


def map_bytes(path: Path) -> mmap.mmap | bytes:
    """Return a file's bytes without reading them; where the file system maps no files (some FUSE, 9P), they are read.

    Raises:
        ArchiveError: it is missing, empty, or cannot be read; the text names the file.
    """
    try:
        try:
            return _map(path)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            _allow_more_files()
            return _map(path)
    except FileNotFoundError as error:
        raise ArchiveError(f"{path} is missing: restore it, or index the photos again") from error
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise unreadable(path, error) from error


def _map(path: Path) -> mmap.mmap | bytes:
    with open_regular(path) as file:
        # Before 3.13 each map keeps a file open. Room is made before there is none, for what others open.
        if sys.version_info < (3, 13) and file.fileno() * 4 > resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3:
            _allow_more_files()
        try:
            if sys.version_info >= (3, 13):
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, trackfd=False)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            if error.errno not in _NO_MAPS:
                raise
            return file.read()


def _allow_more_files() -> None:
    """Raise this process's soft limit of open files, usually 1024: too few for a thousand shards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    raised = soft * 4 if hard == resource.RLIM_INFINITY else min(soft * 4, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))


def decode(buffer: Any, where: str) -> tuple[Arrays, dict[str, str]]:
    """As ``map_file``, for the bytes of a file; ``where`` names it in errors."""
    size = len(buffer)
    if size < 8:
        raise ArchiveError(f"{where} is damaged: {size} bytes are too few for a header")
    length = int.from_bytes(buffer[:8], "little")
    if length > min(MAX_HEADER, size - 8):
        raise ArchiveError(f"{where} is damaged: its header length is {length} in a file of {size} bytes")
    header = _parse_header(bytes(buffer[8 : 8 + length]), where)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ArchiveError(f"{where} is damaged: __metadata__ does not hold texts")
    return _views(buffer, 8 + length, header, where), metadata


def _parse_header(text: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name occurs twice")
        return result

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{where} is damaged: its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise ArchiveError(f"{where} is damaged: its header is not an object")
    return header


def _views(buffer: Any, base: int, header: dict[str, Any], where: str) -> Arrays:
    spans = sorted(((*_check_entry(entry, f"{where}: {name[:60]!r}"), name) for name, entry in header.items()))
    position = 0
    arrays: Arrays = {}
    for begin, end, name in spans:
        if begin != position:
            raise ArchiveError(f"{where} is damaged: {name[:60]!r} begins at {begin}, not at {position}")
        position = end
    if position != len(buffer) - base:
        raise ArchiveError(f"{where} is damaged: {position} bytes of tensors in {len(buffer) - base} bytes of data")
    for begin, end, name in spans:
        dtype = np.dtype(_DTYPES[header[name]["dtype"]])
        if (base + begin) % dtype.itemsize:
            raise ArchiveError(f"{where} is damaged: {name[:60]!r} is not aligned to {dtype.itemsize} bytes")
        flat = np.frombuffer(buffer, dtype, (end - begin) // dtype.itemsize, base + begin)
        try:
            arrays[name] = flat.reshape(header[name]["shape"])
        except ValueError as error:  # an empty tensor with a side that numpy cannot count
            raise ArchiveError(f"{where} is damaged: {name[:60]!r} has an impossible shape") from error
    return arrays


def _check_entry(entry: Any, where: str) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ArchiveError(f"{where} is damaged: not an entry of dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise ArchiveError(f"{where} is damaged: unknown dtype {str(entry['dtype'])[:40]!r}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for values, low, high in ((shape, 0, 8), (offsets, 2, 2)):
        if not isinstance(values, list) or not low <= len(values) <= high:
            raise ArchiveError(f"{where} is damaged: shape or data_offsets is not a list of {low}..{high} numbers")
        if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
            raise ArchiveError(f"{where} is damaged: shape or data_offsets holds something other than sizes")
    expected = np.dtype(_DTYPES[entry["dtype"]]).itemsize
    for value in shape:
        expected *= value
    begin, end = offsets
    if end - begin != expected:
        raise ArchiveError(f"{where} is damaged: its shape needs {expected} bytes, its data_offsets span {end - begin}")
    return begin, end


def check_version(metadata: Mapping[str, str], name: str, versions: tuple[int, ...], where: str) -> None:
    """Raise ``ArchiveError`` (or ``NewerFormatError``) unless a file is of a format and one of the versions we read."""
    if metadata.get("format") != name:
        raise ArchiveError(f"{where} is damaged: format is {metadata.get('format')!r}, not {name!r}"[:500])
    version = metadata.get("format_version")
    if version not in {str(known) for known in versions}:
        readable = " or ".join(map(str, versions))
        newer = version is not None and version.isdecimal() and len(version) < 10 and int(version) > max(versions)
        kind = NewerFormatError if newer else ArchiveError
        raise kind(f"{where}: format_version {version!r}, this ctxdeploy reads {readable}: upgrade it"[:500])


def check_tensors(arrays: Arrays, wanted: Mapping[str, Wanted], where: str) -> None:
    """Raise ``ArchiveError`` unless the tensors are those wanted, in type and shape."""
    if set(arrays) != set(wanted):
        raise ArchiveError(f"{where} is damaged: its tensors are {sorted(arrays)}, not {sorted(wanted)}"[:500])
    for name, (dtype, shape) in wanted.items():
        array = arrays[name]
        fits = array.ndim == 1 if shape is None else array.shape == shape
        if array.dtype != np.dtype(dtype) or not fits:
            needed = f"{np.dtype(dtype)} {'of one dimension' if shape is None else shape}"
            raise ArchiveError(f"{where} is damaged: {name} is {array.dtype} {array.shape}, but {needed} is needed")


def check_offsets(offsets: NDArray[np.uint32], end: int, where: str) -> None:
    """Raise ``ArchiveError`` unless ``offsets`` begin at 0, never fall, and end at ``end``."""
    if offsets[0] != 0 or offsets[-1] != end or bool((offsets[1:] < offsets[:-1]).any()):
        raise ArchiveError(f"{where} is damaged: not rising from 0 to {end}")


def check_hash(path: Path, sha256: str) -> None:
    """Raise ``ArchiveError`` unless a file has this hex sha256."""
    try:
        with open_regular(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error
    if found != sha256:
        raise ArchiveError(f"{path} is damaged: its sha256 is not that of the manifest")
