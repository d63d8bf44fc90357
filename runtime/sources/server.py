"""Servers that photos are read from, with time limits and retries."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.extras import require
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import FileState
from ctxdeploy.core.urls import PROTOCOLS, check_protocol, is_web, protocol_of, without_secrets
from ctxdeploy.runtime.config import MAX_BYTES, RemoteConfig
from ctxdeploy.runtime.decode.decode import TooLargeError, read_file
from ctxdeploy.runtime.sources.bodies import WEB_OPTIONS, read_object, read_web
from ctxdeploy.runtime.sources.diagnosis import answered, diagnose

# Bytes of a list on a server: two million URLs.
MAX_LIST = 256 << 20
# To one S3 server: more than threads that read.
CONNECTIONS = 64
# What reads a body of these up to a limit; of others a range is asked for.
_BODIES: dict[str, Callable[[Any, str, int], Awaitable[bytes]]] = {"aiohttp": read_web, "s3fs": read_object}
_NO_SUCH_RANGE = 416
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

    __slots__ = ("_config", "_protocol", "_sync", "_system")

    def __init__(self, url: str, config: RemoteConfig) -> None:
        self._config, self._protocol = config, protocol_of(url)
        self._system = _file_system(url, config)
        self._sync = require("fsspec.asyn", "remote").sync

    def path(self, url: str) -> str:
        """Return a URL as the other methods take it: without its protocol; on the web whole, its signs made legal."""
        if is_web(url):
            return quote(url, safe="!#$%&'()*+,/:;=?@[]~", errors="surrogateescape")
        return str(self._system._strip_protocol(without_secrets(url)))

    def read(self, path: str, limit: int = MAX_BYTES, what: str = "photo") -> bytes:
        """Return the bytes of a file.

        Args:
            path: as ``path`` returned it.
            limit: bytes at most; no more are kept, whatever the server sends.
            what: it is, for the message.

        Raises:
            TooLargeError: it is larger.
            PhotoError: reading it failed; the message is the bare reason.
        """
        try:
            data: bytes = self._tried(lambda: self._read(path, limit))
        except TooLargeError as error:
            raise TooLargeError(error.limit, error.size, what) from error
        if len(data) > limit:
            raise TooLargeError(limit, None, what)
        return data

    def call(self, method: str, *arguments: object) -> Any:
        """Return what a method of the file system returns, tried again after failures that may pass.

        Raises:
            PhotoError: it failed; the message is the bare reason.
        """
        return self._tried(lambda: self._call(method, arguments))

    def _tried(self, attempted: Callable[[], Any]) -> Any:
        config = self._config
        for attempt in range(1, config.attempts + 1):
            try:
                return attempted()
            except PhotoError:  # ours, and final
                raise
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

    def _read(self, path: str, limit: int) -> Any:
        if self._protocol == "file":
            return read_file(Path(path), limit)
        if PACKAGES.get(self._protocol, ("",))[0] in _BODIES:
            read, system = _BODIES[PACKAGES[self._protocol][0]], self._system
            return self._sync(system.loop, _limited, read, (system, path, limit), self._config.timeout)
        try:
            return self._call("cat_file", (path, 0, limit + 1))
        except Exception as error:
            if answered(error)[0] == _NO_SUCH_RANGE:  # it is empty
                return b""
            raise

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
        return self.read_at_most(MAX_BYTES)

    def read_at_most(self, limit: int) -> bytes:
        """As ``read``; ``TooLargeError`` if there are more bytes than ``limit``."""
        if self.size is not None and self.size > limit:
            raise TooLargeError(limit, self.size)
        return self.server.read(self.folder + self.key, limit)

    def state(self) -> FileState | None:
        """Return size and time of change as they were listed."""
        if self.size is None or self.mtime_ns is None:
            return None
        return FileState(size=self.size, mtime_ns=self.mtime_ns)


class Servers:
    """The servers that are read from, each opened once.

    Args:
        config: time limits and retries, and which protocols a list may name.
        place: what the user named: its protocol is one of those.
    """

    def __init__(self, config: RemoteConfig, place: str = "") -> None:
        self._config = config
        self._allowed = (*config.allow_protocols, *([protocol_of(place)] if "://" in place else []))
        self._servers: dict[str, Server] = {}

    def open(self, url: str) -> Server:
        """Return what reads a URL that the user named; errors as ``Server``."""
        check_protocol(url)
        key = protocol_of(url)
        if key not in PACKAGES:  # then the file system is of one server
            key = "/".join(url.split("/", 3)[:3])
        if key not in self._servers:
            self._servers[key] = Server(url, self._config)
        return self._servers[key]

    def photo(self, url: str, where: str) -> RemotePhoto:
        """Return what reads the photo at a URL of a list; ``where`` it was named goes before the errors."""
        try:
            check_protocol(url, self._allowed)
            server = self.open(url)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return RemotePhoto(server=server, folder="", key=server.path(url))

    def fetch(self, url: str) -> bytes:
        """Return the bytes of a list; ``ConfigError`` if that fails."""
        server = self.open(url)
        try:
            return server.read(server.path(url), MAX_LIST, "list")
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
    # Of the usual ones no address is given: what looks like a chain in it is a part of its path.
    address = f"{protocol}://" if protocol in PROTOCOLS else url
    try:
        system, _ = core.url_to_fs(
            address, skip_instance_cache=True, use_listings_cache=False, **_options(protocol, config)
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
        return {"encoded": True, "client_kwargs": {"timeout": timeout, "trust_env": True, **WEB_OPTIONS}}
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
