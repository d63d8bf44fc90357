"""Pictures of an archive's photos: small ones, and their files."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator, Field
from starlette.responses import Response, StreamingResponse

from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.pictures import Picture
from ctxdeploy.service.replies import path_name
from ctxdeploy.service.schemas import PROBLEMS, ArchiveOption
from ctxdeploy.service.service import Service

router = APIRouter(prefix="/v1", tags=["pictures"], responses=PROBLEMS)
# Browsers ask again after that, and are told with 304 that nothing has changed.
_MAX_AGE = "private, max-age=300"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_PIECE = 1 << 20
_JPEG = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
_ANY = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
_SAME = {"description": "It is as it was."}


class ThumbnailOptions(ArchiveOption):
    """A thumbnail."""

    size: Annotated[
        Literal[160, 320, 640, 1280], BeforeValidator(int), Field(description="Longest side in pixels.")
    ] = 320


@router.get("/thumbnails/{name:path}", response_class=Response, responses={200: _JPEG, 304: _SAME})
async def thumbnail(request: Request, name: str, options: Annotated[ThumbnailOptions, Query()]) -> Response:
    """Return a small JPEG of a photo, upright."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)
    wanted, known = path_name(request, name), request.headers.get("if-none-match")

    def look() -> Response:
        with service.pictures.opened(served, wanted) as picture:
            tag = picture.tag(wanted, options.size)
            headers = {"ETag": tag, "Cache-Control": _MAX_AGE, "X-Content-Type-Options": "nosniff"}
            if _is_known(known, tag):
                return Response(status_code=304, headers=headers)
            data = service.pictures.thumbnail(served, wanted, picture, options.size)
        return Response(data, media_type="image/jpeg", headers=headers)

    return await service.decoding.run(look)


@router.get("/originals/{name:path}", response_class=Response, responses={200: _ANY, 206: _ANY, 304: _SAME})
async def original(request: Request, name: str, options: Annotated[ArchiveOption, Query()]) -> Response:
    """Return the file of a photo, or a range of its bytes."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)
    wanted = path_name(request, name)
    return await service.lookups.run(lambda: _original(service, served, wanted, request))


def _original(service: Service, served: ServedArchive, name: str, request: Request) -> Response:
    with service.pictures.opened(served, name) as picture:
        tag, total = picture.tag(name), picture.state.size
        headers = {
            "ETag": tag,
            "Cache-Control": _MAX_AGE,
            "Accept-Ranges": "bytes",
            "Content-Disposition": "inline",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            **_modified(picture),
        }
        if _is_known(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        part = _part(request.headers.get("range"), total)
        if part is not None and request.headers.get("if-range", tag) != tag:
            part = None
        if part == _NOTHING:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{total}"})
        start, end = (0, total) if part is None else part
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        headers["Content-Length"] = str(end - start)
        status = 200 if part is None else 206
        if end - start <= _PIECE:
            return Response(picture.read(start, end - start), status, headers, picture.media_type)
    body = _pieces(service, served, name, tag, start, end)
    return StreamingResponse(body, status, headers, picture.media_type)


async def _pieces(
    service: Service, served: ServedArchive, name: str, tag: str, start: int, end: int
) -> AsyncIterator[bytes]:
    """Yield the bytes of a file, which is opened anew for each piece: slow readers hold no descriptor and no thread."""

    def read(at: int) -> bytes:
        with service.pictures.opened(served, name) as picture:
            return picture.read(at, min(_PIECE, end - at)) if picture.tag(name) == tag else b""

    while start < end:
        piece = await service.lookups.run(partial(read, start), goes_on=True)
        if not piece:
            raise OSError("a photo's file has changed while it was sent")
        yield piece
        start += len(piece)


_NOTHING = (0, 0)


def _part(given: str | None, total: int) -> tuple[int, int] | None:
    """Return the first byte of a range and the one behind its last; None for the whole file, ``_NOTHING`` if there is
    none in the range. Several ranges are answered with the whole file."""
    found = None if given is None else _RANGE.fullmatch(given.strip())
    if found is None or not (found[1] or found[2]) or len(given or "") > 64:
        return None
    if not found[1]:
        start, end = max(total - int(found[2]), 0), total
    else:
        start, end = int(found[1]), min(int(found[2]) + 1 if found[2] else total, total)
        if found[2] and int(found[2]) < start:
            return None
    return (start, end) if start < end else _NOTHING


def _is_known(given: str | None, tag: str) -> bool:
    if given is None:
        return False
    return given.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in given.split(","))


def _modified(picture: Picture) -> dict[str, str]:
    try:
        time = datetime.fromtimestamp(picture.state.mtime_ns // 10**9, UTC)
    except (ValueError, OverflowError):  # no time of a calendar
        return {}
    return {"Last-Modified": format_datetime(time, usegmt=True)}
