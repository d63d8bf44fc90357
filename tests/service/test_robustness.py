"""The service goes on whatever is sent to it: made-up requests, damaged photos, slow and idle connections."""

import contextlib
import resource
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

pytestmark = pytest.mark.slow
SLOW = 64
MINUTES = 600.0
# Memory of all processes, beyond what a service has that has answered: 8 requests of up to 4 MiB and 4 megapixels.
LIMITS = ("--max-bytes", "4MiB", "--max-pixels", "4000000")
MEGABYTES = 1024


@pytest.fixture(scope="module")
def hostile(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    """``tests/reference/hostile_uploads.py``."""
    return load_reference("hostile_uploads")


@pytest.fixture
def within_memory(hostile: ModuleType) -> Callable[[int], AbstractContextManager[None]]:
    """Return a context manager that looks at the memory of a process, and fails if that takes more than it may."""
    return lambda pid: _within_memory(pid, hostile.memory)


@contextmanager
def _within_memory(pid: int, memory: Callable[[int], float]) -> Iterator[None]:
    before, most, ended = memory(pid), 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while not ended.wait(0.05):
            most = max(most, memory(pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        most = max(most, memory(pid))
    assert most > 0
    assert most < before + MEGABYTES, f"{before:.0f} MB before, {most:.0f} MB"


def check_good(url: str, album: Any, scene: str = "coffee") -> None:
    """Ask with a good photo, and find what it shows."""
    reply = httpx.post(f"{url}/v1/search", content=album.query(scene), timeout=MINUTES)
    assert reply.status_code == 200, reply.text
    assert scene in reply.json()["results"][0]["name"]


def test_nothing_of_the_api_fails_and_all_answers_are_as_it_says(start: Any, own_album: Any) -> None:
    """What schemathesis makes up from ``openapi.json`` is answered as that says, and never with 500."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import checks

    served = start(own_album.archive, "--writable", *LIMITS)
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    wanted = [
        checks.not_a_server_error,
        *(getattr(schemathesis.specs.openapi.checks, f"{name}_conformance") for name in (
            "status_code", "content_type", "response_schema", "response_headers",
        )),
    ]  # fmt: skip
    asked, operations = 0, 0
    for found in schema.get_all_operations():
        operation = found.ok()
        operations += 1

        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(checks=wanted, timeout=MINUTES)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    assert operations > 4 and asked > 8 * operations
    check_good(served.url, own_album)


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.long)])
def test_mutated_uploads_harm_nobody(
    start: Any, album: Any, hostile: ModuleType, within_memory: Any, count: int
) -> None:
    served = start(album.archive, *LIMITS)
    check_good(served.url, album)
    random = np.random.default_rng(20)
    photos = [data for scene in ("chelsea", "coins", "rocket") for data in hostile.encodings(album.query(scene))]
    specials, forms = list(hostile.specials(photos[0])), list(hostile.forms(photos[0]))
    plain = {"Content-Type": "application/octet-stream"}
    multipart = {"Content-Type": f"multipart/form-data; boundary={hostile.BOUNDARY.decode()!r}".replace("'", '"')}
    good_form = hostile.form((b'; name="photo"; filename="a.jpg"', photos[0]))

    def upload(number: int) -> tuple[str, bytes, dict[str, str]]:
        path = "/v1/descriptors" if number % 11 == 5 else "/v1/search?turn=none&top=1&expand=0"
        if number < len(specials):
            return path, specials[number][1], plain
        if number % 7 == 3:
            return "/v1/search", forms[number % len(forms)], multipart
        one, other = (photos[int(random.integers(len(photos)))] for _ in range(2))
        if number % 7 == 5:
            return "/v1/search?turn=none&expand=0", hostile.mutated(good_form, other, random), multipart
        kinds = ("image/jpeg", "text/html", "application/octet-stream", "image/svg+xml; charset=\xff")
        return path, hostile.mutated(one, other, random), {"Content-Type": kinds[number % 4]}

    uploads = [upload(number) for number in range(count)]
    statuses: Counter[int] = Counter()
    with within_memory(served.process.pid), httpx.Client(base_url=served.url, timeout=MINUTES) as client:

        def send(number: int) -> None:
            path, body, headers = uploads[number]
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            reply = client.post(path, content=body, headers=raw)
            statuses[reply.status_code] += 1
            assert reply.status_code < 500, (number, path, reply.text)
            if reply.status_code >= 400:
                problem = reply.json()
                assert reply.headers["content-type"] == "application/problem+json", number
                assert problem["status"] == reply.status_code and problem["code"] and problem["request_id"], problem
                assert "\n" not in problem["detail"] and "Traceback" not in reply.text, problem
            if number % 100 == 50:
                check_good(served.url, album)

        with ThreadPoolExecutor(8) as pool:
            for done in pool.map(send, range(count)):
                assert done is None
    assert served.process.poll() is None
    assert statuses[200] > count // 20 and statuses[422] + statuses[415] > count // 4, statuses
    check_good(served.url, album)
    assert not [line for line in served.log if "Traceback" in line]


def request_head(length: int, more: str = "") -> bytes:
    """Return the head of a request whose body is still to come."""
    return (
        "POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def connected(url: str) -> socket.socket:
    """Return a connection to a service."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=MINUTES)


def test_slow_and_cut_off_bodies_hold_nobody_up(start: Any, album: Any, within_memory: Any) -> None:
    """More of them than there are threads and places in the queue: photos are answered, and they are ended in time."""
    served = start(album.archive, *LIMITS, "--timeout", "5", "--max-queue", "4", "--max-running", "2")
    with within_memory(served.process.pid):
        slow = [connected(served.url) for _ in range(SLOW)]
        for number, connection in enumerate(slow):
            if number % 3 == 0:
                connection.sendall(b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")  # a head without end
            else:
                connection.sendall(request_head(100_000) + album.query()[:1000])
        check_good(served.url, album)
        for connection in slow[: SLOW // 2]:
            connection.close()  # cut off
        for connection in slow[SLOW // 2 :]:
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
        check_good(served.url, album, "rocket")
        for number, connection in enumerate(slow):
            if number >= SLOW // 2 and number % 3:
                # The service ends the wait: with a problem, or by closing.
                with contextlib.suppress(ConnectionResetError):
                    reply = connection.recv(1 << 16)
                    assert not reply or reply.startswith(b"HTTP/1.1 408"), reply
            connection.close()
    check_good(served.url, album)


def test_a_body_that_is_longer_than_allowed_is_refused_before_it_has_come(
    start: Any, album: Any, within_memory: Any
) -> None:
    served = start(album.archive, *LIMITS)
    with within_memory(served.process.pid), connected(served.url) as connection:
        connection.sendall(request_head(1 << 40))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")
    endless = b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with within_memory(served.process.pid), connected(served.url) as connection:
        connection.sendall(endless)
        piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(64):
                connection.sendall(piece)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")
    check_good(served.url, album)


@pytest.mark.parametrize("most", [3_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_idle_connections_cost_little(
    start: Any, album: Any, within_memory: Any, record_property: Any, most: int
) -> None:
    """Thousands of them, or as many as a process may have open: half silent, half kept open after an answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # which the service inherits
    count = most if hard == resource.RLIM_INFINITY else min(most, hard - 500)
    record_property("idle_connections", count)
    try:
        served = start(album.archive, *LIMITS, "--max-connections", 2 * most, "--keep-alive", 3600)
        check_good(served.url, album)
        idle: list[socket.socket] = []
        try:
            with within_memory(served.process.pid):
                for number in range(count):
                    idle.append(connected(served.url))
                    if number % 2:
                        idle[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    if number % 1000 == 0:
                        check_good(served.url, album)
                assert idle[1].recv(1 << 16).startswith(b"HTTP/1.1 200")
                check_good(served.url, album, "rocket")
        finally:
            for connection in idle:
                connection.close()
        check_good(served.url, album)
        assert len(idle) == count
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
