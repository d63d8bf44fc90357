"""Load on a service: requests that begin when a schedule says so, whatever became of those before (open loop), or one
after the other by several clients (closed loop).

The latency of an open loop counts from the time that the schedule names, so that a service which stands still is not
asked less, and a client that comes late counts against what is measured (no coordinated omission).
"""

import asyncio
import json
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below so many requests a second the client waits for the last 2 ms of each pause in a loop: timers of asyncio are a
# millisecond late. Above, that would take the processor from the service.
_SPIN_BELOW = 30.0
_TAIL = 0.002


@dataclass(kw_only=True)
class Outcome:
    """What came of a load.

    Attributes:
        latencies: seconds of the requests that were answered, from the time that the schedule names.
        inside: of these, the seconds that the reply itself names: ``queue`` (0 where it names none), ``extract`` and
            ``search``.
        refused: requests by status of HTTP that were not.
        late: seconds by which the client began after the schedule.
        wall: seconds from the first request to the last reply.
        client_cpu: seconds of processor time that the client took.
    """

    latencies: list[float] = field(default_factory=list)
    inside: list[dict[str, float]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)
    wall: float = 0.0
    client_cpu: float = 0.0

    def refuse(self, status: int) -> None:
        """Count a request that was not answered."""
        self.refused[str(status)] = self.refused.get(str(status), 0) + 1

    def figures(self) -> dict[str, Any]:
        """Return what is written down: milliseconds, and requests a second."""
        seconds = np.array(self.latencies)
        found: dict[str, Any] = {
            "answered": len(seconds),
            "refused": self.refused,
            "per_second": len(seconds) / self.wall,
            "client_ms": 1000 * self.client_cpu / max(1, len(seconds) + sum(self.refused.values())),
        }
        if len(seconds):
            found["ms"] = quantiles(seconds)
        if self.late:
            found["client_late_ms"] = quantiles(np.array(self.late))
        if self.inside:
            parts = {
                name: np.array([of.get(name, 0.0) for of in self.inside]) for name in ("queue", "extract", "search")
            }
            found["inside_ms"] = {name: float(1000 * np.median(part)) for name, part in parts.items()}
            found["added_ms"] = quantiles(seconds - sum(parts.values()))
        return found


def quantiles(seconds: NDArray[np.float64]) -> dict[str, float | None]:
    """Return quantiles in milliseconds; None where not one time lies beyond."""
    wanted = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    return {
        name: round(float(1000 * np.quantile(seconds, share)), 3) if round((1 - share) * len(seconds), 6) >= 1 else None
        for name, share in wanted.items()
    } | {"mean": round(float(1000 * seconds.mean()), 3)}


def arrivals(rate: float, count: int, seed: int) -> NDArray[np.float64]:
    """Return the seconds at which requests begin: a Poisson process."""
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


class Connections:
    """Connections to a service that are used again; a client that takes 0.1 ms of a processor a request."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request, and return status and body of its reply."""
        while True:
            again = bool(self._idle)
            reader, writer = self._idle.pop() if again else await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(request)
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                if not again:
                    raise
                # A service closes connections that were idle for long: the next one is tried.
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
        body = await reader.readexactly(length)
        if "connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(" ", 2)[1]), body

    def close(self) -> None:
        """Close those that are idle."""
        for _, writer in self._idle:
            writer.close()


def photo_request(photo: bytes) -> bytes:
    """Return a request of HTTP that asks with a photo."""
    head = (
        "POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(photo)}\r\n\r\n"
    )
    return head.encode() + photo


def indexed_request(name: str) -> bytes:
    """Return a request of HTTP that asks with a photo of the archive."""
    from urllib.parse import quote

    return f"GET /v1/search?indexed={quote(name, safe='')} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def open_loop(port: int, requests: Sequence[bytes], times: NDArray[np.float64]) -> Outcome:
    """Send requests in turn at these seconds, and wait for all replies."""
    return asyncio.run(_open_loop(port, requests, times))


async def _open_loop(port: int, requests: Sequence[bytes], times: NDArray[np.float64]) -> Outcome:
    outcome, connections = Outcome(), Connections(port)
    spins = len(times) / float(times[-1]) < _SPIN_BELOW
    cpu, start = _cpu(), time.perf_counter() + 0.05

    async def one(request: bytes, due: float) -> None:
        outcome.late.append(time.perf_counter() - due)
        status, body = await connections.ask(request)
        if status == 200:
            outcome.latencies.append(time.perf_counter() - due)
            outcome.inside.append(json.loads(body).get("seconds") or {})
        else:
            outcome.refuse(status)

    running = []
    for request, at in zip(islice(cycle(requests), len(times)), times, strict=True):
        due = start + float(at)
        wait = due - time.perf_counter() - (_TAIL if spins else 0.0)
        if wait > 0:
            await asyncio.sleep(wait)
        while spins and time.perf_counter() < due:
            await asyncio.sleep(0)
        running.append(asyncio.create_task(one(request, due)))
    await asyncio.gather(*running)
    outcome.wall, outcome.client_cpu = time.perf_counter() - start, _cpu() - cpu
    connections.close()
    if not any("search" in of for of in outcome.inside):  # a service that does not say
        outcome.inside = []
    return outcome


def closed_loop(port: int, requests: Sequence[bytes], count: int, clients: int) -> Outcome:
    """Send ``count`` requests, each client its next one when it has the reply."""
    return asyncio.run(_closed_loop(port, requests, count, clients))


async def _closed_loop(port: int, requests: Sequence[bytes], count: int, clients: int) -> Outcome:
    outcome, connections = Outcome(), Connections(port)
    waiting = islice(cycle(requests), count)
    cpu, start = _cpu(), time.perf_counter()

    async def client() -> None:
        for request in waiting:
            since = time.perf_counter()
            status, _ = await connections.ask(request)
            if status == 200:
                outcome.latencies.append(time.perf_counter() - since)
            else:
                outcome.refuse(status)

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.wall, outcome.client_cpu = time.perf_counter() - start, _cpu() - cpu
    connections.close()
    return outcome


def in_process(ask: Callable[[Any], Any], items: Sequence[Any], times: NDArray[np.float64], threads: int) -> Outcome:
    """Call a function at these seconds in one of several threads: an open loop without HTTP."""
    outcome = Outcome()
    start = time.perf_counter() + 0.05

    def one(item: Any, due: float) -> None:
        ask(item)
        outcome.latencies.append(time.perf_counter() - due)

    with ThreadPoolExecutor(threads) as pool:
        running = []
        for item, at in zip(islice(cycle(items), len(times)), times, strict=True):
            due = start + float(at)
            time.sleep(max(0.0, due - time.perf_counter()))
            outcome.late.append(time.perf_counter() - due)
            running.append(pool.submit(one, item, due))
        for future in running:
            future.result()
    outcome.wall = time.perf_counter() - start
    return outcome


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
