"""What went wrong, as problem details (RFC 9457), with the codes of the library."""

from typing import Any

from starlette.responses import JSONResponse

from ctxdeploy.core.errors import (
    ArchiveError,
    BackendError,
    BundleError,
    ConfigError,
    CtxdeployError,
    MismatchError,
    PhotoError,
    StorageError,
)
from ctxdeploy.core.text import printable

MEDIA_TYPE = "application/problem+json"
# The first class that fits; anything else of ours is a fault of the server.
_STATUS: tuple[tuple[type[CtxdeployError], int], ...] = (
    (ConfigError, 422),
    (PhotoError, 422),
    (MismatchError, 409),
    (ArchiveError, 503),
    (BundleError, 503),
    (BackendError, 503),
    (StorageError, 507),
)
_TITLES = {
    400: "The request is malformed",
    401: "A key is needed",
    403: "The key does not allow this",
    404: "There is no such thing",
    405: "The method is not allowed here",
    408: "The body did not arrive in time",
    409: "It contradicts what is there",
    413: "The body or the photo is too large",
    415: "This is no photo",
    422: "A value cannot be used",
    429: "Too many requests wait",
    500: "The service failed",
    503: "The service cannot answer now",
    504: "It took too long",
    507: "There is no room to store it",
}


class ProblemError(Exception):
    """A request is refused.

    Args:
        status: of HTTP.
        detail: one line: what happened, and what to do.
        code: the library's class of errors, or a word for what only the service knows.
        retry_after: seconds after which to ask again.
    """

    def __init__(self, status: int, detail: str, *, code: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.code, self.retry_after = status, detail, code, retry_after


def problem_of(error: BaseException) -> ProblemError:
    """Return what an error is for the one who asked; of a defect of ours nothing is told but that it is one."""
    if isinstance(error, ProblemError):
        return error
    for kind, status in _STATUS:
        if isinstance(error, kind):
            retry_after = 5 if status == 503 else None
            return ProblemError(status, printable(str(error)), code=type(error).__name__, retry_after=retry_after)
    if isinstance(error, CtxdeployError):
        return ProblemError(500, printable(str(error)), code=type(error).__name__)
    return ProblemError(500, "the service failed; its log says why", code="InternalError")


def problem_fields(problem: ProblemError, request_id: str, instance: str) -> dict[str, Any]:
    """Return a problem as JSON has it."""
    return {
        "type": "about:blank",
        "title": _TITLES.get(problem.status, "The request failed"),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
        "instance": instance,
    }


def problem_response(problem: ProblemError, request_id: str, instance: str) -> JSONResponse:
    """Return a problem as an answer of HTTP."""
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    fields = problem_fields(problem, request_id, instance)
    return JSONResponse(fields, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
