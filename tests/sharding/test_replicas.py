"""Which server of a part is asked, and when another one is: with servers that do what a test says."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, DeadlineError, ShardError, StaleStateError
from ctxdeploy.core.part import Part
from ctxdeploy.sharding.config import TransportConfig
from ctxdeploy.sharding.replica import Pace, ReplicaError, Trouble
from ctxdeploy.sharding.replicas import ReplicaTransport

PART = Part(number=2, count=4)
MINUTES = 300.0
Send = Callable[[bytes, float], bytes]


class FakeReplica:
    """A server that does what it is told with each request."""

    def __init__(self, name: str, send: Send) -> None:
        self.name, self.does = name, send
        self.asked: list[bytes] = []
        self.seconds: list[float] = []
        self.looks = 0
        self.back = threading.Event()
        self.is_closed = False

    def send(self, request: bytes, seconds: float) -> bytes:
        self.asked.append(request)
        self.seconds.append(seconds)
        return self.does(request, seconds)

    def is_back(self) -> bool:
        self.looks += 1
        return self.back.is_set()

    def close(self) -> None:
        self.is_closed = True


def says(text: bytes) -> Send:
    return lambda request, seconds: text + b" " + request


def fails(trouble: Trouble, reason: str = "it is not well") -> Send:
    def send(request: bytes, seconds: float) -> bytes:
        raise ReplicaError(reason, trouble)

    return send


class Held:
    """A server that answers when it is let go, or has failed by then."""

    def __init__(self, then: Send) -> None:
        self._then = then
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, request: bytes, seconds: float) -> bytes:
        self.begun.set()
        self.go.wait(MINUTES)
        return self._then(request, seconds)


class Counted:
    """What a transport tells."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, int]] = []
        self.troubles: list[Trouble] = []
        self.hedges = 0

    def answered(self, part: Part, seconds: float, sent: int, received: int) -> None:
        assert part == PART and seconds >= 0
        self.answers.append((sent, received))

    def failed(self, part: Part, trouble: Trouble) -> None:
        self.troubles.append(trouble)

    def hedged(self, part: Part) -> None:
        self.hedges += 1


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Return a function that makes a transport to fake servers, and returns it, they, and what was counted."""
    made: list[ReplicaTransport] = []

    def connect(*does: Send, **settings: float) -> tuple[ReplicaTransport, list[FakeReplica], Counted]:
        replicas, counted = [FakeReplica(f"server {row}", one) for row, one in enumerate(does)], Counted()
        made.append(ReplicaTransport(PART, replicas, TransportConfig(**settings), counted))  # type: ignore[arg-type]
        return made[-1], replicas, counted

    yield connect
    for transport in made:
        transport.close()


def until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds."""
    for _ in range(int(MINUTES / 0.005)):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it has not come to it")


def test_an_answer_comes_from_one_of_the_servers_and_each_has_its_turn(connect: Any) -> None:
    transport, replicas, counted = connect(says(b"a"), says(b"b"))
    answers = {transport.ask(b"x", deadline=Deadline()) for _ in range(8)}
    assert answers == {b"a x", b"b x"}
    until(lambda: len(counted.answers) == 8)
    assert [len(one.asked) for one in replicas] == [4, 4] and counted.answers == [(1, 3)] * 8


def test_who_refuses_is_passed_over_at_once_and_asked_last_afterwards(connect: Any) -> None:
    transport, (bad, good), counted = connect(fails(Trouble.REFUSED), says(b"good"))
    assert [transport.ask(b"x", deadline=Deadline()) for _ in range(6)] == [b"good x"] * 6
    assert len(bad.asked) <= 1 and transport.usable >= 1
    good.does = fails(Trouble.REFUSED, "it is not reached: nobody listens")
    with pytest.raises(ShardError, match=r"part 2/4 does not answer: .*server 1: it is not reached: nobody listens"):
        transport.ask(b"x", deadline=Deadline())
    bad.does = says(b"back")
    assert transport.ask(b"x", deadline=Deadline()) == b"back x"
    assert Trouble.REFUSED in counted.troubles


