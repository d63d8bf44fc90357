"""Connections: how many there may be, and how long one may ask nothing."""

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ctxdeploy.service.config import ServiceConfig
from ctxdeploy.service.problems import MEDIA_TYPE, ProblemError, problem_fields
from ctxdeploy.service.record import request_id_of

# Bytes of a request's first line and headers. h11 counts only what comes in pieces; httptools would take any.
MAX_HEAD = 32 << 10
# An answer may take so many times as long as a request may: a photo that is sent to a slow reader.
_ANSWER_TIMES = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class ConnectionLimits:
    """Limits of the connections of one server.

    Attributes:
        most: that there may be; of more, the one that has asked nothing for the longest time is closed.
        idle_seconds: that one may ask nothing, or take to send the head of a request.
        answer_seconds: that an answer may take, until it is read.
        idle: those that ask nothing, in the order in which they began to.
    """

    most: int
    idle_seconds: float
    answer_seconds: float
    idle: "OrderedDict[Connection, None]" = field(default_factory=OrderedDict)


_Base: Any = AutoHTTPProtocol


class Connection(_Base):  # type: ignore[misc]
    """A connection that is closed when it asks nothing for too long, however many bytes trickle in.

    Args:
        limits: of all connections.
        config, server_state, app_state, _loop: as uvicorn gives them.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        limits: ConnectionLimits,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self._limits = limits
        self._asked: Any = None
        self._since = self.loop.time()
        self._head, self._end = 0, b""
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, and close the idlest where there are too many."""
        super().connection_made(transport)
        self._watch = self.loop.call_later(self._limits.idle_seconds, self._look)
        if len(self.connections) > self._limits.most and self._limits.idle:
            next(iter(self._limits.idle)).transport.abort()
        self._limits.idle[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._limits.idle.pop(self, None)
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; heads of requests have a limit."""
        is_body = self.cycle is not None and self.cycle.more_body  # also of a request that was refused meanwhile
        if not is_body and not self.is_answering() and not self._fits(data):
            self.refuse(431, f"the head of the request has more than {MAX_HEAD:,} bytes")
            return
        super().data_received(data)
        if self.is_answering():
            self._head, self._end = 0, b""
            self._limits.idle.pop(self, None)

    def _fits(self, data: bytes) -> bool:
        """Return whether the head of a request ends within its limit, or may still do so."""
        end = (self._end + data).find(b"\r\n\r\n")
        size = len(data) if end < 0 else end
        self._head += len(data)
        self._end = (self._end + data[-3:])[-3:]
        return self._head - len(data) + size <= MAX_HEAD

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._since = self.loop.time()
        self._head, self._end = 0, b""
        self._limits.idle[self] = None
        super().on_response_complete()
        if self.is_answering():  # the next request had come already
            self._limits.idle.pop(self, None)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        self.refuse(400, "this is not HTTP/1.1, or its headers are too long")

    def is_answering(self) -> bool:
        """Return whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def refuse(self, status: int, detail: str) -> None:
        """Answer what is no request, unless an answer has begun, and close."""
        if not self.transport.is_closing() and not (self.is_answering() and self.cycle.response_started):
            self.transport.write(_plain_problem(status, detail))
        self.transport.close()

    def _look(self) -> None:
        """Close what has asked nothing for too long, or takes too long to read its answer."""
        now, limits = self.loop.time(), self._limits
        if self.is_answering() and self.cycle is not self._asked:
            self._asked, self._since = self.cycle, now
        limit = limits.answer_seconds if self.is_answering() else limits.idle_seconds
        left = limit - (now - self._since)
        if left <= 0:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(min(left + 0.01, limits.idle_seconds), self._look)


def protocol_for(config: ServiceConfig, most: int) -> Any:
    """Return what makes the connections of a server: uvicorn's, with the limits of ``Connection``.

    Args:
        config: of the service.
        most: connections that there may be.
    """
    limits = ConnectionLimits(most=most, idle_seconds=config.keep_alive, answer_seconds=config.timeout * _ANSWER_TIMES)
    return partial(Connection, limits)


def _plain_problem(status: int, detail: str) -> bytes:
    """Return a whole answer of HTTP that closes the connection."""
    code = {400: "BadRequest", 431: "HeadersTooLong"}[status]
    request_id = request_id_of(None)
    body = json.dumps(problem_fields(ProblemError(status, detail, code=code), request_id, "")).encode()
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}X-Request-ID: {request_id}\r\nConnection: close\r\n\r\n".encode() + body
