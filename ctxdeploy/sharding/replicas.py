"""The servers of one part: which one is asked, and when another one is.

    ask ─ the least busy one ─ answer
             ├─ refuses: the next one, at once
             ├─ takes longer than 95 of 100 answers: a second one beside it; the first answer counts
             └─ silent until the time is over: not asked again before a look at it shows that it is back

Threads that ask wait; the network is used by threads of the transport, so that no wait outlasts its deadline.
"""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, ShardError, StaleStateError
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import printable
from ctxdeploy.sharding.config import TransportConfig
from ctxdeploy.sharding.replica import Pace, Replica, ReplicaError, Standing, Trouble

# Seconds before servers that are all busy are asked again; then twice as long each time.
_BUSY_PAUSE = 0.02
_SHOWN = 300  # characters of a reason in a message


class TransportObserver(Protocol):
    """What counts requests."""

    def answered(self, part: Part, seconds: float, sent: int, received: int) -> None:
        """Count an answer, and bytes."""

    def failed(self, part: Part, trouble: Trouble) -> None:
        """Count a server that did not answer a request."""

    def hedged(self, part: Part) -> None:
        """Count a request that was sent to a second server."""


class _Nobody:
    def answered(self, part: Part, seconds: float, sent: int, received: int) -> None: ...

    def failed(self, part: Part, trouble: Trouble) -> None: ...

    def hedged(self, part: Part) -> None: ...


