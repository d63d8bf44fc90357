"""A port, and the loop that answers on it until a signal comes."""

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.service.config import ServiceConfig
from ctxdeploy.service.connections import protocol_for
from ctxdeploy.service.logs import log
from ctxdeploy.service.readiness import Readiness

_BACKLOG = 2048
# Files that a process has open besides connections: archives, modules, pipes of workers.
_OTHER_FILES = 256


def bound_socket(config: ServiceConfig) -> socket.socket:
    """Return a socket that is bound to the address and does not listen yet; ``ConfigError`` if that is impossible."""
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {config.host} is no address of this machine: {reason}") from error
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ConfigError(_why_not_bound(config, error)) from error
    return bound


def _why_not_bound(config: ServiceConfig, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {config.port} of {config.host} is in use: give another one, or 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"--port {config.port} needs rights that this user lacks: give one above 1023"
    return f"--host {config.host} --port {config.port}: {error.strerror or error}"


def url_of_socket(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def possible_connections(config: ServiceConfig) -> int:
    """Return how many connections there may be: as many as are wanted, or as the system allows, which is then said."""
    try:
        import resource
    except ModuleNotFoundError:  # no such limit here
        return config.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.max_connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return config.max_connections
    most = max(soft - _OTHER_FILES, 16)
    log.warning(f"{most} connections are possible, not {config.max_connections}: raise the limit of files (ulimit -n)")
    return most


class Listener(uvicorn.Server):
    """Answers on a socket until a signal ends it: the first lets requests end, the second does not wait for them.

    Args:
        app: that answers.
        config, readiness: of the service.
        end_now: ends the process, when a second signal comes; whatever the event loop does then.
    """

    def __init__(self, app: FastAPI, config: ServiceConfig, readiness: Readiness, end_now: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_for(config, possible_connections(config)),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                ws="none",
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=max(round(config.keep_alive), 1),
                timeout_graceful_shutdown=max(round(config.grace_seconds), 1),
            )
        )
        self._readiness, self._drain, self._end_now = readiness, config.drain_seconds, end_now
        self._signalled = False

    def stop(self) -> None:
        """End as after a signal; from any thread."""
        self._readiness.end()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._signalled:
            log.warning("a second signal: the process ends now, and what ran is dropped")
            self._end_now()
        self._signalled = True
        log.info(f"{signal.Signals(sig).name}: no new requests after {self._drain:g} s, and the end when all is done")
        self.stop()

    async def main_loop(self) -> None:
        """Answer until a signal comes, and then for as long as balancers need to learn of it."""
        await super().main_loop()
        end = asyncio.get_running_loop().time() + self._drain
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP while the block runs; they are not raised again, since they were obeyed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        # A terminal that is closed; ``nohup`` wants that to be ignored.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        former = {sig: signal.signal(sig, self.handle_exit) for sig in numbers}
        try:
            yield
        finally:
            for sig, handler in former.items():
                signal.signal(sig, handler)