def test_the_request_is_asked_elsewhere_when_it_is_unfit_for_one_and_the_reason_is_told(connect: Any) -> None:
    transport, _, _ = connect(fails(Trouble.UNFIT, "it is not a message"))
    with pytest.raises(ShardError, match="server 0: it is not a message"):
        transport.ask(b"x", deadline=Deadline())
    assert transport.usable == 1  # it is as good as before for other requests


def test_a_defect_of_ours_is_an_error_of_one_server(connect: Any) -> None:
    def broken(request: bytes, seconds: float) -> bytes:
        raise ZeroDivisionError("by zero")

    transport, _, _ = connect(broken)
    with pytest.raises(ShardError, match="ZeroDivisionError: by zero"):
        transport.ask(b"x", deadline=Deadline())


def test_a_state_that_one_server_does_not_hold_is_asked_of_another(connect: Any) -> None:
    def stale(request: bytes, seconds: float) -> bytes:
        raise StaleStateError("it holds 3", held=(3,))

    transport, replicas, _ = connect(stale, says(b"new"))
    assert {transport.ask(b"x", deadline=Deadline()) for _ in range(4)} == {b"new x"}
    replicas[1].does = stale
    with pytest.raises(StaleStateError, match="it holds 3") as caught:
        transport.ask(b"x", deadline=Deadline())
    assert caught.value.held == (3,)


def test_busy_servers_are_asked_again_while_there_is_time(connect: Any) -> None:
    calls = []

    def busy_at_first(request: bytes, seconds: float) -> bytes:
        calls.append(seconds)
        if len(calls) < 4:
            raise ReplicaError("busy", Trouble.BUSY)
        return b"done"

    transport, _, _ = connect(busy_at_first, timeout=MINUTES)
    assert transport.ask(b"x", deadline=Deadline()) == b"done"
    assert len(calls) == 4 and calls == sorted(calls, reverse=True)
    busy, _, _ = connect(fails(Trouble.BUSY, "busy"), timeout=0.05)
    with pytest.raises(ShardError, match="busy"):
        busy.ask(b"x", deadline=Deadline())


def test_a_second_server_is_asked_beside_a_slow_one_and_the_first_answer_counts(connect: Any) -> None:
    held = Held(says(b"slow"))
    transport, replicas, counted = connect(held, says(b"fast"), hedge_seconds=0.01, timeout=MINUTES)
    transport._turn = 1  # server 0 comes first
    assert transport.ask(b"x", deadline=Deadline()) == b"fast x"
    assert counted.hedges == 1 and len(replicas[0].asked) == 1
    # The slow one has a request still, and was overtaken: the other one is asked.
    assert transport.ask(b"y", deadline=Deadline()) == b"fast y" and len(replicas[0].asked) == 1
    held.go.set()
    until(lambda: not transport.standings[0].is_overtaken and transport.standings[0].in_flight == 0)
    assert len(counted.answers) == 3


def test_few_requests_are_sent_twice(connect: Any) -> None:
    pace = Pace(TransportConfig(hedge_share=0.1))
    assert [pace.may_hedge() for _ in range(6)] == [True] * 5 + [False]
    for _ in range(11):
        pace.asked()
    assert pace.may_hedge() and not pace.may_hedge()


def test_the_usual_time_is_that_of_95_answers_of_100() -> None:
    pace = Pace(TransportConfig(hedge_seconds=0.7))
    for _ in range(10):
        pace.answered(0.02)
    assert pace.usual_seconds == 0.7  # too few to know
    for seconds in (*[0.02] * 100, *[3.0] * 4):
        pace.answered(seconds)
    assert pace.usual_seconds == 0.02
    for _ in range(10):
        pace.answered(3.0)
    assert pace.usual_seconds == 3.0
    for _ in range(200):
        pace.answered(0.0001)
    assert pace.usual_seconds == 0.005


def test_a_silent_server_is_left_out_at_once_until_a_look_finds_it_back(connect: Any) -> None:
    held = Held(fails(Trouble.SILENT, "nothing came"))
    transport, (only,), _ = connect(held, timeout=0.3, first_pause=0.001, last_pause=0.002)
    with pytest.raises(ShardError, match=r"server 0: no answer within 0\.3 s"):
        transport.ask(b"x", deadline=Deadline())
    for _ in range(3):
        with pytest.raises(ShardError, match="it is not back yet"):
            transport.ask(b"y", deadline=Deadline())
    assert only.asked == [b"x"] and transport.usable == 0
    held.go.set()
    until(lambda: only.looks > 3)
    only.does = says(b"back")
    only.back.set()
    until(lambda: transport.usable == 1)
    assert transport.ask(b"z", deadline=Deadline()) == b"back z"


