"""One request and its reply: what is sent, when it is sent again, and what a reply that is no answer means.

Nothing here speaks with the network: a generator yields what is to be done, and is sent what came of it.
"""

import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from os import PathLike
from typing import Any, BinaryIO, TypeAlias, TypeVar

from ctxdeploy.client.options import ClientConfig
from ctxdeploy.client.reading import read_json
from ctxdeploy.core.errors import ServiceError
from ctxdeploy.core.text import printable

Photo: TypeAlias = str | PathLike[str] | bytes | BinaryIO
_BUSY = (429, 503)
# Seconds before the second attempt where the service names none; the next ones wait twice as long each.
_FIRST_WAIT = 0.25
_DETAIL = 2000  # characters of a foreign text in a message


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked.

    Attributes:
        method: of HTTP.
        path: below the service's URL, escaped.
        parameters: of the URL.
        headers: besides those that every request has.
        body: bytes, if it has some.
        form: names and bytes of photos, sent as fields ``photo``; instead of ``body``.
        accepts: statuses that are answers.
        repeatable: asking twice does no harm, so it is sent again where the connection broke.
        patient: it is sent again where the service is busy.
    """

    method: str
    path: str
    parameters: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    form: tuple[tuple[str, bytes], ...] = ()
    accepts: tuple[int, ...] = (200,)
    repeatable: bool = True
    patient: bool = True


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back; the keys of ``headers`` are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class NoReply:
    """Nothing came back, or nothing that can be used.

    Attributes:
        reason: in words.
        code: ``NotReached`` where the service has not seen the request, ``Broken`` where that is not known,
            ``Timeout``, ``BadReply``.
    """

    reason: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Send:
    """To be done: send a request, and take its reply within so many seconds."""

    request: Request
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Pause:
    """To be done: wait."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class ReadPhoto:
    """To be done: read a file."""

    photo: Photo


Step: TypeAlias = Send | Pause | ReadPhoto
_Result = TypeVar("_Result")
Conversation: TypeAlias = Generator[Step, Any, _Result]


def exchange(request: Request, config: ClientConfig) -> Conversation[Reply]:
    """Send a request until it is answered, and return the reply.

    Args:
        request: what is asked.
        config: how.

    Raises:
        ServiceError: the service refuses it, or was not reached, in all attempts.
    """
    until = time.monotonic() + config.timeout
    attempt = 0
    while True:
        left = until - time.monotonic()
        if left <= 0:
            found: Reply | NoReply = NoReply(reason=f"no reply within {config.timeout:g} s", code="Timeout")
        else:
            found = yield Send(request=request, seconds=left)
        if isinstance(found, Reply) and found.status in request.accepts:
            return found
        wait = _wait(request, found, attempt)
        if wait is None or attempt >= config.retries or time.monotonic() + wait >= until:
            raise error_of(request, found, config)
        attempt += 1
        yield Pause(seconds=wait)


def _wait(request: Request, found: Reply | NoReply, attempt: int) -> float | None:
    """Return the seconds to the next attempt; None if there is no use in one."""
    # Clients that were refused together do not come back together.
    wait = float(_FIRST_WAIT * 2**attempt * random.uniform(0.75, 1.25))
    if isinstance(found, NoReply):
        again = found.code == "NotReached" or (found.code == "Broken" and request.repeatable)
        return wait if again else None
    if not request.patient or found.status not in _BUSY:
        return None
    told = retry_after(found.headers.get("retry-after"))
    return wait if told is None else max(told, 0.0) + wait / 4


def retry_after(text: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` means, given in seconds or as a date; None if it says nothing."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when.replace(tzinfo=when.tzinfo or UTC)
    return float((when - datetime.now(UTC)).total_seconds())


def error_of(request: Request, found: Reply | NoReply, config: ClientConfig) -> ServiceError:
    """Return the error that a reply is, or the lack of one."""
    asked = f"{request.method} {config.url.rstrip('/')}{request.path}"
    if isinstance(found, NoReply):
        text = f"{asked}: {found.reason[:_DETAIL]}"
        return ServiceError(printable(text), code="NotReached" if found.code == "Broken" else found.code)
    try:
        problem = read_json(found.body)
    except ValueError:  # a proxy's page, say
        problem = None
    return problem_error(asked, found.status, problem, found.headers)


def problem_error(asked: str, status: int, problem: Any, headers: Mapping[str, str]) -> ServiceError:
    """Return a problem (RFC 9457) as an error; what is not one, is told by its status."""
    told = problem if isinstance(problem, dict) else {}
    detail, code, request_id = (told.get(name) for name in ("detail", "code", "request_id"))
    if 300 <= status < 400:
        place = headers.get("location", "another place")
        detail, code = f"it sends to {place[:_DETAIL]}, and redirections are not followed: give that URL", "Redirected"
    if not isinstance(detail, str):
        detail = "the reply says no more: is this the URL of a ctxdeploy serve?"
    detail = printable(detail[:_DETAIL])
    code = printable(code[:100]) if isinstance(code, str) else "HTTP"
    request_id = printable(request_id[:100]) if isinstance(request_id, str) else headers.get("x-request-id")
    named = "" if request_id is None else f" (request {request_id})"
    return ServiceError(
        f"{printable(asked)}: {status} {code}: {detail}{named}",
        status=status,
        code=code,
        detail=detail,
        request_id=request_id,
    )
