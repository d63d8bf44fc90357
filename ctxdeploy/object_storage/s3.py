"""Objects of S3: parts of large files are checked by the server, and of two who replace an object one loses."""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ArchiveError, PhotoError, StorageError
from ctxdeploy.core.text import printable
from ctxdeploy.object_storage.objects import (
    PIECE,
    Requests,
    StoredObject,
    changed_at,
    checked_pieces,
    is_lost,
)
from ctxdeploy.runtime.sources import RemoteConfig

# Objects of one request that removes, as of one page of a listing.
_PAGE = 1000
# Bytes of an object that is replaced.
_LARGEST = 64 << 20


class S3Objects:
    """Objects of a bucket, of S3 or of what speaks as S3 does; see ``Objects``."""

    is_guarded = True

    def __init__(self, url: str, config: RemoteConfig) -> None:
        self._requests = Requests(url, config)
        self.url = self._requests.url
        self._bucket, _, prefix = self._requests.root.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def _call(self, method: str, request: dict[str, Any]) -> Any:
        return self._requests.server.call("call_s3", method, {"Bucket": self._bucket, **request})

    def _key(self, key: str) -> dict[str, str]:
        return {"Key": f"{self._prefix}{key}"}

    def _head(self, key: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._requests.reading(key, lambda: self._call("head_object", self._key(key)))
        return found

    def tag(self, key: str) -> str | None:
        """As of ``Objects``: the entity tag."""
        found = self._head(key)
        return None if found is None else str(found["ETag"])

    def size(self, key: str) -> int | None:
        """As of ``Objects``."""
        found = self._head(key)
        return None if found is None else int(found["ContentLength"])

    def read(self, key: str, limit: int) -> bytes | None:
        """As of ``Objects``."""
        requests = self._requests
        return requests.reading(key, lambda: requests.server.read(requests.path(key), limit, "object"))

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """As of ``Objects``."""
        requests, path = self._requests, self._requests.path(key)
        # s3fs takes a version before the range.
        data: bytes | None = requests.reading(key, lambda: requests.server.call("cat_file", path, None, start, end))
        if data is None:
            raise requests.missing(key)
        if len(data) != end - start:
            raise requests.short(key, len(data), end - start)
        return data

    def put(self, key: str, data: bytes) -> None:
        """As of ``Objects``."""
        request = {**self._key(key), "Body": data, "ChecksumSHA256": _checksum(data)}
        self._requests.writing(key, lambda: self._call("put_object", request))

    def put_file(self, key: str, path: Path, size: int, sha256: str) -> None:
        """As of ``Objects``: in one request, or in parts, each of which the server compares with its hash."""
        pieces = checked_pieces(path, size, sha256)
        if size <= PIECE:
            self.put(key, b"".join(pieces))
        else:
            self._put_parts(key, pieces)
        found = self.size(key)
        if found != size:
            raise self._requests.unwritten(key, f"{found} bytes arrived there, {size} were sent")

    def _put_parts(self, key: str, pieces: Iterator[bytes]) -> None:
        writing, name = self._requests.writing, self._key(key)
        begun = writing(key, lambda: self._call("create_multipart_upload", {**name, "ChecksumAlgorithm": "SHA256"}))
        upload = {**name, "UploadId": begun["UploadId"]}
        try:
            parts = []
            for number, piece in enumerate(pieces, 1):
                part = {"PartNumber": number, "ChecksumSHA256": _checksum(piece)}
                sent = {**upload, **part, "Body": piece}

                def send(sent: dict[str, Any] = sent) -> Any:
                    return self._call("upload_part", sent)

                parts.append({**part, "ETag": writing(key, send)["ETag"]})
        except BaseException:
            with suppress(PhotoError):
                self._call("abort_multipart_upload", upload)
            raise
        try:
            self._call("complete_multipart_upload", {**upload, "MultipartUpload": {"Parts": parts}})
        except PhotoError as error:
            # An answer that was lost on its way: the second attempt finds no upload, and the object is there.
            if self.size(key) is None:
                raise self._requests.unwritten(key, str(error)) from error

    def replace(self, key: str, data: bytes, tag: str | None) -> None:
        """As of ``Objects``: If-Match and If-None-Match decide."""
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        request = {**self._key(key), "Body": data, "ChecksumSHA256": _checksum(data), **condition}
        try:
            self._call("put_object", request)
        except PhotoError as error:
            # An answer that was lost on its way: the second attempt meets what the first one wrote.
            try:
                if self.read(key, _LARGEST) == data:
                    return
            except ArchiveError:
                raise self._requests.unwritten(key, f"{error}; whether it was taken is not known") from error
            if is_lost(error, tag):
                raise self._requests.replaced(key) from error
            raise self._requests.unwritten(key, str(error)) from error

    def list(self, folder: str) -> Iterator[StoredObject]:
        """As of ``Objects``."""
        token: str | None = ""
        while token is not None:
            page = self._page(folder, token)
            for info in page.get("Contents", ()):
                key = str(info["Key"]).removeprefix(self._prefix)
                yield StoredObject(key=key, bytes=int(info["Size"]), changed=changed_at(info))
            token = (page.get("NextContinuationToken") or None) if page.get("IsTruncated") else None

    def _page(self, folder: str, token: str) -> Any:
        request: dict[str, Any] = {"Prefix": f"{self._prefix}{folder}/", "MaxKeys": _PAGE}
        if token:
            request["ContinuationToken"] = token
        page = self._requests.reading(folder, lambda: self._call("list_objects_v2", request))
        if page is None:  # no such bucket
            raise self._requests.missing(folder)
        return page

    def remove(self, keys: Iterable[str]) -> None:
        """As of ``Objects``, a thousand at once."""
        gone = [{"Key": f"{self._prefix}{key}"} for key in keys]
        for start in range(0, len(gone), _PAGE):
            batch = {"Delete": {"Objects": gone[start : start + _PAGE], "Quiet": True}}
            try:
                done = self._call("delete_objects", batch)
            except PhotoError as error:
                raise StorageError(f"{printable(self.url)}: objects cannot be removed: {error}") from error
            if done.get("Errors"):
                first = done["Errors"][0]
                raise StorageError(f"{printable(self.url)}: {first.get('Key')} cannot be removed: {first.get('Code')}")

    def remove_unfinished(self, before: float) -> int:
        """As of ``Objects``: uploads in parts, whose parts are stored and paid for until somebody gives them up."""
        page = self._requests.writing(
            "", lambda: self._call("list_multipart_uploads", {"Prefix": f"{self._prefix}files/"})
        )
        old = [one for one in page.get("Uploads", ()) if one["Initiated"].timestamp() < before]
        for one in old:
            with suppress(PhotoError):
                self._call("abort_multipart_upload", {"Key": one["Key"], "UploadId": one["UploadId"]})
        return len(old)


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