def test_too_little_time_says_nothing_of_a_server(connect: Any) -> None:
    held = Held(fails(Trouble.SILENT))
    transport, _, _ = connect(held, timeout=MINUTES)
    with pytest.raises(ShardError, match="no answer within"):
        transport.ask(b"x", deadline=Deadline(0.02))
    assert transport.usable == 1
    held.go.set()


def test_an_answer_may_take_what_is_left_or_the_limit_of_the_transport(connect: Any) -> None:
    transport, (server,), _ = connect(says(b"a"), timeout=400.0, share=0.5)
    for deadline in (Deadline(600.0), Deadline(5000.0), Deadline()):
        transport.ask(b"x", deadline=deadline)
    short, *long = server.seconds
    assert 100 < short <= 300 and all(300 < one <= 400 for one in long)


def test_who_gives_up_waits_no_longer(connect: Any) -> None:
    held = Held(says(b"late"))
    transport, _, _ = connect(held, timeout=MINUTES)
    deadline, caught = Deadline(MINUTES), []

    def ask() -> None:
        try:
            transport.ask(b"x", deadline=deadline)
        except DeadlineError as error:
            caught.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert held.begun.wait(MINUTES)
    deadline.give_up()
    asking.join(MINUTES)
    assert caught == ["the result is not wanted any more"]
    with pytest.raises(DeadlineError):
        transport.ask(b"y", deadline=deadline)
    held.go.set()


def test_no_server_has_more_requests_than_it_may(connect: Any) -> None:
    held = Held(says(b"a"))
    transport, (server,), _ = connect(held, max_in_flight=2, timeout=MINUTES)
    asking = [threading.Thread(target=lambda: transport.ask(b"x", deadline=Deadline())) for _ in range(2)]
    for one in asking:
        one.start()
    until(lambda: len(server.asked) == 2)
    with pytest.raises(ShardError, match="too many requests from here"):
        transport.ask(b"y", deadline=Deadline())
    held.go.set()
    for one in asking:
        one.join(MINUTES)
    assert transport.ask(b"z", deadline=Deadline()) == b"a z"


def test_a_closed_transport_asks_nobody(connect: Any) -> None:
    transport, (server,), _ = connect(says(b"a"))
    transport.close()
    with pytest.raises(ShardError, match="closed"):
        transport.ask(b"x", deadline=Deadline())
    assert server.is_closed and server.asked == []


def test_what_is_set_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match="part 2/4 has no server"):
        ReplicaTransport(PART, [])
    for name, value in (("timeout", 0), ("share", 2), ("max_bytes", 0), ("last_pause", 1e9), ("max_in_flight", 1.5)):
        with pytest.raises(ConfigError, match=name):
            TransportConfig(**{name: value})


def test_many_threads_ask_servers_that_come_and_go(connect: Any) -> None:
    """Every answer is one to its own request, and nothing but a part without a server is an error."""
    turns = iter(range(1 << 30))
    troubles = list(Trouble)

    def sometimes(request: bytes, seconds: float) -> bytes:
        turn = next(turns)
        if turn % 7 == 3:
            raise ReplicaError("so so", troubles[turn % len(troubles)])
        return b"re " + request

    transport, _, _ = connect(sometimes, sometimes, sometimes, first_pause=0.001, last_pause=0.002)
    for one in transport.standings:
        one.replica.back.set()
    right, wrong, errors = [], [], []

    def ask(name: int) -> None:
        for number in range(50):
            request = b"%d %d" % (name, number)
            try:
                answer = transport.ask(request, deadline=Deadline())
                (right if answer == b"re " + request else wrong).append(answer)
            except ShardError as error:
                errors.append(str(error))

    asking = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for one in asking:
        one.start()
    for one in asking:
        one.join(MINUTES)
    assert wrong == [] and right and len(right) + len(errors) == 400
    until(lambda: all(one.in_flight == 0 for one in transport.standings))
