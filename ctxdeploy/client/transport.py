"""What both clients do with httpx: requests of it, the collecting of replies, and its errors in our words."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from ctxdeploy.client.exchange import NoReply, Photo, Reply, Send
from ctxdeploy.client.options import ClientConfig
from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.extras import require
from ctxdeploy.core.text import printable

if TYPE_CHECKING:
    import httpx

_FORM = "application/octet-stream"


def arguments(config: ClientConfig) -> dict[str, Any]:
    """Return what httpx's clients are made with: no redirections, and no proxy to this machine."""
    return {"follow_redirects": False, "trust_env": not config.is_local}


def request_of(http: "httpx.Client | httpx.AsyncClient", config: ClientConfig, send: Send) -> "httpx.Request":
    """Return a request as httpx sends it."""
    asked = send.request
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "ctxdeploy-client"}
    key = config.sent_key
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    # A name that is no Unicode stands as its bytes in a path; in a form as the letters that its escapes are.
    files = [("photo", (name.encode("utf-8", "replace").decode(), data, _FORM)) for name, data in asked.form]
    return http.build_request(
        asked.method,
        f"{config.url.rstrip('/')}{asked.path}{_query(asked.parameters)}",
        headers={**headers, **asked.headers},
        content=asked.body,
        files=files or None,
        timeout=send.seconds,
    )


def _query(parameters: Sequence[tuple[str, str]]) -> str:
    """Return parameters as a URL has them; a name that is no Unicode stands there as its bytes."""
    text = urlencode(parameters, errors="surrogateescape", quote_via=quote)
    return f"?{text}" if text else ""


class Collector:
    """The body of a reply, as it comes.

    Args:
        config: with the most bytes that it may have.
        seconds: that it may take.
    """

    def __init__(self, config: ClientConfig, seconds: float) -> None:
        self._most, self._until = config.max_bytes, time.monotonic() + seconds
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, piece: bytes) -> NoReply | None:
        """Take a piece; return why no more of them are wanted."""
        self._size += len(piece)
        if self._size > self._most:
            return NoReply(reason=f"the reply has more than {self._most:,} bytes", code="BadReply")
        if time.monotonic() > self._until:
            return NoReply(reason="the reply did not come to its end in time", code="Timeout")
        self._pieces.append(piece)
        return None

    def reply(self, response: "httpx.Response") -> Reply:
        """Return the whole reply."""
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(status=response.status_code, headers=headers, body=b"".join(self._pieces))


def no_reply(error: Exception) -> NoReply:
    """Return an error of httpx in our words."""
    httpx = require("httpx", "client")
    said = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return NoReply(reason=f"it is not reached: {said}", code="NotReached")
    if isinstance(error, httpx.TimeoutException):
        return NoReply(reason="no reply came in time", code="Timeout")
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return NoReply(reason=f"the connection broke: {said}", code="Broken")
    return NoReply(reason=said, code="BadReply")


def read_photo(photo: Photo) -> bytes:
    """Return the bytes of a photo: of a file, of an open file, or as they are.

    Raises:
        PhotoError: the file cannot be read.
    """
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    if hasattr(photo, "read"):
        data = photo.read()
        if not isinstance(data, bytes):
            raise PhotoError("the open file gives text: open it in binary mode")
        return data
    try:
        with open(photo, "rb") as file:  # noqa: PTH123 - a path of any kind
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PhotoError(printable(f"{photo}: {reason}")) from error
