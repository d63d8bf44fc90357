"""How the process ends: told once, told twice, with work that does not end; and how it starts elsewhere."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ctxdeploy.index import Index

MINUTES = 300.0
LONG = ("--timeout", 3000, "--grace", 3000)
# Searches that have a photo never end; those by name do.
STUCK = """
import threading
from ctxdeploy.service.routes import search
former = search.answered
def answered(served, photo, *more):
    if isinstance(photo, bytes):
        threading.Event().wait()
    return former(served, photo, *more)
search.answered = answered
"""


def until(holds: Any) -> None:
    """Return when something holds; it has minutes."""
    for _ in range(3000):
        if holds():
            return
        threading.Event().wait(0.1)
    raise AssertionError("it never holds")


def runs(served: Any) -> int:
    """Requests that are answered or wait."""
    metrics = httpx.get(f"{served.url}/metrics", timeout=MINUTES).text
    found = re.search(r"^ctxdeploy_running (\d+)", metrics, re.MULTILINE)
    assert found is not None
    return int(found[1])


def by_name(served: Any) -> httpx.Response:
    return httpx.get(f"{served.url}/v1/search", params={"indexed": "first/coffee.jpg"}, timeout=MINUTES)


def test_a_second_signal_ends_it_at_once(start: Any, album: Any) -> None:
    served = start(album.archive, *LONG, before=STUCK)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(httpx.post, f"{served.url}/v1/search", content=album.query(), timeout=MINUTES)
        until(lambda: runs(served) == 1)
        served.process.send_signal(signal.SIGTERM)
        until(lambda: any("no new requests" in line for line in served.log))
        assert served.process.poll() is None
        assert served.end(signal.SIGINT) == 130
        with pytest.raises(httpx.RemoteProtocolError):
            asked.result()
    assert any("a second signal" in line for line in served.log)
    assert not any("Traceback" in line for line in served.log), served.log


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_jobs(start: Any, own_album: Any) -> None:
    served = start(own_album.archive, "--writable", *LONG)
    with Index.open(own_album.archive, writable=True):  # it waits for its turn
        url = f"{served.url}/v1/photos/first/coffee.jpg"
        assert httpx.delete(url, timeout=MINUTES).status_code == 202
        served.process.send_signal(signal.SIGTERM)
        until(lambda: _is_closed(served))
        assert served.end() == 130


def _is_closed(served: Any) -> bool:
    try:
        httpx.get(f"{served.url}/livez", timeout=MINUTES)
    except httpx.TransportError:
        return True
    return False


@pytest.mark.slow
def test_what_does_not_end_within_the_grace_is_answered_and_dropped(start: Any, album: Any) -> None:
    served = start(album.archive, "--timeout", 3000, "--grace", 1, "--drain", 0.2, before=STUCK)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(httpx.post, f"{served.url}/v1/search", content=album.query(), timeout=MINUTES)
        until(lambda: runs(served) == 1)
        assert served.end() == 0
        answer = asked.result()
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "Ending", "5")
    assert any("work that nobody waits for still runs" in line for line in served.log)


@pytest.mark.slow
def test_while_it_drains_requests_are_answered_and_it_says_that_it_is_not_ready(start: Any, album: Any) -> None:
    served = start(album.archive, "--drain", 3000)
    assert by_name(served).status_code == 200
    served.process.send_signal(signal.SIGTERM)
    ready = lambda: httpx.get(f"{served.url}/readyz", timeout=MINUTES)  # noqa: E731
    until(lambda: ready().status_code == 503)
    assert ready().json()["detail"] == "shutting down"
    answer = by_name(served)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert served.end() == 130


@pytest.mark.slow
def test_it_listens_on_ipv6(start: Any, album: Any) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"there is no ::1 here: {error}")
    served = start(album.archive, "--host", "::1")
    assert re.fullmatch(r"http://\[::1\]:\d+", served.url)
    assert by_name(served).status_code == 200
    assert httpx.get(f"{served.url}/livez", headers={"Host": "evil.example"}).status_code == 421
    assert served.end() == 0


@pytest.mark.slow
def test_a_signal_as_soon_as_the_address_is_known_ends_it(album: Any) -> None:
    """It came before the event loop took signals: the exit code was another one, or the loop lost it and went on."""
    program = (
        "import os, signal, sys; from pathlib import Path; from ctxdeploy.service import ServiceConfig, serve\n"
        "end = lambda url: os.kill(os.getpid(), signal.SIGTERM)\n"
        "serve([Path(sys.argv[1])], ServiceConfig(port=0), listening=end)"
    )
    command = [sys.executable, "-c", program, str(album.archive)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES, check=False)
    assert done.returncode == 0, done.stderr
    assert "SIGTERM: no new requests" in done.stderr


@pytest.mark.slow
def test_json_says_where_it_listens_and_a_log_that_nobody_reads_holds_nothing_up(album: Any) -> None:
    """More lines than the pipe takes, and then the end."""
    command = [sys.executable, "-m", "ctxdeploy", "serve", str(album.archive), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert list(said) == ["listening"]
        with httpx.Client(base_url=said["listening"], timeout=MINUTES) as client:
            for _ in range(600):
                assert client.get("/livez").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(MINUTES) == 0
        assert process.stdout.read() == ""
