"""Objects of what fsspec knows beside S3: Google's storage, folders, memory, and others."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import PhotoError, StorageError
from ctxdeploy.core.files import copy_file, write_file
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import protocol_of
from ctxdeploy.object_storage.objects import PIECE, Requests, StoredObject, changed_at, checked_pieces, is_missing
from ctxdeploy.runtime.sources import RemoteConfig


class PlainObjects:
    """What fsspec reads and writes beside S3, where nothing but whole files is known of.

    ``replace`` looks and then writes: two that do so at the same moment may both take their commit for the last.
    """

    is_guarded = False

    def __init__(self, url: str, config: RemoteConfig) -> None:
        self._requests = Requests(url, config)
        self.url = self._requests.url
        # Files are written durably, and appear as a whole.
        self._is_local = protocol_of(url) == "file"

    def tag(self, key: str) -> str | None:
        """As of ``Objects``."""
        info = self._info(key)
        if info is None:
            return None
        facts = ("ETag", "etag", "md5Hash", "generation", "mtime", "created", "ino", "size")
        return repr([(name, info[name]) for name in facts if name in info])

    def size(self, key: str) -> int | None:
        """As of ``Objects``."""
        info = self._info(key)
        return None if info is None else int(info["size"])

    def _info(self, key: str) -> dict[str, Any] | None:
        requests = self._requests
        found: dict[str, Any] | None = requests.reading(key, lambda: requests.server.call("info", requests.path(key)))
        return found

    def read(self, key: str, limit: int) -> bytes | None:
        """As of ``Objects``."""
        requests = self._requests
        return requests.reading(key, lambda: requests.server.read(requests.path(key), limit, "object"))

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """As of ``Objects``."""
        requests, path = self._requests, self._requests.path(key)
        data: bytes | None = requests.reading(key, lambda: requests.server.call("cat_file", path, start, end))
        if data is None:
            raise requests.missing(key)
        if len(data) != end - start:
            raise requests.short(key, len(data), end - start)
        return data

    def put(self, key: str, data: bytes) -> None:
        """As of ``Objects``."""
        requests, path = self._requests, self._requests.path(key)
        if self._is_local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_file(Path(path), [data])
        else:
            requests.writing(key, lambda: requests.server.call("pipe_file", path, data))

    def put_file(self, key: str, path: Path, size: int, sha256: str) -> None:
        """As of ``Objects``."""
        for _ in checked_pieces(path, size, sha256):
            pass
        requests, target = self._requests, self._requests.path(key)
        if self._is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, Path(target))
        else:
            requests.writing(key, lambda: requests.server.call("put_file", str(path), target))
        digest = hashlib.sha256()
        if self.size(key) == size:
            for start in range(0, size, PIECE):
                digest.update(self.read_range(key, start, min(start + PIECE, size)))
        if digest.hexdigest() != sha256:
            raise requests.unwritten(key, "what arrived there is not what was sent")

    def replace(self, key: str, data: bytes, tag: str | None) -> None:
        """As of ``Objects``."""
        if self.tag(key) != tag:
            raise self._requests.replaced(key)
        self.put(key, data)

    def list(self, folder: str) -> Iterator[StoredObject]:
        """As of ``Objects``."""
        requests, root = self._requests, self._requests.path(folder)
        found = requests.reading(folder, lambda: requests.server.call("find", root, None, False, True)) or {}
        for path, info in sorted(found.items()):
            key = str(path).removeprefix(self._requests.root).lstrip("/")
            yield StoredObject(key=key, bytes=int(info["size"]), changed=changed_at(info))

    def remove(self, keys: Iterable[str]) -> None:
        """As of ``Objects``."""
        requests = self._requests
        for key in keys:
            path = requests.path(key)

            def removed(path: str = path) -> Any:
                return requests.server.call("rm_file", path)

            try:
                removed()
            except PhotoError as error:
                if not is_missing(error):
                    raise StorageError(f"{printable(self.url)}/{key} cannot be removed: {error}") from error

    def remove_unfinished(self, before: float) -> int:
        """As of ``Objects``."""
        return 0
