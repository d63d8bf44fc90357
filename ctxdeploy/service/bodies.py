"""The bodies of requests: read within their limits, kept in memory, and never on disk."""

import re
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.text import counted
from ctxdeploy.runtime.decode import unread_format
from ctxdeploy.service.forms import FORM, Part, parse_form
from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.record import RequestRecord, record_of
from ctxdeploy.service.service import Service

# What curl calls a body that it sends with -d, and with --data-binary.
_OF_CURL = "application/x-www-form-urlencoded"
# Of so many random bytes every 10^27th file has no line end.
_MANY = 8192
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{64}")
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def photo_body(*, several: bool = False) -> dict[str, Any]:
    """Return what ``openapi.json`` says of a body that is a photo, or a form of several."""
    photo: dict[str, Any] = {"type": "string", "format": "binary"}
    field_type = {"type": "array", "items": photo} if several else photo
    form = {"schema": {"type": "object", "required": ["photo"], "properties": {"photo": field_type}}}
    bare = {} if several else {"image/*": _BINARY, "application/octet-stream": _BINARY}
    return {"requestBody": {"required": not several, "content": {**bare, FORM: form}}}


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The body of a request, as it came.

    Attributes:
        data: all of it.
        content_type: as the sender calls it.
        max_parts: of a form.
    """

    data: bytes
    content_type: str
    max_parts: int

    @property
    def is_form(self) -> bool:
        """Whether it is a form."""
        return self.content_type.lower().startswith(FORM)

    def photo(self) -> bytes:
        """Return the photo: the whole body, or the file ``photo`` of a form; call it in a thread.

        Raises:
            ProblemError: there is none, or several, or it is of no format that is read.
        """
        photos = self.photos() if self.is_form else [Part(name="photo", file_name=None, data=self.data)]
        if len(photos) != 1:
            raise ProblemError(422, f"the form has {counted(len(photos), 'photo')}: send one", code="NoPhoto")
        check_format(photos[0].data)
        _check_line_ends(photos[0].data, self.content_type)
        return photos[0].data

    def photos(self) -> list[Part]:
        """Return the files ``photo`` of a form, of whatever format; call it in a thread."""
        if not self.is_form:
            raise ProblemError(415, f"send the photos as {FORM}, each a file photo", code="NoForm")
        parts = parse_form(self.data, self.content_type, self.max_parts)
        photos = [part for part in parts if part.name == "photo" and part.file_name is not None]
        if not photos:
            raise ProblemError(422, "the form has no file in the field photo", code="NoPhoto")
        return photos


def check_format(data: bytes) -> None:
    """Raise ``ProblemError`` for bytes that no reader takes for a photo, by their beginning."""
    if not data:
        raise ProblemError(422, "the photo is empty (0 bytes)", code="NoPhoto")
    reason = unread_format(data)
    if reason is not None:
        raise ProblemError(415, f"{reason}{_mistaken(data)}", code="PhotoError", exit_code=PhotoError.exit_code)


def _mistaken(data: bytes) -> str:
    """Return what to do where it is plain what was sent in place of a photo's bytes."""
    begin = data[:64].lstrip()
    if begin[:1] in (b"{", b"["):
        return ": send the bytes of its file, not JSON"
    if begin.startswith((b"http://", b"https://")):
        return ": send the bytes of its file, for no URL is fetched"
    if begin.startswith(b"data:") or _BASE64.fullmatch(begin):
        return ": send the bytes of its file, not base64"
    if begin.startswith(b"\x1f\x8b"):
        return ": send it without compression"
    return ""


def _check_line_ends(data: bytes, content_type: str) -> None:
    """Refuse what ``curl -d`` makes of a photo: it takes line ends out, and no such file has none by chance."""
    if content_type == _OF_CURL and len(data) > _MANY and b"\n" not in data and b"\r" not in data:
        detail = "the photo has lost its line ends, as by curl -d: give  --data-binary @FILE  or  -F photo=@FILE"
        raise ProblemError(422, detail, code="PhotoError", exit_code=PhotoError.exit_code)


async def read_upload(request: Request) -> Upload:
    """Return the body of a request.

    Raises:
        ProblemError: it is empty (422), too large (413), too slow (408), or there is no room for it now (429).
        ClientDisconnect: it ended before it was whole.
    """
    service: Service = request.app.state.service
    record = record_of(request)
    service.check_room()
    data = await read_body(request, service, record)
    return Upload(data=data, content_type=request.headers.get("content-type", ""), max_parts=service.config.max_batch)


async def read_body(request: Request, service: Service, record: RequestRecord) -> bytes:
    """Return the bytes of a body, as ``read_upload``."""
    limit = service.config.max_bytes
    _check_length(request, limit)
    pieces: list[bytes] = []
    timeout = service.timer(record)
    try:
        async with timeout:
            async for piece in request.stream():
                record.received += len(piece)
                service.bodies.take(len(piece))
                if record.received > limit:
                    raise _too_large(limit)
                pieces.append(piece)
    except TimeoutError as error:
        after = f"{record.received:,} bytes came within {service.config.timeout:g} s"
        raise ProblemError(408, f"the body is not whole: {after}", code="BodyTimeout") from error
    finally:
        record.seconds["body"] = record.total
    if not record.received:
        raise ProblemError(422, "the body is empty: send a photo", code="NoPhoto")
    return b"".join(pieces)


def _check_length(request: Request, limit: int) -> None:
    """Refuse a body that says itself that it is too large, before it is read."""
    given = request.headers.get("content-length", "")
    if given.isascii() and given.isdigit() and int(given) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, f"the body has more than {limit:,} bytes (--max-bytes)", code="TooLarge")
