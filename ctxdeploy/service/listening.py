"""A port and the loop that answers on it."""

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.service.config import ServiceConfig
from ctxdeploy.service.readiness import Readiness

_BACKLOG = 2048


def bound_socket(config: ServiceConfig) -> socket.socket:
    """Return a socket that is bound to the address and does not listen yet; ``ConfigError`` if that is impossible."""
    try:
        found = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {config.host}: {getattr(error, 'strerror', None) or error}") from error
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        flag = f"--host {config.host} --port {config.port}"
        raise ConfigError(f"{flag}: {error.strerror}: give another --port, or 0 for any that is free") from error
    return bound


def url_of_socket(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


class Listener(uvicorn.Server):
    """Answers on a socket until a signal ends it: the first lets requests end, the second does not wait for them."""

    def __init__(self, app: FastAPI, config: ServiceConfig, readiness: Readiness) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                ws="none",
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=max(round(config.grace_seconds), 1),
            )
        )
        self._readiness = readiness

    def stop(self) -> None:
        """End as after a signal; from any thread."""
        self._readiness.end()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self.should_exit:
            self.force_exit = True
        self.stop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT while the block runs; they are not raised again, since they were obeyed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in former.items():
                signal.signal(sig, handler)


def quiet_uvicorn() -> None:
    """Let uvicorn say nothing but warnings: the log of requests is ours."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.WARNING)
