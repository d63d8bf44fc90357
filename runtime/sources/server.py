"""Servers that photos are read from, with time limits and retries."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.extras import require
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime.config import RemoteConfig
from ctxdeploy.runtime.sources.base import MAX_BYTES
from ctxdeploy.runtime.sources.urls import is_web, protocol_of, without_secrets

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
    status, code = next((answer for link in chain if (answer := _answer(link))[0]), (0, ""))
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


# To one S3 server: more than threads that read.
CONNECTIONS = 64
# What reads a protocol, and the extra that installs it.
PACKAGES = {
    "http": ("aiohttp", "remote"),
    "https": ("aiohttp", "remote"),
    "s3": ("s3fs", "remote"),
    "s3a": ("s3fs", "remote"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
}


class Server:
    """What reads the files of one server, or of one protocol, called from any thread.

    Args:
        url: of any file or folder there.
        config: time limits and retries.

    Raises:
        MissingExtraError: what reads the protocol is not installed.
        ConfigError: there is no such protocol.
    """

    __slots__ = ("_config", "_sync", "_system")

    def __init__(self, url: str, config: RemoteConfig) -> None:
        self._config = config
        self._system = _file_system(url, config)
        self._sync = require("fsspec.asyn", "remote").sync

    def path(self, url: str) -> str:
        """Return a URL as the other methods take it: without its protocol; on the web whole, its signs made legal."""
        if is_web(url):
            return quote(url, safe="!#$%&'()*+,/:;=?@[]~", errors="surrogateescape")
        return str(self._system._strip_protocol(without_secrets(url)))

    def read(self, path: str) -> bytes:
        """Return the bytes of a file; ``PhotoError`` with the bare reason if that fails."""
        data: bytes = self.call("cat_file", path)
        return data

    def call(self, method: str, *arguments: object) -> Any:
        """Return what a method of the file system returns, tried again after failures that may pass.

        Raises:
            PhotoError: it failed; the message is the bare reason.
        """
        config = self._config
        for attempt in range(1, config.attempts + 1):
            try:
                return self._call(method, arguments)
            except Exception as error:  # each file system has errors of its own, and they know no common base
                diagnosis = diagnose(error, config.timeout)
                if not diagnosis.is_transient:
                    raise PhotoError(diagnosis.reason) from error
                if attempt == config.attempts:
                    raise PhotoError(
                        f"{diagnosis.reason}, {attempt} times" if attempt > 1 else diagnosis.reason
                    ) from error
            time.sleep(config.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1))
        raise PhotoError("no attempt was made")

    def _call(self, method: str, arguments: tuple[object, ...]) -> Any:
        system = self._system
        if not getattr(system, "async_impl", False):
            return getattr(system, method)(*arguments)
        # Not fsspec's own time limit, which leaves the request running.
        return self._sync(system.loop, _limited, getattr(system, f"_{method}"), arguments, self._config.timeout)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemotePhoto:
    """Reads a photo of a server.

    Attributes:
        server: its server.
        folder: the path begins with it.
        key: the rest of the path.
        size: bytes, as listed; None if the listing does not tell.
        mtime_ns: time of change, or a number made from the entity tag; None if the listing tells neither.
    """

    server: Server
    folder: str
    key: str
    size: int | None = None
    mtime_ns: int | None = None

    def read(self) -> bytes:
        """Return the bytes; ``PhotoError`` with the bare reason if that fails."""
        if self.size is not None and self.size > MAX_BYTES:
            raise PhotoError(f"it has {self.size:,} bytes, more than the {MAX_BYTES:,} that a photo may have")
        return self.server.read(self.folder + self.key)

    def state(self) -> FileState | None:
        """Return size and time of change as they were listed."""
        if self.size is None or self.mtime_ns is None:
            return None
        return FileState(size=self.size, mtime_ns=self.mtime_ns)


class Servers:
    """The servers that are read from, each opened once."""

    def __init__(self, config: RemoteConfig) -> None:
        self._config = config
        self._servers: dict[str, Server] = {}

    def open(self, url: str) -> Server:
        """Return what reads a URL; errors as ``Server``."""
        key = protocol_of(url)
        if key not in PACKAGES:  # then the file system is of one server
            key = "/".join(url.split("/", 3)[:3])
        if key not in self._servers:
            self._servers[key] = Server(url, self._config)
        return self._servers[key]

    def photo(self, url: str, where: str) -> RemotePhoto:
        """Return what reads the photo at a URL; ``where`` it was named goes before the errors of ``open``."""
        try:
            server = self.open(url)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return RemotePhoto(server=server, folder="", key=server.path(url))

    def fetch(self, url: str) -> bytes:
        """Return the bytes of a list; ``ConfigError`` if that fails."""
        server = self.open(url)
        try:
            return server.read(server.path(url))
        except PhotoError as error:
            raise cannot_list(url, error) from error


def cannot_list(place: str, error: PhotoError) -> ConfigError:
    return ConfigError(f"{printable(without_secrets(place))} cannot be listed: {error}")


async def _limited(method: Callable[..., Awaitable[Any]], arguments: tuple[object, ...], seconds: float) -> Any:
    return await asyncio.wait_for(method(*arguments), seconds)


def _file_system(url: str, config: RemoteConfig) -> Any:
    protocol = protocol_of(url)
    package, extra = PACKAGES.get(protocol, ("fsspec", "remote"))
    require("fsspec", "remote")
    require(package, extra)
    core = require("fsspec.core", "remote")
    try:
        system, _ = core.url_to_fs(
            url, skip_instance_cache=True, use_listings_cache=False, **_options(protocol, config)
        )
    except (ImportError, ValueError, OSError) as error:
        reason = " ".join(str(error).replace(url, without_secrets(url)).split())
        raise ConfigError(f"{protocol}:// cannot be read: {reason}") from error
    if package == "s3fs":
        system.retries = 1  # ours are the only ones
        _connect(system, config)
    return system


def _connect(system: Any, config: RemoteConfig) -> None:
    """Make botocore load its descriptions of the service now: it would take the time of the first requests for that."""
    try:
        system.connect()
    except Exception as error:  # botocore's own: no such profile, damaged settings, ...
        raise ConfigError(f"s3:// cannot be read: {diagnose(error, config.timeout).reason}") from error


def _options(protocol: str, config: RemoteConfig) -> dict[str, Any]:
    """Return the time limits as a file system takes them; of others than these only ``timeout`` holds."""
    if protocol in ("http", "https"):
        aiohttp = require("aiohttp", "remote")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout)
        # encoded: a signature may not survive the quoting of aiohttp. trust_env: HTTP_PROXY and its like.
        return {"encoded": True, "client_kwargs": {"timeout": timeout, "trust_env": True}}
    if protocol in ("s3", "s3a"):
        settings = {
            "connect_timeout": config.connect_timeout,
            "read_timeout": config.timeout,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": CONNECTIONS,
        }
        # One request for a photo: else its size is asked for, and parts of it are.
        return {"config_kwargs": settings, "max_concurrency": 1}
    return {}
