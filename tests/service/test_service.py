"""Places, deadlines, and work that nobody waits for."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import BackendError
from ctxdeploy.service import Archives, Service, ServiceConfig
from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.record import RequestRecord


@pytest.fixture
def service(album: Any) -> Any:
    """A service with one thread and two places to wait."""
    config = ServiceConfig(max_running=1, max_queue=2, timeout=60)
    made = Service(Archives([album.archive], config), config)
    yield made
    made.close()


def request(leaves: asyncio.Event | None = None, seconds: float | None = None) -> Request:
    """Return a request whose sender leaves when an event is set."""

    async def receive() -> dict[str, Any]:
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    record = RequestRecord(request_id="x", deadline=Deadline(seconds))
    return Request({"type": "http", "headers": [], "state": {"record": record}}, receive)


async def until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds."""
    while not condition():
        await asyncio.sleep(0.005)


def test_more_than_there_are_places_for_is_refused(service: Service) -> None:
    held = threading.Event()

    async def run() -> None:
        asked = [asyncio.create_task(service.compute(request(), held.wait)) for _ in range(3)]
        await until(lambda: service.places.taken == 3)
        assert service.places.waiting == 2
        with pytest.raises(ProblemError, match="2 requests wait already") as caught:
            await service.compute(request(), held.wait)
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
        with pytest.raises(ProblemError, match="2 requests wait already"):
            service.check_room()
        held.set()
        assert await asyncio.gather(*asked) == [True] * 3
        await until(lambda: service.places.taken == 0)

    asyncio.run(run())


def test_who_leaves_takes_the_waiting_work_along(service: Service) -> None:
    held, begun = threading.Event(), []

    async def run() -> None:
        leaves = asyncio.Event()
        first = asyncio.create_task(service.compute(request(), held.wait))
        second = asyncio.create_task(service.compute(request(leaves), lambda: begun.append(2)))
        await until(lambda: service.places.taken == 2)
        leaves.set()
        with pytest.raises(ClientDisconnect):
            await second
        await until(lambda: service.places.taken == 1)
        held.set()
        await first

    asyncio.run(run())
    assert begun == []


def test_running_work_is_told_that_nobody_waits(service: Service) -> None:
    async def run() -> None:
        leaves = asyncio.Event()
        asked = request(leaves)
        deadline = asked.state.record.deadline
        over = threading.Event()

        def work() -> None:
            with deadline.waking(over):
                over.wait(300)

        running = asyncio.create_task(service.compute(asked, work))
        await until(lambda: service.places.taken == 1)
        leaves.set()
        with pytest.raises(ClientDisconnect):
            await running
        await until(lambda: service.places.taken == 0)
        assert deadline.is_over

    asyncio.run(run())


def test_what_takes_too_long_is_answered_so(service: Service) -> None:
    held = threading.Event()

    async def run() -> None:
        with pytest.raises(ProblemError) as caught:
            await service.compute(request(seconds=0.01), held.wait)
        assert (caught.value.status, caught.value.code) == (504, "Timeout")
        assert service.places.taken == 1  # the thread still runs
        held.set()
        await until(lambda: service.places.taken == 0)

    asyncio.run(run())


def test_errors_of_the_work_come_back(service: Service) -> None:
    def work() -> None:
        raise ZeroDivisionError

    async def run() -> None:
        with pytest.raises(ZeroDivisionError):
            await service.compute(request(), work)
        await until(lambda: service.places.taken == 0)

    asyncio.run(run())


def test_a_full_queue_is_an_answer_with_a_time_to_come_back(connect: Any, album: Any) -> None:
    client = connect(album.archive, prepare=False)
    service = client.app.state.service
    service.readiness.done()
    service.places.taken = 1000
    answer = client.post("/v1/search", content=album.query())
    service.places.taken = 0
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "QueueFull", "1")
    counted = client.get("/metrics").text
    assert 'ctxdeploy_refused_total{reason="QueueFull"} 1.0' in counted
    assert 'ctxdeploy_requests_total{method="POST",route="/v1/search",status="429"} 1.0' in counted


@pytest.mark.parametrize("ends", [False, True])
def test_what_is_prepared_and_closed_by_the_end_is_not_a_failure(
    connect: Any, album: Any, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """A process that was told to end while its network was asked for the first time left with exit code 13."""
    service = connect(album.archive, prepare=False).app.state.service

    def fail(*_: object) -> None:
        if ends:
            service.readiness.end()
        raise BackendError("it was closed")

    monkeypatch.setattr("ctxdeploy.service.service.rehearse", fail)
    service.prepare()
    assert not service.readiness.is_ready
    assert (service.readiness.failure is None) == ends
