"""What went wrong, as problem details (RFC 9457), with the codes of the library."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse

from ctxdeploy.core.errors import (
    ArchiveError,
    BackendError,
    BundleError,
    ConfigError,
    CtxdeployError,
    DeadlineError,
    MismatchError,
    PhotoError,
    ShardError,
    StaleStateError,
    StorageError,
)
from ctxdeploy.core.text import printable
from ctxdeploy.runtime.decode import TOO_MANY_PIXELS

MEDIA_TYPE = "application/problem+json"
# The first class that fits; anything else of ours is a fault of the server.
_STATUS: tuple[tuple[type[CtxdeployError], int], ...] = (
    (ConfigError, 422),
    (PhotoError, 422),
    (DeadlineError, 504),
    (MismatchError, 409),
    (StaleStateError, 409),
    (ShardError, 503),
    (ArchiveError, 503),
    (BundleError, 503),
    (BackendError, 503),
    (StorageError, 507),
)
_RETRY_AFTER = {429: 1, 503: 5}
_TITLES = {
    400: "The request is malformed",
    401: "A key is needed",
    403: "This is not allowed",
    404: "There is no such thing",
    405: "The method is not allowed here",
    406: "The answer cannot be given in this form",
    408: "The body did not arrive in time",
    409: "It contradicts what is there",
    413: "The body or the photo is too large",
    415: "This is not a photo",
    416: "The range is not in the file",
    421: "This is not the server that was meant",
    422: "A value cannot be used",
    429: "Too many requests wait",
    431: "The head of the request is too long",
    500: "The service failed",
    503: "The service cannot answer now",
    504: "It took too long",
    507: "There is no room to store it",
}
# What pydantic says of parameters, in other words where those are of its own trade.
_SAID = {"extra_forbidden": "there is no such parameter here", "missing": "it is needed, and is not given"}
# Codes of what only HTTP knows.
_CODES = {404: "NotFound", 405: "MethodNotAllowed", 400: "BadRequest", 416: "RangeNotSatisfiable"}


class ProblemError(Exception):
    """A request is refused.

    Args:
        status: of HTTP.
        detail: one line: what happened, and what to do.
        code: the library's class of errors, or a word for what only the service knows.
        exit_code: that the command line has for the same error.
        retry_after: seconds after which to ask again; that of the status if None.
        headers: that the answer carries.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str,
        exit_code: int | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.code, self.exit_code = status, detail, code, exit_code
        self.retry_after = _RETRY_AFTER.get(status) if retry_after is None else retry_after
        self.headers = dict(headers or {})


def problem_of(error: BaseException, secrets: Mapping[str, str] | None = None) -> ProblemError:
    """Return what an error is for the one who asked; of a defect of ours nothing is told but that it is one.

    Args:
        error: any; of a group the first error that was raised on purpose counts.
        secrets: texts that are not to be told, such as folders of the server, and what stands for them.
    """
    known = _on_purpose(error)
    if isinstance(known, ProblemError):
        return known
    if not isinstance(known, CtxdeployError):
        return ProblemError(500, "the service failed; its log says why", code="InternalError")
    status = next((status for kind, status in _STATUS if isinstance(known, kind)), 500)
    detail = printable(str(known))
    if isinstance(known, PhotoError) and TOO_MANY_PIXELS in detail:
        status, detail = 413, detail.partition(TOO_MANY_PIXELS)[0] + TOO_MANY_PIXELS
    for secret, shown in (secrets or {}).items():
        detail = detail.replace(secret, shown)
    return ProblemError(status, detail, code=type(known).__name__, exit_code=known.exit_code)


def _on_purpose(error: BaseException) -> BaseException:
    """Return an error, or of a group the first that was raised on purpose."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    found = [_on_purpose(inner) for inner in error.exceptions]
    return next((one for one in found if isinstance(one, ProblemError | CtxdeployError)), found[0])


def http_problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> ProblemError:
    """Return what the router refuses as a problem."""
    said = {
        404: "there is no such path: /openapi.json lists those that there are",
        405: "this path is not asked with that method: Allow names those that it takes",
    }
    return ProblemError(status, said.get(status, detail), code=_CODES.get(status, "HttpError"), headers=headers)


def invalid(errors: Sequence[Any]) -> ProblemError:
    """Return what was wrong with the parameters of a request, as pydantic found it."""
    parts = []
    for error in errors[:3]:
        where = ".".join(str(part) for part in error["loc"][1:])
        parts.append(printable(f"{where}: {_SAID.get(error['type'], error['msg'])}"[:300]))
    more = f", and {len(errors) - 3} more" if len(errors) > 3 else ""
    return ProblemError(422, "; ".join(parts) + more, code="ConfigError", exit_code=ConfigError.exit_code)


def problem_fields(problem: ProblemError, request_id: str, instance: str) -> dict[str, Any]:
    """Return a problem as JSON has it."""
    return {
        "type": "about:blank",
        "title": _TITLES.get(problem.status, "The request failed"),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "exit_code": problem.exit_code,
        "request_id": request_id,
        "instance": quote(instance, errors="surrogateescape"),
    }


def problem_response(problem: ProblemError, request_id: str, instance: str) -> JSONResponse:
    """Return a problem as an answer of HTTP."""
    headers = dict(problem.headers)
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    fields = problem_fields(problem, request_id, instance)
    return JSONResponse(fields, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
