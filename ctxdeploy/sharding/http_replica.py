"""A server of a part over HTTP: ``ctxdeploy serve --shards`` somewhere.

The connection stays open between requests. No redirection is followed, so that the key goes to nobody else.
"""

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from ctxdeploy.core.errors import ConfigError, StaleStateError
from ctxdeploy.core.extras import require
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import printable
from ctxdeploy.sharding.config import TransportConfig
from ctxdeploy.sharding.replica import ReplicaError, Trouble

if TYPE_CHECKING:
    import httpx

PATH = "/v1/shard"
BYTES = "application/octet-stream"
# How many seconds the server has: what nobody waits for any more is not begun there.
SECONDS_HEADER = "X-Seconds-Left"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Below the 15 s after which a service closes what asks nothing: no request meets a connection that is being closed.
_KEPT_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_MAX_PROBLEM = 1 << 16
_NO_ARCHIVE = "NoSuchArchive"  # the word of the service
_SHOWN = 300


def checked_url(url: str) -> str:
    """Return the URL of a server without a slash at its end; ``ValueError`` (for the flag) if it is none."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from error
    if "@" in parts.netloc:
        raise ValueError("holds a user or a password: give the key with --shard-key-file or CTXDEPLOY_SHARD_KEY")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ValueError("is not the URL of a shard server, such as http://10.0.0.7:8001")
    return url.rstrip("/")


class HttpReplica:
    """A server of a part.

    Args:
        url: of the service.
        part: that it is to search; one that searches another part refuses.
        archive: that is asked; None where the service has one.
        key: that it asks for.
        config: how it is asked.

    Raises:
        ConfigError: the URL is none.
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        part: Part,
        archive: str | None = None,
        key: str | None = None,
        config: TransportConfig | None = None,
    ) -> None:
        try:
            self._base = checked_url(url)
        except ValueError as error:
            raise ConfigError(f"{printable(repr(url))} {error}") from error
        self._config = config or TransportConfig()
        named = {"part": str(part)} | ({} if archive is None else {"archive": archive})
        self._url = f"{self._base}{PATH}?{urlencode(named)}"
        self._headers = {"Content-Type": BYTES, "Accept": BYTES, "Accept-Encoding": "identity"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        library = require("httpx", "serve")
        is_local = urlsplit(self._base).hostname in _LOOPBACK
        most = self._config.max_in_flight
        self._http: httpx.Client = library.Client(
            follow_redirects=False,
            trust_env=not is_local,
            verify=self._base.startswith("https:"),
            headers={"User-Agent": "ctxdeploy-front"},
            limits=library.Limits(
                max_connections=most + 1, max_keepalive_connections=most, keepalive_expiry=_KEPT_SECONDS
            ),
        )

    @property
    def name(self) -> str:
        """Its URL."""
        return self._base

    def send(self, request: bytes, seconds: float) -> bytes:
        """Return its answer; see ``Replica``."""
        until = time.monotonic() + seconds
        try:
            return self._sent(request, until)
        except _BrokenError:
            pass  # it was closed while the request came, such as by a restart: nothing was changed by it
        try:
            return self._sent(request, until)
        except _BrokenError as error:
            raise ReplicaError(f"the connection broke: {error}", Trouble.REFUSED) from error

    def _sent(self, request: bytes, until: float) -> bytes:
        httpx = require("httpx", "serve")
        left = max(until - time.monotonic(), 0.001)
        headers = self._headers | {SECONDS_HEADER: f"{left:.3f}"}
        timeout = httpx.Timeout(left, connect=min(left, self._config.connect_timeout))
        try:
            with self._http.stream("POST", self._url, content=request, headers=headers, timeout=timeout) as response:
                kind = response.headers.get("content-type", "")
                if response.status_code == 200 and kind == BYTES:
                    return self._body(response, self._config.max_bytes, until)
                raise self._refusal(response.status_code, self._body(response, _MAX_PROBLEM, until))
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise self._no_answer(error, left) from error

    def _body(self, response: "httpx.Response", most: int, until: float) -> bytes:
        pieces, size = [], 0
        for piece in response.iter_raw():
            size += len(piece)
            if size > most:
                raise ReplicaError(f"the answer has more than {most:,} bytes", Trouble.UNFIT)
            if time.monotonic() > until:
                raise ReplicaError("the answer did not come to its end in time", Trouble.SILENT)
            pieces.append(piece)
        return b"".join(pieces)

    def _no_answer(self, error: Exception, seconds: float) -> Exception:
        httpx = require("httpx", "serve")
        said = str(error) or type(error).__name__
        if isinstance(error, httpx.PoolTimeout):
            return ReplicaError("it has too many requests from here", Trouble.BUSY)
        if isinstance(error, httpx.ConnectTimeout):
            waited = min(seconds, self._config.connect_timeout)
            return ReplicaError(f"no connection within {waited:.3g} s", Trouble.SILENT)
        if isinstance(error, httpx.TimeoutException):
            return ReplicaError(f"no answer within {seconds:.3g} s", Trouble.SILENT)
        if isinstance(error, httpx.ConnectError):
            return ReplicaError(f"it is not reached: {said}", Trouble.REFUSED)
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
            return _BrokenError(said)
        return ReplicaError(said, Trouble.REFUSED)

    def _refusal(self, status: int, body: bytes) -> Exception:
        """Return the error that a reply is."""
        problem = _problem(body)
        code, detail = problem.get("code"), problem.get("detail")
        said = detail[:_SHOWN] if isinstance(detail, str) else f"it answers {status}"
        if code == StaleStateError.__name__:
            held = problem.get("held")
            numbers = [one for one in held if type(one) is int] if isinstance(held, list) else []
            return StaleStateError(printable(f"{self._base}: {said}"), held=tuple(numbers))
        if code != _NO_ARCHIVE:
            said = _SAID.get(status, said)
        return ReplicaError(printable(said), Trouble.of_status(status))

    def is_back(self) -> bool:
        """Return whether it says that it is ready."""
        httpx = require("httpx", "serve")
        try:
            return bool(self._http.get(f"{self._base}/readyz", timeout=_LOOK_SECONDS).status_code == 200)
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"<HttpReplica {self._base}>"


class _BrokenError(Exception):
    """The connection was closed in the middle."""


# What is said of some statuses.
_SAID = {
    401: "it does not take the key: give one with --shard-key-file or CTXDEPLOY_SHARD_KEY",
    403: "it does not take the key: give one with --shard-key-file or CTXDEPLOY_SHARD_KEY",
    404: "it is not a shard server: start it with  ctxdeploy serve ARCHIVE --shards I/N",
    405: "it is not a shard server: start it with  ctxdeploy serve ARCHIVE --shards I/N",
}


def _problem(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
