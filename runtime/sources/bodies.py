"""What a server sends for one file, up to a limit and no further: of web servers, of S3, and of all others."""

import asyncio
import io
import zlib
from collections.abc import AsyncIterator
from typing import Any

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.extras import require
from ctxdeploy.core.urls import redirect_refusal
from ctxdeploy.runtime.decode.decode import TooLargeError

_CHUNK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 10
# Ours to undo: a library would unpack 8 MB to 8 GB before we see a byte.
WEB_OPTIONS = {"auto_decompress": False}


async def read_web(system: Any, url: str, limit: int) -> bytes:
    """Return the body that a web server sends.

    Redirections are followed where ``redirect_refusal`` has nothing against them.

    Args:
        system: fsspec's file system of HTTP, made with ``WEB_OPTIONS``.
        url: of the file.
        limit: bytes at most.

    Raises:
        TooLargeError: it is larger.
        PhotoError: a redirection is not followed, or a compression is not known.
        Exception: of aiohttp.
    """
    session = await system.set_session()
    address = url
    for _ in range(MAX_REDIRECTS + 1):
        headers = {"Accept-Encoding": "identity"}
        async with session.get(system.encode_url(address), allow_redirects=False, headers=headers) as answer:
            place = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or place is None:
                system._raise_not_found_for_status(answer, address)
                return await _body(answer, limit)
            target = _joined(answer.url, place)
        # Names are looked up, which may block.
        refusal = await asyncio.to_thread(redirect_refusal, *map(_host, (url, address, target)))
        if refusal is not None:
            raise PhotoError(refusal)
        address = target
    raise PhotoError(f"the server redirects more than {MAX_REDIRECTS} times")


def _joined(here: Any, place: str) -> str:
    try:
        return str(here.join(require("yarl", "remote").URL(place, encoded=True)))
    except ValueError as error:
        raise PhotoError("the server redirects to something that is not an address") from error


def _host(url: str) -> str:
    """Return a URL cut to its host, as the library reads it that connects: others read odd ones otherwise."""
    parts = require("yarl", "remote").URL(url, encoded=True)
    host = parts.raw_host or ""
    return f"{parts.scheme or 'nothing'}://{f'[{host}]' if ':' in host else host}"


async def _body(answer: Any, limit: int) -> bytes:
    length = answer.headers.get("Content-Length", "")
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    chunks = answer.content.iter_chunked(_CHUNK)
    if encoding in ("gzip", "x-gzip", "deflate"):
        return await _collected(_unpacked(chunks), limit)
    if encoding not in ("", "identity"):
        raise PhotoError("the server sends it in a compression that was not asked for")
    size = int(length) if length.isascii() and length.isdigit() else None
    return await _collected(chunks, limit, size)


async def _unpacked(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, as it is
    try:
        async for packed in chunks:
            while packed:
                yield unpacker.decompress(packed, _CHUNK)
                packed = unpacker.unconsumed_tail
        yield unpacker.flush(_CHUNK)
    except zlib.error as error:
        raise PhotoError("what the server sends is compressed, and damaged") from error
    if not unpacker.eof:
        raise PhotoError("what the server sends is compressed, and its end is missing")


async def _collected(chunks: AsyncIterator[bytes], limit: int, size: int | None = None) -> bytes:
    if size is not None and size > limit:
        raise TooLargeError(limit, size)
    buffer = io.BytesIO()  # which gives its bytes away without a copy
    async for chunk in chunks:
        if buffer.tell() + len(chunk) > limit:
            raise TooLargeError(limit, None)
        buffer.write(chunk)
    return buffer.getvalue()


async def read_object(system: Any, path: str, limit: int) -> bytes:
    """Return an object of S3 in one request; arguments and errors as ``read_web``, those of others are botocore's."""
    bucket, key, version = system.split_path(path)
    versions = {} if version is None else {"VersionId": version}
    answer = await system._call_s3("get_object", Bucket=bucket, Key=key, **versions)
    body = answer["Body"]
    try:
        return await _collected(_pieces(body), limit, answer.get("ContentLength"))
    finally:
        body.close()


async def _pieces(body: Any) -> AsyncIterator[bytes]:
    while piece := await body.read(_CHUNK):
        yield piece
