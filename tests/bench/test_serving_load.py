"""The load of ``benchmarks/serve.py``: an open loop, whose latencies count from the schedule."""

import asyncio
import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STANDSTILL = 0.5


def module(name: str) -> ModuleType:
    """Import a module of ``benchmarks/serving``."""
    spec = importlib.util.spec_from_file_location(f"serving_{name}", BENCHMARKS / "serving" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # its dataclasses look their module up
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def load() -> ModuleType:
    """``benchmarks/serving/load.py``."""
    return module("load")


@pytest.fixture
def stalling() -> Iterator[tuple[int, list[str]]]:
    """A server that stands still for half a second at its first request and answers one at a time; what it is asked."""
    asked: list[str] = []
    started, stop = threading.Event(), threading.Event()
    port = 0

    async def serve() -> None:
        nonlocal port
        one = asyncio.Lock()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await _head(reader):
                if "once" in head and len(asked) == 1:
                    asked.append("closed")
                    break  # as a service does with a connection that was idle
                async with one:
                    if not asked:
                        await asyncio.sleep(STANDSTILL)
                    asked.append(head.split(" ", 2)[1])
                status = 429 if "full" in asked[-1] else 200
                body = json.dumps({"seconds": {"extract": 0.0, "search": 0.001}}).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started.set()
        await asyncio.to_thread(stop.wait)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    yield port, asked
    stop.set()
    thread.join()


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


def test_requests_that_come_while_nothing_is_answered_count_their_waiting(
    load: ModuleType, stalling: tuple[int, list[str]]
) -> None:
    port, asked = stalling
    times = np.arange(10) * 0.02
    outcome = load.open_loop(port, [load.indexed_request("a b"), load.indexed_request("c")], times)
    assert sorted(asked) == sorted(["/v1/search?indexed=a%20b", "/v1/search?indexed=c"] * 5)
    # All ten came before the first answer: the last of them waited as well, counted from when it was due.
    assert len(outcome.latencies) == 10 and min(outcome.latencies) > STANDSTILL - times[-1] - 0.01
    figures = outcome.figures()
    assert figures["added_ms"]["p50"] > 1000 * (STANDSTILL - times[-1]) - 20
    assert figures["ms"]["p99"] is None and figures["ms"]["p90"] is not None


def test_a_closed_loop_asks_each_once_and_counts_refusals(load: ModuleType, stalling: tuple[int, list[str]]) -> None:
    port, asked = stalling
    outcome = load.closed_loop(port, [load.indexed_request("a"), load.indexed_request("full")], 20, 4)
    assert len(asked) == 20 and len(outcome.latencies) == 10
    assert outcome.figures()["refused"] == {"429": 10}


def test_a_connection_that_the_service_closed_is_opened_again(
    load: ModuleType, stalling: tuple[int, list[str]]
) -> None:
    port, asked = stalling
    outcome = load.closed_loop(port, [load.indexed_request("once")], 2, 1)
    assert len(outcome.latencies) == 2 and not outcome.refused
    assert asked[1] == "closed"


def test_arrivals_are_those_of_a_poisson_process(load: ModuleType) -> None:
    times = load.arrivals(50.0, 20_000, 7)
    gaps = np.diff(times)
    assert np.array_equal(times, load.arrivals(50.0, 20_000, 7))
    assert abs(gaps.mean() - 0.02) < 0.001 and abs(gaps.std() - 0.02) < 0.001
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03


def test_the_section_of_the_page_is_made_of_the_results() -> None:
    """Every figure of the section comes from the JSON, whatever kinds and subjects are in it."""
    serving: Callable[[dict[str, Any]], str] = module("page").serving
    row = {"ms": {"p50": 1.5, "p90": 2.5, "p99": None, "p99.9": None}, "refused": {"429": 3}}
    ours = {**row, "added_ms": {"p50": 0.75, "p99": None}, "client_ms": 0.5, "client_late_ms": {"p99": 0.25}}
    name = "ctxdeploy serve"
    of = {
        "capacity_per_second": 10.25,
        "throughput": {"library": [10.0], name: [{"per_second": 9.5, "of_library": 0.955, "client_ms": 0.125}]},
        "loads": {"25": {"library": [row], name: [ours]}, "50": {"library": [row], name: [ours]}},
    }
    endless = {"requests": 100, "per_second": 7.5, "memory": {"0": {"own_mb": 1.5}, "100": {"own_mb": 1.75}}}
    found = serving(
        {"serve": {"archive_photos": 790, "threads": 8, "clients": 8, "photos": of, "indexed": of, "endless": endless}}
    )
    assert "| ctxdeploy serve | 9.5 | 0.955 | 0.12 |" in found
    assert "| 25 | ctxdeploy serve | 1.5 | 2.5 |  |  | 0.75 |  | 0.25 | 3 |" in found
    assert (
        "throughput (0.955 here)" in found
        and "here: 0.8 ms, in which the client's own processor time of 0.5 ms" in found
    )
    assert "1.5 MB after 0 %, 1.8 MB after 100 %" in found
