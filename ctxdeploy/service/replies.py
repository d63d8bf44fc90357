"""Answers as they go out, and names of photos as they come in."""

from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

from ctxdeploy.core.text import json_text, short
from ctxdeploy.service.problems import ProblemError

# Characters of a name in a problem; one may have thousands.
_SHOWN = 200


def json_reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON in ASCII; a name whose bytes are not UTF-8 has them beside it (``core/text.py``)."""
    return Response(json_text(content), status_code=status, media_type="application/json", headers=headers)


def path_name(request: Request, given: str) -> str:
    """Return the name of a photo at the end of the path of a request, with bytes that are not UTF-8 as surrogates.

    Args:
        request: whose path as it came, where the server keeps it, has these bytes; its decoded path does not.
        given: the name in its decoded path.
    """
    raw: bytes | None = request.scope.get("raw_path")
    prefix = request.scope["path"].removesuffix(given).encode("ascii", "replace")
    if raw is None or not raw.startswith(prefix):
        return given
    return unquote_to_bytes(raw.partition(b"?")[0][len(prefix) :]).decode("utf-8", "surrogateescape")


def no_such_photo(name: str) -> ProblemError:
    """Return what is answered for a photo that there is not, or that is not for whoever asks."""
    return ProblemError(404, f"there is no photo {short(name, _SHOWN)}", code="NoSuchPhoto")
