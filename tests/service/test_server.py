"""The process: from its start to its end, and connections that mean no good."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from ctxdeploy import IndexedPhoto, PhotoIndex, QueryConfig

READER = "reader-0123456789"
MINUTES = 300.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_requests_end_and_ends_with_code_0(start: Any, album: Any, number: signal.Signals) -> None:
    served = start(album.archive, "--max-running", 1)
    with ThreadPoolExecutor(8) as threads:
        post = lambda _: httpx.post(f"{served.url}/v1/search", content=album.query(), timeout=MINUTES)  # noqa: E731
        answers = [threads.submit(post, number) for number in range(8)]
        taken = 0  # who has not connected by the signal is refused
        while taken < len(answers):
            done = sum(answer.done() for answer in answers)
            running = re.search("^ctxdeploy_running ([0-9]+)", httpx.get(f"{served.url}/metrics").text, re.MULTILINE)
            taken = done + int(running[1] if running else 0)
            assert done < len(answers)
        assert served.end(number) == 0
        assert [answer.result().status_code for answer in answers] == [200] * 8
    assert not any("Traceback" in line for line in served.log), served.log


def test_an_address_that_is_taken_is_said_in_one_line(served: Any, album: Any) -> None:
    port = str(urlsplit(served.url).port)
    command = [sys.executable, "-m", "ctxdeploy", "serve", str(album.archive), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES, check=False)
    assert done.returncode == 2
    assert done.stderr == f"ctxdeploy: error: --port {port} of 127.0.0.1 is in use: give another one, or 0 for any " + (
        "that is free\n"
    )


def test_mixed_requests_of_many_threads_are_answered_as_by_the_library(
    served: Any, album: Any, index: PhotoIndex
) -> None:
    names, scenes = index.names(), [path.stem for path in sorted(album.queries.iterdir())]
    wanted: dict[Any, Any] = {}
    for scene in scenes:
        for verify in (0, 3):
            wanted[scene, verify] = index.answer(album.query(scene), QueryConfig(verify=verify)).metadata()
    for name in names:
        wanted[name, 0] = index.answer(IndexedPhoto(name=name)).metadata()

    def ask(key: tuple[str, int]) -> tuple[Any, Any]:
        what, verify = key
        if what in names:
            answer = httpx.get(f"{served.url}/v1/search", params={"indexed": what}, timeout=MINUTES)
        else:
            url = f"{served.url}/v1/search?verify={verify}"
            answer = httpx.post(url, content=album.query(what), timeout=MINUTES)
        return key, answer

    with ThreadPoolExecutor(16) as threads:
        keys = (list(wanted) * 8)[:200]
        for key, answer in threads.map(ask, keys):
            assert answer.status_code == 200, answer.text
            results = answer.json()["results"]
            for result in results:
                del result["size"]  # the service's to say
            assert results == json.loads(json.dumps(wanted[key]["results"])), key


@pytest.fixture(scope="module", params=["h11", "httptools"])
def strict(album: Any, new_starter: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A service with a key, short times, few connections, and a log in JSON; with either of uvicorn's parsers."""
    if request.param == "httptools":
        pytest.importorskip("httptools", reason="httptools is not installed: uvicorn reads with h11 alone")
    # As where httptools is not installed; and an error where it is not.
    before = "import sys; sys.modules['httptools'] = None" if request.param == "h11" else "import httptools"
    starter = new_starter()
    options = ("--timeout", 2, "--keep-alive", 1, "--max-connections", 24, "--log-format", "json")
    yield starter(album.archive, *options, env={"CTXDEPLOY_READ_KEYS": READER}, before=before)
    starter.close()


def test_either_parser_is_the_one_in_use(strict: Any, request: pytest.FixtureRequest) -> None:
    used = Path(f"/proc/{strict.process.pid}/maps")
    if not used.exists():
        pytest.skip("what a process has loaded is told by Linux alone")
    assert ("httptools" in used.read_text()) == ("httptools" in request.node.name)


def dial(served: Any, text: bytes) -> socket.socket:
    """Return a connection that has sent a text."""
    found = urlsplit(served.url)
    connection = socket.create_connection((found.hostname, found.port), timeout=MINUTES)
    connection.sendall(text)
    return connection


