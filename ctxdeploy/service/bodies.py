"""The bodies of requests, read within their limits."""

from typing import Any

from starlette.requests import Request

from ctxdeploy.service.config import ServiceConfig
from ctxdeploy.service.problems import ProblemError

# What ``openapi.json`` says of a body that is a photo.
PHOTO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo"],
                    "properties": {"photo": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


async def read_photo(request: Request, config: ServiceConfig) -> bytes:
    """Return the photo of a request: the whole body, or the field ``photo`` of a form."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=0, max_part_size=config.max_bytes) as form:
            given = form.get("photo")
            if given is None or isinstance(given, str):
                raise ProblemError(422, "the form has no file in the field photo", code="NoPhoto")
            return await given.read()
    return await read_body(request, config.max_bytes)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body; ``ProblemError`` (413) if it has more bytes than ``limit``."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise ProblemError(413, f"the body has more than {limit:,} bytes", code="TooLarge")
        pieces.append(piece)
    if not size:
        raise ProblemError(422, "the body is empty: send a photo", code="NoPhoto")
    return b"".join(pieces)
