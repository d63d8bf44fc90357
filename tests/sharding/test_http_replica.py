"""A server of a part over HTTP: one that is written here, and does what no good one would do."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, ShardError, StaleStateError
from ctxdeploy.core.part import Part
from ctxdeploy.sharding.config import TransportConfig
from ctxdeploy.sharding.http_replica import BYTES, SECONDS_HEADER, HttpReplica, checked_url
from ctxdeploy.sharding.replica import ReplicaError, Trouble
from ctxdeploy.sharding.replicas import ReplicaTransport

PART = Part(number=1, count=2)
MINUTES = 300.0
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers), body, self.client_address))
        self.server.answer(self)

    def do_GET(self) -> None:
        self.reply(200 if self.path == "/readyz" and self.server.ready else 503, b"{}", "application/json")

    def reply(self, status: int, body: bytes, kind: str = BYTES, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Any] = []
        self.ready = True
        self.answer: Answer = lambda handler: handler.reply(200, b"answer")

    def handle_error(self, *_: object) -> None:
        return

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(MINUTES)


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., HttpReplica]]:
    """Return a function that connects to the server, with the settings of a ``TransportConfig``."""
    made: list[HttpReplica] = []

    def connect(*, url: str = "", key: str | None = None, archive: str | None = None, **settings: float) -> HttpReplica:
        config = TransportConfig(**settings)  # type: ignore[arg-type]
        made.append(HttpReplica(url or server.url, part=PART, archive=archive, key=key, config=config))
        return made[-1]

    yield connect
    for replica in made:
        replica.close()


def problem(status: int, **fields: object) -> Answer:
    return lambda handler: handler.reply(status, json.dumps(fields).encode(), "application/problem+json")


def test_a_request_says_whom_it_means_and_how_long_it_has_on_one_connection(connect: Any, server: Server) -> None:
    replica = connect(key="k" * 20, archive="my photos")
    assert [replica.send(b"\x00request", MINUTES) for _ in range(3)] == [b"answer"] * 3
    path, headers, body, _ = server.asked[0]
    assert path == "/v1/shard?part=1%2F2&archive=my+photos" and body == b"\x00request"
    assert headers["Content-Type"] == BYTES and headers["Authorization"] == "Bearer " + "k" * 20
    assert MINUTES - 60 < float(headers[SECONDS_HEADER]) <= MINUTES
    assert len({address for *_, address in server.asked}) == 1
    assert replica.name == server.url and "k" * 20 not in repr(replica)


@pytest.mark.parametrize(
    ("answer", "trouble", "said"),
    [
        (problem(422, detail="it is not a message"), Trouble.UNFIT, "it is not a message"),
        (problem(413, detail="too large"), Trouble.UNFIT, "too large"),
        (problem(409, code="MismatchError", detail="it searches part 2/2"), Trouble.REFUSED, "it searches part 2/2"),
        (problem(401), Trouble.REFUSED, "--shard-key-file"),
        (problem(403), Trouble.REFUSED, "--shard-key-file"),
        (problem(404, code="NotFound", detail="there is no such path"), Trouble.REFUSED, "is not a shard server"),
        (problem(404, code="NoSuchArchive", detail="there is no archive 'x'"), Trouble.REFUSED, "no archive 'x'"),
        (problem(429, detail="64 wait"), Trouble.BUSY, "64 wait"),
        (problem(503, detail="not ready yet: compiling"), Trouble.REFUSED, "not ready yet: compiling"),
        (problem(504, detail="no answer"), Trouble.LATE, "no answer"),
        (problem(500, detail="it failed"), Trouble.REFUSED, "it failed"),
        (lambda handler: handler.reply(500, b"[" * 60_000), Trouble.REFUSED, "it answers 500"),
        (lambda handler: handler.reply(200, b"<html>", "text/html"), Trouble.REFUSED, "it answers 200"),
        (lambda handler: handler.reply(302, b"", Location="http://example.org/"), Trouble.REFUSED, "it answers 302"),
        (problem(409, code="StaleStateError", detail=7, held="x"), None, "it answers 409"),
        (problem(409, code="StaleStateError", detail="it holds 3", held=[3, True, "x", None, 5]), None, "it holds 3"),
    ],
)
def test_a_refusal_is_told_apart(connect: Any, server: Server, answer: Answer, trouble: Any, said: str) -> None:
    server.answer = answer
    with pytest.raises((ReplicaError, StaleStateError), match=said) as caught:
        connect().send(b"x", MINUTES)
    if trouble is None:
        assert isinstance(caught.value, StaleStateError) and caught.value.held in ((), (3, 5))
    else:
        assert isinstance(caught.value, ReplicaError) and caught.value.trouble is trouble
    assert len(server.asked) == 1


def test_an_answer_has_its_limit_of_bytes(connect: Any, server: Server) -> None:
    server.answer = lambda handler: handler.reply(200, bytes(1001))
    with pytest.raises(ReplicaError, match="more than 1,000 bytes"):
        connect(max_bytes=1000).send(b"x", MINUTES)
    assert len(connect(max_bytes=1001).send(b"x", MINUTES)) == 1001


def test_a_connection_that_was_closed_meanwhile_is_made_anew(connect: Any, server: Server) -> None:
    def close(handler: Handler) -> None:
        server.answer = lambda handler: handler.reply(200, b"again")
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    server.answer = close
    assert connect().send(b"x", MINUTES) == b"again"
    assert [body for _, _, body, _ in server.asked] == [b"x", b"x"]


def test_a_connection_that_breaks_each_time_is_a_refusal(connect: Any, server: Server) -> None:
    def cut(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", BYTES)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"half")
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    server.answer = cut
    with pytest.raises(ReplicaError, match="the connection broke") as caught:
        connect().send(b"x", MINUTES)
    assert caught.value.trouble is Trouble.REFUSED and len(server.asked) == 2


def test_nobody_listens(connect: Any, server: Server) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        replica = connect(url=f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(ReplicaError, match="it is not reached") as caught:
            replica.send(b"x", MINUTES)
        assert caught.value.trouble is Trouble.REFUSED and not replica.is_back()


def test_a_server_that_says_nothing_is_silent_and_one_that_drips_too(connect: Any, server: Server) -> None:
    over = threading.Event()
    server.answer = lambda handler: over.wait(MINUTES) and None
    with pytest.raises(ReplicaError, match="no answer within") as caught:
        connect().send(b"x", 0.2)
    assert caught.value.trouble is Trouble.SILENT

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", BYTES)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not over.wait(0.02):
            handler.wfile.write(b"x")

    server.answer = drip
    with pytest.raises(ReplicaError, match="did not come to its end") as caught:
        connect().send(b"x", 0.2)
    assert caught.value.trouble is Trouble.SILENT
    over.set()


def test_a_look_asks_whether_it_is_ready(connect: Any, server: Server) -> None:
    replica = connect()
    assert replica.is_back()
    server.ready = False
    assert not replica.is_back()


def test_a_transport_over_http_goes_from_a_server_that_ends_to_its_replica(connect: Any, server: Server) -> None:
    with Server() as other:
        other.answer = lambda handler: handler.reply(200, b"replica")
        serving = threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True)
        serving.start()
        # Answers may take what they take here: only what is refused leads to the other server.
        config = TransportConfig(timeout=MINUTES, hedge_seconds=MINUTES)
        replicas = [HttpReplica(url, part=PART, config=config) for url in (other.url, server.url)]
        transport = ReplicaTransport(PART, replicas, config)
        assert {transport.ask(b"x", deadline=Deadline()) for _ in range(4)} == {b"answer", b"replica"}
        other.shutdown()
        other.server_close()
        serving.join(MINUTES)
        other.answer = lambda handler: setattr(handler, "close_connection", True)  # of connections that are open still
        assert [transport.ask(b"x", deadline=Deadline()) for _ in range(6)] == [b"answer"] * 6
        server.answer = problem(503, detail="it ends")
        with pytest.raises(ShardError, match=r"part 1/2 does not answer: .*it ends"):
            transport.ask(b"x", deadline=Deadline())
        transport.close()


@pytest.mark.parametrize(
    "url", ["", "10.0.0.7:8001", "ftp://a", "http://", "http://a/?b=c", "http://a:x", "http://u:p@a"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|user"):
        checked_url(url)
    with pytest.raises(ConfigError):
        HttpReplica(url, part=PART)
    assert checked_url("https://a.example:8001/photos/") == "https://a.example:8001/photos"
