"""A file over HTTP, fetched by pooch: several attempts, and a file that appears when it is whole."""

import math
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from ctxdeploy.core.errors import ConfigError, DownloadError, StorageError
from ctxdeploy.core.extras import require
from ctxdeploy.core.files import storing
from ctxdeploy.core.progress import Display, Progress
from ctxdeploy.core.settings import parse_bytes, setting
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import host_of, is_web, redirect_refusal, without_secrets

_CHUNK = 1 << 16
_MB = 1_000_000
# Requests that may succeed later: 408 request timeout, 429 too many requests, and failures of the server's own.
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_OTHER_URL = "give another address with --url"


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Limits of a download.

    Attributes:
        timeout: seconds without an answer or a byte.
        attempts: of which each begins anew; 1, 2, 3 … seconds lie between them.
        max_bytes: of the file; the largest known checkpoint has 0.2 GB.
    """

    timeout: float = setting(30.0, "--timeout", "Seconds without an answer or a byte.")
    attempts: int = 5
    max_bytes: int = setting(
        2_000_000_000, "--max-size", "A larger file is refused.", metavar="SIZE", parse=parse_bytes, default_text="2GB"
    )

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigError(f"--max-size {self.max_bytes} is not positive: give a size such as 2GB")
        if not 0.1 <= self.timeout < math.inf:
            raise ConfigError(f"--timeout {self.timeout:g} is not a time of 0.1 s or more")
        if self.attempts < 1:
            raise ConfigError(f"{self.attempts} attempts are too few for a download: make at least one")


@dataclass(frozen=True, kw_only=True)
class Download:
    """What a server said about a file that it sent.

    Attributes:
        url: that answered, after redirections, without secrets.
        etag: of the file; None if the server gives none.
        last_modified: of the file; None if the server does not say.
    """

    url: str
    etag: str | None
    last_modified: str | None


def check_url(url: str) -> None:
    """Raise ``ConfigError`` unless a text is a URL of HTTP with a host."""
    if not is_web(url) or host_of(url)[0] is None or re.search(r"[\s\x00-\x1f\x7f]", url) or not url.isascii():
        raise ConfigError(f"{printable(without_secrets(url))!r} is not an address such as https://host/how_r18.pth")


def fetch(url: str, target: Path, config: DownloadConfig, display: Display) -> Download:
    """Download a file. Nothing stays of a download that fails.

    Args:
        url: of HTTP; redirections are followed, but not from HTTPS to HTTP or to anything else.
        target: the file, which appears when it is whole, and replaces one that is there.
        config: timeout and attempts.
        display: shows progress, and each attempt that fails.

    Raises:
        ConfigError: it is not a URL of HTTP.
        DownloadError: the server does not have it, or cannot be reached, or sends a web page.
        StorageError: it cannot be written.
        MissingExtraError: of the extra ``export``.
    """
    check_url(url)
    pooch = require("pooch", "export")
    failed = require("requests", "export").exceptions.RequestException
    pooch.get_logger().setLevel("ERROR")  # it would print the whole URL, with its secrets
    downloader = _Downloader(target.parent, config, display)
    cache = pooch.Pooch(
        path=target.parent,
        base_url="",
        registry={target.name: None},
        urls={target.name: url},
        retry_if_failed=config.attempts - 1,
    )
    try:
        with storing(target, advice="make room and run the same command again", but=failed):
            target.unlink(missing_ok=True)
            cache.fetch(target.name, downloader=downloader)
    except failed as error:
        raise DownloadError(
            f"{without_secrets(url)} cannot be fetched: {downloader.failure}; try later, or {_OTHER_URL}"
        ) from error
    return downloader.download()


class _Downloader:
    """The attempts of a download, as pooch calls them; says why one failed, and whether another may succeed."""

    def __init__(self, folder: Path, config: DownloadConfig, display: Display) -> None:
        self._folder, self._config, self._display = folder, config, display
        self._response: Any = None
        self._start = ""
        self.failure = ""

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Download to a temporary file; the error of an attempt that may be repeated is one of requests."""
        http = require("pooch", "export").HTTPDownloader
        exceptions = require("requests", "export").exceptions
        if self.failure:
            self._display.say(f"{self.failure}: trying again")
        self._response, self._start = None, url
        with ExitStack() as stack:
            download = http(
                progressbar=_ProgressBar(
                    self._display, stack, lambda: self._check_size(Path(output_file).stat().st_size)
                ),
                chunk_size=_CHUNK,
                timeout=self._config.timeout,
                headers={"User-Agent": "ctxdeploy", "Accept-Encoding": "identity"},
                hooks={"response": self._answered},
            )
            try:
                download(url, output_file, pooch)
                self._check(url, Path(output_file), exceptions)
            except exceptions.RequestException as error:
                self.failure = self._reason(url, error)
                status = 200 if self._response is None else self._response.status_code
                if status >= 400 and status not in _TRANSIENT:
                    raise DownloadError(f"{without_secrets(url)}: {self.failure}: {_OTHER_URL}") from error
                raise

    def download(self) -> Download:
        """Return what the last answer said."""
        headers = self._response.headers
        return Download(
            url=without_secrets(self._response.url),
            etag=headers.get("ETag"),
            last_modified=headers.get("Last-Modified"),
        )

    def _answered(self, response: Any, *_: Any, **__: Any) -> None:
        """Keep an answer before its body is read; refuse redirections to other schemes, and files without room."""
        if response.is_redirect:
            there = urljoin(response.url, response.headers["location"])
            refusal = redirect_refusal(self._start, response.url, there)
            if refusal is not None:
                raise DownloadError(f"{without_secrets(response.url)}: {refusal}: {_OTHER_URL}")
            return
        self._response = response
        size, free = _length(response) or 0, shutil.disk_usage(self._folder).free
        self._check_size(size)
        if size > free:
            raise StorageError(
                f"{self._folder} has room for {free / _MB:.0f} MB, {size / _MB:.0f} MB are needed: make room, or name "
                "another folder with --to or CTXDEPLOY_HOME"
            )

    def _check_size(self, size: int) -> None:
        limit = self._config.max_bytes
        if size > limit:
            raise DownloadError(
                f"{without_secrets(self._response.url)} is larger than {limit / _MB:,.0f} MB: if that is right, raise "
                "--max-size"
            )

    def _check(self, url: str, file: Path, exceptions: Any) -> None:
        length, size = _length(self._response), file.stat().st_size
        if length is not None and size != length:  # not every version of urllib3 compares them
            raise exceptions.ConnectionError(f"{size:,} of {length:,} bytes")
        with file.open("rb") as content:
            if content.read(1024).lstrip()[:1] == b"<":
                raise DownloadError(f"{without_secrets(url)} is a web page, not a checkpoint: {_OTHER_URL}")

    def _reason(self, url: str, error: BaseException) -> str:
        response = self._response
        if response is not None and response.status_code >= 400:
            return f"the server answers {response.status_code} {response.reason}"
        while (cause := error.__cause__ or error.__context__) is not None:
            error = cause
        text = str(getattr(error, "strerror", None) or error) or type(error).__name__
        return f"{host_of(url)[0]} cannot be reached ({text})" if response is None else f"the connection broke ({text})"


class _ProgressBar:
    """What pooch asks of a progress bar, in MB on our display; nothing is shown where the size is not known.

    It is asked for every piece, so that it also ends a file without end: ``check`` raises.

    Attributes:
        total: bytes of the file; pooch sets it.
    """

    def __init__(self, display: Display, stack: ExitStack, check: Callable[[], None]) -> None:
        self.total = 0
        self._display, self._stack, self._check = display, stack, check
        self._received = self._shown = 0
        self._bar: Progress | None = None

    def update(self, count: int) -> None:
        """Count bytes; pooch counts its last chunk as a whole one, and corrects that by ``reset`` and the total."""
        self._check()
        if not self.total:
            return
        megabytes = max(1, round(self.total / _MB))
        if self._bar is None:
            self._bar = self._stack.enter_context(self._display.progress("downloading", megabytes, "MB"))
        self._received += count
        reached = megabytes if self._received == self.total else min(megabytes - 1, self._received // _MB)
        if reached > self._shown:
            self._bar.advance(reached - self._shown)
            self._shown = reached

    def reset(self) -> None:
        """Begin to count anew."""
        self._received = 0

    def close(self) -> None:
        """Do nothing: the attempt closes the bar."""


def _length(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None
