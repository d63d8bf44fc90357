"""An address to a file over HTTP, through interruptions.

What arrives goes to ``FILE.part``, beside it ``FILE.part.json`` says what it is a part of. After an interruption, also
by ``kill -9``, the rest alone is asked for, on condition (If-Range) that the server still has the same file.
"""

import contextlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy import __version__
from ctxdeploy.core.errors import ConfigError, DownloadError
from ctxdeploy.core.progress import Display
from ctxdeploy.models.part import Answer, Part
from ctxdeploy.runtime.sources import host_of, is_web, without_secrets

_PIECE = 1 << 16
_MB = 1_000_000
_LONGEST_PAUSE = 30.0
# An attempt that brought this much does not count.
_ENOUGH = 1 << 20
_MOST_ATTEMPTS = 100
# 408 request timeout, 429 too many requests, and failures of the server's own.
_PASSING = {408, 429, 500, 502, 503, 504}
_PARTIAL, _BEYOND = 206, 416


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """How patient a download is.

    Attributes:
        timeout: seconds without an answer or a byte.
        attempts: in a row that bring less than a MiB.
        pause: seconds before the second attempt; twice as many before each next one, 30 at most.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0


class _BrokenError(Exception):
    """This attempt has failed; another may not."""


def check_url(url: str) -> None:
    """Raise ``ConfigError`` unless a text is a URL of HTTP with a host."""
    if not is_web(url) or host_of(url)[0] is None or re.search(r"[\s\x00-\x1f\x7f]", url) or not url.isascii():
        raise ConfigError(f"{url!r} is no address such as https://host/how_r18.pth")


def fetch(url: str, target: Path, config: DownloadConfig, display: Display) -> Answer:
    """Download a file; continue an earlier download of the same address.

    Args:
        url: of HTTP.
        target: the file, which appears when it is whole.
        config: timeouts and attempts.
        display: shows progress, and each interruption.

    Raises:
        ConfigError: no URL.
        DownloadError: the server does not have it, or cannot be reached; what has arrived stays for the next call.
        StorageError: it cannot be written.
    """
    check_url(url)
    part, failed = Part(target), 0
    for attempt in range(_MOST_ATTEMPTS):
        before = part.size
        try:
            answer = _attempt(url, part, config, display)
            part.finish()
            return answer
        except _BrokenError as error:
            failed = 0 if part.size - before >= _ENOUGH else failed + 1
            if failed >= config.attempts or attempt == _MOST_ATTEMPTS - 1:
                kept = "; try later, or give another address with --url"
                if part.size:
                    kept = f"; {part.size / _MB:.1f} MB are kept, run the same command again to continue"
                raise DownloadError(f"{without_secrets(url)} cannot be fetched: {error}{kept}") from error
            display.say(f"{error}: trying again")
            time.sleep(min(config.pause * 2 ** max(failed - 1, 0), _LONGEST_PAUSE))
    raise DownloadError(f"{without_secrets(url)} cannot be fetched")  # the last attempt has raised


def _attempt(url: str, part: Part, config: DownloadConfig, display: Display) -> Answer:
    """Ask for what is missing and write it; ``_BrokenError`` if that ends before all is there."""
    former = part.answer(url)
    have = part.size if former is not None and former.validator is not None else 0
    if former is not None and have == former.total:
        return former
    with _response(url, former if have else None, have, part, config.timeout) as response:
        answer, offset = _understood(url, response, former, have)
        if offset is None:
            part.discard()
            raise _BrokenError("the server's file has changed")
        if have:
            display.say(f"continuing at {offset / _MB:.1f} MB" if offset else "the server sends all of the file again")
        missing = None if answer.total is None else answer.total - offset
        part.check_room(missing or 0)
        with part.writing(answer, offset) as file, _counting(missing, display) as count:
            for piece in _pieces(response, url, offset):
                file.write(piece)
                count(len(piece))
    if answer.total is not None and part.size != answer.total:
        raise _BrokenError(f"the connection ended at {part.size:,} of {answer.total:,} bytes")
    return answer


@contextlib.contextmanager
def _response(url: str, former: Answer | None, have: int, part: Part, timeout: float) -> Iterator[Any]:
    headers = {"User-Agent": f"ctxdeploy/{__version__}", "Accept-Encoding": "identity"}
    if former is not None and former.validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": former.validator}
    try:
        with _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _BEYOND:  # the file is shorter now: what there is belongs to another one
            part.discard()
            raise _BrokenError("the server's file is shorter than what has arrived") from error
        what = f"the server answers {error.code} {error.reason}"
        if error.code in _PASSING:
            raise _BrokenError(what) from error
        raise DownloadError(f"{without_secrets(url)}: {what}: give another address with --url") from error
    except urllib.error.URLError as error:
        raise _BrokenError(f"{host_of(url)[0]} cannot be reached ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke ({_reason(error)})") from error


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for HTTP alone: urllib's own also opens files of this machine that a redirection names."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _understood(url: str, response: Any, former: Answer | None, have: int) -> tuple[Answer, int | None]:
    """Return what the server says about the file, and where in it the answer begins; None if it does not go on where
    the part ends."""
    headers = response.headers
    offset, total = 0, _number(headers.get("Content-Length"))
    if response.status == _PARTIAL:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        offset = int(found[1]) if found else -1
        total = _number(found[2]) if found else None
    answer = Answer(
        url=url,
        final_url=without_secrets(response.url),
        etag=headers.get("ETag"),
        last_modified=headers.get("Last-Modified"),
        total=total,
    )
    if response.status != _PARTIAL:
        return answer, 0
    # A server that heeds Range but not If-Range would give the end of another file.
    same = former is not None and (answer.validator, answer.total) == (former.validator, former.total)
    return answer, offset if offset == have and same else None


def _pieces(response: Any, url: str, offset: int) -> Iterator[bytes]:
    """Yield what the server sends; a web page at the beginning of a file is refused."""
    try:
        while piece := response.read(_PIECE):
            if offset == 0 and piece.lstrip()[:1] == b"<":
                raise DownloadError(
                    f"{without_secrets(url)} is a web page, not a checkpoint: give another address with --url"
                )
            offset += len(piece)
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke ({_reason(error)})") from error


@contextlib.contextmanager
def _counting(missing: int | None, display: Display) -> Iterator[Any]:
    """Show progress in MB, where the size is known."""
    if missing is None:
        yield lambda count: None
        return
    done = shown = 0
    total = max(1, round(missing / _MB))
    with display.progress("downloading", total, "MB") as bar:

        def count(received: int) -> None:
            nonlocal done, shown
            done += received
            reached = total if done == missing else min(total - 1, done // _MB)
            if reached > shown:
                bar.advance(reached - shown)
                shown = reached

        yield count


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
