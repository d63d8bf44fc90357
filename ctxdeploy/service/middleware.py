"""What every request passes: its id and its record, the headers of its answer, and who may ask."""

import asyncio
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.service.keys import READ, WRITE
from ctxdeploy.service.logs import log_failure, log_request
from ctxdeploy.service.problems import ProblemError, problem_response
from ctxdeploy.service.record import RequestRecord, request_id_of
from ctxdeploy.service.service import Service

# Of a request whose sender has gone: nobody sees it but the log and the counters.
GONE = 499
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
# A page sets a policy of its own; nothing else is to be shown as one.
_POLICY = "default-src 'none'; frame-ancestors 'none'"
# Methods that change nothing, and what is asked by POST because a photo does not fit into a URL.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ASKING = frozenset({"/v1/search", "/v1/search/batch", "/v1/descriptors", "/v1/shard"})


class Recording:
    """Gives every request an id and a record; answers whatever fails; logs and counts it when it has ended."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(
            request_id=request_id_of(Headers(scope=scope).get("x-request-id")),
            deadline=Deadline(self._service.config.timeout),
        )
        scope.setdefault("state", {})["record"] = record
        answer = _Answering(self._service, record, send)
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            record.code = record.code or "ClientGone"
        except asyncio.CancelledError:
            await self._refuse(ProblemError(503, "the service is ending", code="Ending"), scope, receive, answer)
        except Exception as error:
            problem = self._service.problem(error)
            if problem.status == 500:
                log_failure(record, error)
            await self._refuse(problem, scope, receive, answer)
        finally:
            record.deadline.give_up()
            self._service.bodies.give(record.received)
            self._finish(scope, record, answer.status)

    async def _refuse(self, problem: ProblemError, scope: Scope, receive: Receive, answer: "_Answering") -> None:
        """Answer with a problem, unless an answer has begun: the server then closes the connection in its middle."""
        answer.record.code = problem.code
        if answer.status is None:
            await problem_response(problem, answer.record.request_id, scope["path"])(scope, receive, answer)

    def _finish(self, scope: Scope, record: RequestRecord, status: int | None) -> None:
        record.seconds["total"] = record.total
        route = getattr(scope.get("route"), "path", "") or "none"
        self._service.metrics.finished(record, scope["method"], route, status or GONE)
        log_request(record, scope["method"], route, status or GONE)


class _Answering:
    """Sends an answer with the headers that all answers have."""

    def __init__(self, service: Service, record: RequestRecord, send: Send) -> None:
        self._service, self.record, self._send = service, record, send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.record.request_id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Content-Security-Policy", _POLICY)
            if self._service.readiness.is_ending:
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body":
            self.record.sent += len(message.get("body", b""))
        await self._send(message)


class Guard:
    """Lets those pass who may ask, once the service is ready."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with a problem."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                self._check_host(scope.get("http_version", "1.1"), headers)
                self._check_origin(scope, headers)
                self._check_key(scope, headers)
                self._check_ready(scope)
            except ProblemError as problem:
                record: RequestRecord = scope["state"]["record"]
                record.code = problem.code
                await problem_response(problem, record.request_id, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_key(self, scope: Scope, headers: Mapping[str, str]) -> None:
        needed = needed_key(scope["method"], scope["path"], metrics=self._service.config.metrics_need_key)
        if needed is None:
            return
        key = _given_key(headers)
        allowed = self._service.keys.allows(key, needed)
        if allowed is None:
            detail = "give a key: Authorization: Bearer KEY, or X-API-Key: KEY"
            raise ProblemError(401, detail if key is None else "the key is not known here", code="NoKey")
        if not allowed:
            raise ProblemError(403, "this key may read, and not write", code="KeyOnlyReads")

    def _check_ready(self, scope: Scope) -> None:
        readiness = self._service.readiness
        if scope["path"].startswith("/v1/") and not readiness.is_prepared:
            raise ProblemError(503, f"not ready yet: {readiness.reason}", code="NotReady", retry_after=1)

    def _check_host(self, version: str, headers: Mapping[str, str]) -> None:
        """Refuse names that lead to this machine in a browser, where nothing but the address keeps others out."""
        config = self._service.config
        if "host" not in headers and version == "1.1":  # one of uvicorn's two parsers lets it pass
            raise ProblemError(400, "the request has no Host, which HTTP/1.1 wants", code="BadRequest")
        if self._service.keys or not config.is_local:
            return
        name = _host_name(headers.get("host", "localhost"))
        known = ("localhost", *map(str.lower, (config.host, *config.allow_hosts)))
        if name not in known and not _is_address(name):
            detail = "the service is asked under another name than its own: --allow-host names those that it has"
            raise ProblemError(421, detail, code="WrongHost")

    def _check_origin(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refuse changes that a page of another server asks for: a browser sends forms without asking."""
        origin = headers.get("origin")
        if origin is None or scope["method"] in _READING or origin in self._service.config.allow_origins:
            return
        if headers.get("sec-fetch-site") == "same-origin":  # also where a proxy has put another name into Host
            return
        if origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise ProblemError(403, "the page that asks is of another server (--allow-origin)", code="WrongOrigin")


def needed_key(method: str, path: str, *, metrics: bool) -> str | None:
    """Return what a key must allow for a request: ``read`` or ``write``; None where none is needed."""
    if path == "/metrics":
        return READ if metrics else None
    if path != "/v1" and not path.startswith("/v1/"):
        return None
    return READ if method in _READING or (method == "POST" and path in _ASKING) else WRITE


def _given_key(headers: Mapping[str, str]) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key")


def _host_name(host: str) -> str:
    """Return the name of a ``Host`` without its port; an empty text if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