class ReplicaTransport:
    """Carries requests to the servers of one part; a ``ShardTransport``.

    Args:
        part: of the archive's shards, that each of the servers searches.
        replicas: the servers; closed with the transport.
        config: how they are asked.
        observer: told of what becomes of requests, in several threads.
    """

    def __init__(
        self,
        part: Part,
        replicas: Sequence[Replica],
        config: TransportConfig | None = None,
        observer: TransportObserver | None = None,
    ) -> None:
        if not replicas:
            raise ConfigError(f"part {part} has no server")
        self._part = part
        self.config = config or TransportConfig()
        self.observer: TransportObserver = observer or _Nobody()
        self.standings = [Standing(replica, self.config) for replica in replicas]
        self.pace = Pace(self.config)
        self._threads = ThreadPoolExecutor(
            self.config.max_in_flight * len(replicas), thread_name_prefix=f"ctxdeploy-part-{part.number}"
        )
        self._lock = threading.Lock()
        self._turn = 0
        self._looking: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def part(self) -> Part:
        """Of the archive's shards."""
        return self._part

    @property
    def usable(self) -> int:
        """Servers that would be asked and refused nothing lately."""
        return sum(one.silence is None and not one.is_refusing for one in self.standings)

    def ask(self, request: bytes, *, deadline: Deadline) -> bytes:
        """Return the answer of one of the servers; see ``ShardTransport``."""
        deadline.check()
        left = deadline.left
        seconds = self.config.timeout if left is None else min(self.config.timeout, left * self.config.share)
        self.pace.asked()
        return _Race(self, request, deadline, seconds).answer()

    def choose(self, tried: Sequence[Standing]) -> Standing | None:
        """Return the server to ask next, which was not tried yet; None if there is none."""
        with self._lock:
            self._turn += 1
            turn, count = self._turn, len(self.standings)
        rows = [(turn + row) % count for row in range(count)]
        free = [one for row in rows if (one := self.standings[row]).has_room and one not in tried]
        return min(free, key=lambda one: (one.is_refusing, one.is_overtaken, one.in_flight), default=None)

    def submit(self, race: "_Race", standing: Standing, seconds: float) -> None:
        """Send the request of a race to a server, in a thread."""
        standing.begin()
        try:
            self._threads.submit(self._send, race, standing, seconds)
        except RuntimeError as error:  # closed meanwhile
            standing.end(None)
            raise ShardError(f"part {self._part} is not asked any more: its transport is closed") from error

    def _send(self, race: "_Race", standing: Standing, seconds: float) -> None:
        since = time.monotonic()
        outcome: bytes | ReplicaError | StaleStateError
        try:
            outcome = standing.replica.send(race.request, seconds)
        except (ReplicaError, StaleStateError) as error:
            outcome = error
        except Exception as error:  # a defect of ours must not let a race wait for ever
            outcome = ReplicaError(f"{type(error).__name__}: {error}", Trouble.REFUSED)
        failed = outcome if isinstance(outcome, ReplicaError) else None
        standing.end(failed, is_long=seconds >= self.pace.patience)
        if isinstance(outcome, bytes):
            taken = time.monotonic() - since
            self.pace.answered(taken)
            self.observer.answered(self._part, taken, len(race.request), len(outcome))
        elif failed is not None:
            self.observer.failed(self._part, failed.trouble)
        race.take(standing, outcome)
        if standing.silence is not None:
            self._look()

    def _look(self) -> None:
        """Look at silent servers from time to time, in a thread that lives while there are any."""
        with self._lock:
            if self._looking is None and not self._closed.is_set():
                name = f"ctxdeploy-look-{self._part.number}"
                self._looking = threading.Thread(target=self._look_at_silent, name=name, daemon=True)
                self._looking.start()

    def _look_at_silent(self) -> None:
        while True:
            with self._lock:
                silent = [one for one in self.standings if one.silence is not None]
                if not silent or self._closed.is_set():
                    self._looking = None
                    return
            due = min(silent, key=lambda one: one.look_at)
            if not self._closed.wait(max(due.look_at - time.monotonic(), 0.0)):
                due.looked(due.replica.is_back())

    def close(self) -> None:
        """Release the connections. Who waits is told."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for standing in self.standings:
            standing.replica.close()

    def __repr__(self) -> str:
        names = ", ".join(one.replica.name for one in self.standings)
        return f"<ReplicaTransport of part {self._part}: {names}>"


class _Race:
    """One request, and the servers that it was sent to.

    Args:
        transport: of the part.
        request: the message.
        deadline: of who waits.
        seconds: that the answer may take.
    """

    def __init__(self, transport: ReplicaTransport, request: bytes, deadline: Deadline, seconds: float) -> None:
        self._transport, self.request, self._deadline = transport, request, deadline
        self._seconds, self._end = seconds, time.monotonic() + seconds
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._outcomes: list[tuple[Standing, bytes | ReplicaError | StaleStateError]] = []
        self._tried: list[Standing] = []
        self._running: list[Standing] = []
        self._reasons: dict[str, str] = {}
        self._held: list[StaleStateError] = []
        self._busy: list[Standing] = []
        self._busy_pause = _BUSY_PAUSE

    def take(self, standing: Standing, outcome: bytes | ReplicaError | StaleStateError) -> None:
        """Take what came of sending the request to a server; from its thread."""
        with self._lock:
            self._outcomes.append((standing, outcome))
        self._woken.set()

    def answer(self) -> bytes:
        """Return the first answer."""
        hedge_at = time.monotonic() + self._transport.pace.usual_seconds
        with self._deadline.waking(self._woken):
            while self._is_sent():
                self._wait(min(hedge_at, self._end))
                for standing, outcome in self._taken():
                    if isinstance(outcome, bytes):
                        self._left_behind()
                        return outcome
                    self._failed(standing, outcome)
                now = time.monotonic()
                if now >= self._end:
                    break
                if self._running and now >= hedge_at:
                    hedge_at = self._end
                    self._hedge()
        raise self._error()

    def _is_sent(self) -> bool:
        """Send the request to one more server if none has it, and return whether one has it now.

        Servers that are busy are asked again after a pause, as long as there is time.
        """
        while not self._running:
            now = time.monotonic()
            if now >= self._end:
                return False
            if self._next():
                break
            if not self._busy:
                return False
            self._wait(min(now + self._busy_pause * random.uniform(0.75, 1.25), self._end))
            self._busy_pause *= 2
            self._tried = [one for one in self._tried if one not in self._busy]
            self._busy = []
        return True

    def _wait(self, until: float) -> None:
        """Wait for an outcome, and not longer than somebody waits for the answer."""
        self._woken.wait(max(until - time.monotonic(), 0.0))
        self._woken.clear()
        left = self._deadline.left
        if self._deadline.is_over and (left is None or left > 0):
            self._deadline.check()

    def _taken(self) -> list[tuple[Standing, bytes | ReplicaError | StaleStateError]]:
        """Return what came of it since the last call, answers first."""
        with self._lock:
            taken, self._outcomes = self._outcomes, []
        for standing, _ in taken:
            self._running.remove(standing)
        return sorted(taken, key=lambda one: not isinstance(one[1], bytes))

    def _failed(self, standing: Standing, error: ReplicaError | StaleStateError) -> None:
        if isinstance(error, StaleStateError):
            self._held.append(error)
        elif error.trouble is Trouble.BUSY:
            self._busy.append(standing)
        self._reasons[standing.replica.name] = str(error)

    def _next(self) -> bool:
        """Send the request to one more server; return whether there was one."""
        standing = self._transport.choose(self._tried)
        if standing is None:
            return False
        self._tried.append(standing)
        self._running.append(standing)
        self._transport.submit(self, standing, max(self._end - time.monotonic(), 0.001))
        return True

    def _hedge(self) -> None:
        transport = self._transport
        if transport.choose(self._tried) is not None and transport.pace.may_hedge():
            transport.observer.hedged(transport.part)
            self._next()

    def _left_behind(self) -> None:
        for standing in self._running:
            standing.overtaken()

    def _error(self) -> ShardError | StaleStateError:
        for standing in self._running:
            reason = self._reasons[standing.replica.name] = f"no answer within {self._seconds:.3g} s"
            if self._seconds >= self._transport.pace.patience:
                standing.was_silent(reason)
        if self._held and not self._running:
            held = sorted({number for error in self._held for number in error.held})
            return StaleStateError(str(self._held[0]), held=tuple(held))
        for standing in self._transport.standings:
            if standing.silence is not None:
                self._reasons.setdefault(standing.replica.name, f"{standing.silence}, and it is not back yet")
            elif standing not in self._tried:
                self._reasons.setdefault(standing.replica.name, "it has too many requests from here")
        said = "; ".join(f"{name}: {reason[:_SHOWN]}" for name, reason in self._reasons.items())
        return ShardError(printable(f"part {self._transport.part} does not answer: {said}"))
