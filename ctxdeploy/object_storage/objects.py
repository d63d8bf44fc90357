"""Objects below a URL: read, written and listed with retries, and errors that name the URL."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ctxdeploy.core.errors import ArchiveError, ConfigError, PhotoError, StorageError
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import check_protocol, is_web, without_secrets
from ctxdeploy.runtime.sources import RemoteConfig, Server, answered, change_of

# Bytes of one request: at 140 kB a second it takes the minute that a request may take. S3 takes 10,000 parts of a file.
PIECE = 8 << 20
_NOT_THERE, _PRECONDITION, _CONFLICT = 404, 412, 409
# A time of change that is later is none: the store tells none (``change_of``).
_LATEST = 1 << 62
_Result = TypeVar("_Result")


class ReplacedError(ArchiveError):
    """An object was replaced by somebody else since it was read."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object as a listing tells it.

    Attributes:
        key: its name below the URL.
        bytes: its size.
        changed: seconds since 1970; now where the store does not tell.
    """

    key: str
    bytes: int
    changed: float


class Objects(Protocol):
    """What is below one URL. Any thread may call; each call is tried again after failures that may pass.

    All raise ``ArchiveError`` (of reading) or ``StorageError`` (of writing) with the URL and the reason.

    Attributes:
        url: without a slash at its end, and without secrets.
        is_guarded: ``replace`` is one step for the store, so that of two who replace one loses.
    """

    url: str
    is_guarded: bool

    def tag(self, key: str) -> str | None:
        """Return what changes with the content of an object; None if it is not there."""

    def size(self, key: str) -> int | None:
        """Return the bytes of an object; None if it is not there."""

    def read(self, key: str, limit: int) -> bytes | None:
        """Return an object of at most ``limit`` bytes; None if it is not there."""

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Return bytes ``start`` .. ``end`` of an object; as many as asked for."""

    def put(self, key: str, data: bytes) -> None:
        """Write a small object, that no one replaces with another content."""

    def put_file(self, key: str, path: Path, size: int, sha256: str) -> None:
        """Write a file as an object that is checked: the file has this size and hash, and so has what arrives."""

    def replace(self, key: str, data: bytes, tag: str | None) -> None:
        """Write an object in place of the one with this tag, or where there is none; ``ReplacedError`` else."""

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with ``folder/``."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are ignored."""

    def remove_unfinished(self, before: float) -> int:
        """Give up uploads that began before a time and were never finished; return how many."""


class Requests:
    """Calls the file system of one URL, and says what failed where.

    Args:
        url: the folder.
        config: time limits and retries.

    Raises:
        ConfigError: no such protocol, or one that is not written.
        MissingExtraError: what reads the protocol is not installed.
    """

    def __init__(self, url: str, config: RemoteConfig) -> None:
        check_protocol(url)
        if is_web(url):
            raise ConfigError(
                f"{printable(without_secrets(url))}: archives are read from object storage (s3://, gs://, file://), "
                "not from web servers"
            )
        self.url = without_secrets(url).rstrip("/")
        self.server = Server(url, config)
        self.root = self.server.path(url).rstrip("/")
        if not self.root.strip("/"):
            raise ConfigError(f"{printable(self.url)} names no bucket or folder: give s3://BUCKET/NAME.ctxindex")

    def path(self, key: str) -> str:
        """Return an object's path in the file system."""
        return f"{self.root}/{key}"

    def reading(self, key: str, call: Callable[[], _Result]) -> _Result | None:
        """Return what a call returns; None if the object is not there, ``ArchiveError`` if it cannot be read."""
        try:
            return call()
        except PhotoError as error:
            if is_missing(error):
                return None
            raise ArchiveError(f"{printable(self.url)}/{key} cannot be read: {error}") from error

    def writing(self, key: str, call: Callable[[], _Result]) -> _Result:
        """Return what a call returns; ``StorageError`` if the object cannot be written."""
        try:
            return call()
        except PhotoError as error:
            raise self.unwritten(key, str(error)) from error

    def unwritten(self, key: str, reason: str) -> StorageError:
        """Return the error of an object that could not be written."""
        return StorageError(f"{printable(self.url)}/{key} cannot be written: {reason}; run the same command again")

    def replaced(self, key: str) -> ReplacedError:
        """Return the error of an object that somebody else replaced."""
        return ReplacedError(f"{printable(self.url)}/{key} was replaced by another publisher meanwhile")

    def missing(self, key: str) -> ArchiveError:
        """Return the error of an object that has to be there."""
        return ArchiveError(f"{printable(self.url)}/{key} is not there")

    def short(self, key: str, found: int, wanted: int) -> ArchiveError:
        """Return the error of a store that gives fewer bytes than were asked for."""
        return ArchiveError(f"{printable(self.url)}/{key} is damaged there: {found:,} bytes, not {wanted:,}")


def is_missing(error: PhotoError) -> bool:
    """Return whether a request failed because the object, or the bucket, is not there."""
    cause = error.__cause__
    return cause is not None and (answered(cause)[0] == _NOT_THERE or isinstance(cause, FileNotFoundError))


def is_lost(error: PhotoError, tag: str | None) -> bool:
    """Return whether a write under the condition that an object has a tag, or is not there, lost against another."""
    cause = error.__cause__
    lost = (_PRECONDITION, _CONFLICT) if tag is None else (_PRECONDITION, _CONFLICT, _NOT_THERE)
    return cause is not None and answered(cause)[0] in lost


def changed_at(info: dict[str, Any]) -> float:
    """Return when an object was written, in seconds since 1970, by what a listing tells; now if it does not."""
    found = change_of(info)
    return time.time() if found is None or found >= _LATEST else found / 1e9


def checked_pieces(path: Path, size: int, sha256: str) -> Iterator[bytes]:
    """Yield a file piece by piece.

    Raises:
        ArchiveError: its size or hash is another one; said after the last piece.
    """
    digest, total = hashlib.sha256(), 0
    with open_regular(path) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            total += len(piece)
            yield piece
    if total != size or digest.hexdigest() != sha256:
        raise ArchiveError(f"{path} is damaged: its size or sha256 is not that of the manifest: run  ctxdeploy verify")
