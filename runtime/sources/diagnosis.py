"""What the errors of file systems mean: one line, and whether another attempt may succeed."""

import asyncio
from dataclasses import dataclass
from typing import Any

# Too many requests, and what servers answer while they restart or are overloaded.
_TRANSIENT = (408, 425, 429)
# Errors of the network that are not OSErrors; by name, because their packages may not be installed.
_NETWORK = ("aiohttp.client_exceptions.ClientError", "botocore.exceptions.HTTPClientError")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Why a request failed.

    Attributes:
        reason: one line; nothing of the error's own text, in which addresses with signatures may stand.
        is_transient: the next attempt may succeed.
    """

    reason: str
    is_transient: bool


def diagnose(error: BaseException, seconds: float) -> Diagnosis:
    """Return what an error of fsspec, of one of its file systems, or of what these build on, means.

    Args:
        error: as it was raised.
        seconds: time limit of the request.
    """
    chain = _chain(error)
    status, code = answered(error)
    if status:
        reason = f"the server answered {status}" + (f" ({code})" if code and code != str(status) else "")
        return Diagnosis(reason=reason, is_transient=status in _TRANSIENT or status >= 500)
    if any(isinstance(link, FileNotFoundError) for link in chain):
        return Diagnosis(reason="it is not there", is_transient=False)
    if any(isinstance(link, PermissionError) for link in chain):
        return Diagnosis(reason="access is denied", is_transient=False)
    if any("Credential" in type(link).__name__ for link in chain):
        return Diagnosis(reason="there are no credentials, or they have expired", is_transient=False)
    if any(isinstance(link, TimeoutError | asyncio.TimeoutError) or "Timeout" in type(link).__name__ for link in chain):
        return Diagnosis(reason=f"there was no complete answer within {seconds:g} s", is_transient=True)
    strerror = next((link.strerror for link in chain if isinstance(link, OSError) and link.strerror), None)
    kind = strerror if isinstance(strerror, str) and "//" not in strerror else type(chain[-1]).__name__
    is_transient = _is_network(chain)
    what = "the connection failed" if is_transient else "it cannot be read"
    return Diagnosis(reason=f"{what} ({' '.join(kind.split())})", is_transient=is_transient)


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what caused it, the cause last."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def answered(error: BaseException) -> tuple[int, str]:
    """Return the status and the word of the first link of an error that has any."""
    return next((answer for link in _chain(error) if (answer := _answer(link))[0]), (0, ""))


def _answer(error: BaseException) -> tuple[int, str]:
    """Return the status of HTTP and the server's word for it, (0, "") if the server gave no answer."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore.exceptions.ClientError
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = response.get("Error", {}).get("Code")
        return _status(status), str(code) if isinstance(code, str) and code.isalnum() else ""
    # gcsfs calls it code; what aiohttp calls so is its own opinion of an answer that it cannot read.
    attribute = "code" if type(error).__module__.startswith("gcsfs") else "status"
    return _status(getattr(error, attribute, None)), ""


def _status(value: object) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and 400 <= int(text) <= 599 else 0


def _is_network(chain: list[BaseException]) -> bool:
    if any(isinstance(link, _FINAL) for link in chain):
        return False
    names = {f"{kind.__module__}.{kind.__qualname__}" for link in chain for kind in type(link).__mro__}
    return not names.isdisjoint(_NETWORK) or any(isinstance(link, OSError) for link in chain)