def rest(connection: socket.socket) -> bytes:
    """Return what a connection gets until it is closed."""
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def head(length: int | str, *more: str) -> bytes:
    """Return the first lines of a search."""
    lines = ("POST /v1/search HTTP/1.1", "Host: localhost", f"X-API-Key: {READER}", f"Content-Length: {length}", *more)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_a_body_that_does_not_come_in_time_is_answered(strict: Any) -> None:
    with dial(strict, head(1000) + b"\xff\xd8") as connection:
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"code":"BodyTimeout"' in answer
    assert b"2 bytes came within 2 s" in answer


def test_what_is_said_to_be_too_large_is_not_waited_for(strict: Any) -> None:
    with dial(strict, head(1 << 40)) as connection:
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        for _ in range(10):
            connection.sendall(bytes(10_000))  # whoever goes on sending is not cut off at once: they read their answer
        assert rest(connection) == b""


def test_cut_off_bodies_harm_nobody(strict: Any) -> None:
    for cut in (b"", b"\xff\xd8\xff", bytes(900)):
        dial(strict, head(1000) + cut).close()
    answer = httpx.get(f"{strict.url}/v1/archives", headers={"X-API-Key": READER}, timeout=MINUTES)
    assert answer.status_code == 200
    gone = [line for line in strict.log if '"code": "ClientGone"' in line]
    assert all(json.loads(line)["status"] == 499 for line in gone)


@pytest.mark.parametrize("text", [b"HELLO\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_request_is_a_problem(strict: Any, text: bytes) -> None:
    with dial(strict, text) as connection:
        answer = rest(connection)
    assert answer == b"" or (answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer)


def test_headers_have_a_limit(strict: Any) -> None:
    with dial(strict, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n") as connection:
        answer = rest(connection)
    assert re.match(rb"HTTP/1.1 4(00|31) ", answer)
    with dial(strict, head(40_000, "Connection: close")[:-1]) as connection:  # its end comes with the body
        connection.sendall(b"\n" + bytes(40_000))
        assert rest(connection).startswith(b"HTTP/1.1 415 ")


def test_connections_that_ask_nothing_are_closed(strict: Any) -> None:
    with dial(strict, b"GET / HTTP/1.1\r\nX") as silent, dial(strict, b"") as trickling:
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.2):
                try:
                    trickling.sendall(b"G")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        assert rest(silent) == b""
        rest(trickling)
        ended.set()
        thread.join()


def test_more_connections_than_there_may_be_do_not_keep_others_out(strict: Any) -> None:
    held = [dial(strict, b"") for _ in range(60)]
    for _ in range(5):
        assert httpx.get(f"{strict.url}/livez", timeout=MINUTES).status_code == 200
    for connection in held:
        connection.close()


def test_the_log_has_a_line_a_request_and_no_key(strict: Any) -> None:
    for key in (READER, "wrong-0123456789"):
        headers = {"X-API-Key": key, "X-Request-ID": f"log-{key[:5]}"}
        httpx.get(f"{strict.url}/v1/search?indexed=first/coffee.jpg", headers=headers, timeout=MINUTES)
    while not any("log-wrong" in line for line in strict.log):
        threading.Event().wait(0.02)
    lines = [json.loads(line) for line in strict.log if line]
    by_id = {line["request_id"]: line for line in lines if "request_id" in line}
    found = by_id["log-reade"]
    assert (found["event"], found["method"], found["route"], found["status"]) == ("request", "GET", "/v1/search", 200)
    assert {"queue", "extract", "search", "total"} == set(found["ms"]) and found["bytes_out"] > 100
    assert (by_id["log-wrong"]["status"], by_id["log-wrong"]["code"]) == (401, "NoKey")
    text = "".join(strict.log)
    assert READER not in text and "wrong-0123456789" not in text and "coffee" not in text


def test_a_model_that_cannot_run_here_ends_it(start: Any, album: Any) -> None:
    served = start(album.archive, "--backend", "tensorrt", "--precision", "fp16", ready=False)
    assert served.process.wait(MINUTES) in (3, 12, 13)
    assert served.log[-2].startswith("ctxdeploy: ") or served.log[-1].startswith("ctxdeploy: "), served.log


@pytest.mark.parametrize("flag", ["--device", "--search-device"])
def test_a_gpu_that_is_not_there_is_said_before_the_port_answers(album: Any, flag: str) -> None:
    command = [sys.executable, "-m", "ctxdeploy", "serve", str(album.archive), "--port", "0", flag, "cuda:99"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES, check=False)
    assert done.returncode == 13 and done.stdout == ""
    assert done.stderr.startswith(f"ctxdeploy: error: {flag} cuda:99: ") and done.stderr.count("\n") == 1
