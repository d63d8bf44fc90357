"""A server that says what a test has written down for it, and both clients behind one function."""

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ctxdeploy.client import AsyncClient, Client


@dataclass(kw_only=True)
class Script:
    """What a server says, one reply after the other, the last one again and again; and what it was asked.

    A reply is a status, headers and a body; a status of 0 breaks the connection off.
    """

    url: str
    replies: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def say(self, status: int, told: object, headers: dict[str, str] | None = None) -> None:
        """Add a reply: bytes as they are, anything else as JSON."""
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.replies.append((status, headers or {}, body))


@pytest.fixture
def script() -> Iterator[Script]:
    """A server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            written.asked.append((self.command, self.path, headers, body))
            status, given, told = written.replies[0]
            if len(written.replies) > 1:
                written.replies.pop(0)
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"Content-Length": str(len(told)), **given}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that went away

    server = Server(("127.0.0.1", 0), Handler)
    written = Script(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield written
    server.shutdown()
    thread.join()
    server.server_close()


Ask = Callable[..., Any]


async def _awaited(url: str, what: Callable[[AsyncClient], Any], settings: dict[str, Any]) -> Any:
    async with AsyncClient(url, **settings) as client:
        found = what(client)
        return [one async for one in found] if hasattr(found, "__aiter__") else await found


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Return a function that asks a service through one of the clients: a URL, what to call, and settings."""

    def call(url: str, what: Callable[[Any], Any], **settings: Any) -> Any:
        if request.param == "async":
            return asyncio.run(_awaited(url, what, settings))
        with Client(url, **settings) as client:
            found = what(client)
            return list(found) if inspect.isgenerator(found) else found

    return call
