"""All photos through the network on many machines: lists are given out, machines are lost and slow, lists are repeated.

As ``index --cluster`` does it: a machine takes a list, and the next one when it is done; a lost machine's list goes out
again, and begins where the last commit of the lost one was where machines share a disk; when no list is left, one that
takes three times as long as half of the others is given to another machine as well, and the first to be done counts.
"""

import heapq
from dataclasses import dataclass

import numpy as np

_DAY = 86400.0
# A list that takes so many times the median of those that are done is repeated.
_PATIENCE = 3.0
# Of the seconds of a list: so often the driver looks for such ones.
_LOOK = 0.1


@dataclass(frozen=True, kw_only=True)
class ExtractingConfig:
    """What is simulated.

    Attributes:
        machines: that extract.
        lists: of photos.
        list_seconds: of a machine for a list.
        spread: deviation of the logarithm of a list's seconds, by what photos it has.
        slow_share, slow_times: part of the machines that take so many times as long for everything.
        machine_days: mean days until a machine is lost.
        replaced: seconds until a lost machine is replaced.
        commit_seconds: at most so long ago is what a lost machine's list begins from again; infinite: from nothing.
        repeat: whether stragglers are repeated.
    """

    machines: int
    lists: int
    list_seconds: float
    spread: float = 0.05
    slow_share: float = 0.0
    slow_times: float = 1.0
    machine_days: float = float("inf")
    replaced: float = 600.0
    commit_seconds: float = float("inf")
    repeat: bool = True


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What came of it.

    Attributes:
        seconds: until the last list was done.
        ideal: seconds if all machines had worked all the time, and no work had been done twice.
        losses: machines that were lost.
        lost_seconds: work that was lost with them.
        repeated: lists that were given to a second machine.
        last: seconds during which some machines had nothing to do.
    """

    seconds: float
    ideal: float
    losses: int
    lost_seconds: float
    repeated: int
    last: float


class Extracting:
    """A run; the same seed gives the same run."""

    def __init__(self, config: ExtractingConfig, seed: int) -> None:
        self._config, self._rng = config, np.random.default_rng(seed)
        slow = self._rng.random(config.machines) < config.slow_share
        self._speeds = np.where(slow, config.slow_times, 1.0)
        spread = np.exp(config.spread * self._rng.standard_normal(config.lists))
        self._left = (config.list_seconds * spread / np.exp(config.spread**2 / 2)).tolist()
        self._work = sum(self._left)
        self._waiting = list(range(config.lists - 1, -1, -1))
        self._done: set[int] = set()
        self._running: dict[int, tuple[int, float, float]] = {}  # machine: list, begun, seconds
        self._finished: list[float] = []
        self._idle: list[int] = []
        self._repeated: set[int] = set()
        # Time, what (0: machine is done, 1: is lost, 2: is back, 3: look for stragglers), machine, which of its lists.
        self._events: list[tuple[float, int, int, int]] = []
        self._turns = [0] * config.machines

    def run(self) -> Extracted:
        """Simulate until all lists are done."""
        config = self._config
        events = self._events
        losses, lost_seconds, now, first_idle = 0, 0.0, 0.0, None
        for machine in range(config.machines):
            self._begin(machine, 0.0)
            self._fate(machine, 0.0)
        while len(self._done) < config.lists:
            now, what, machine, turn = heapq.heappop(events)
            if what == 0 and turn == self._turns[machine]:
                self._end(machine, now)
            elif what == 1:
                losses += 1
                lost_seconds += self._lose(machine, now)
                heapq.heappush(events, (now + config.replaced, 2, machine, 0))
            elif what == 2:
                self._begin(machine, now)
                self._fate(machine, now)
            elif what == 3:
                self._look(now)
            if first_idle is None and self._idle:
                first_idle = now
        ideal = self._work / float((1 / self._speeds).sum())
        last = 0.0 if first_idle is None else now - first_idle
        return Extracted(
            seconds=now,
            ideal=ideal,
            losses=losses,
            lost_seconds=lost_seconds,
            repeated=len(self._repeated),
            last=last,
        )

    def _fate(self, machine: int, now: float) -> None:
        days = self._config.machine_days
        if days < float("inf"):
            heapq.heappush(self._events, (now + self._rng.exponential(days * _DAY), 1, machine, 0))

    def _begin(self, machine: int, now: float) -> None:
        """Give a machine the next list, or one that takes too long elsewhere; else it is idle."""
        number = self._waiting.pop() if self._waiting else self._straggler(now)
        if number is None:
            if not self._idle:
                self._look_later(now)
            if machine not in self._idle:
                self._idle.append(machine)
            return
        seconds = self._left[number] * self._speeds[machine]
        self._turns[machine] += 1
        self._running[machine] = (number, now, seconds)
        heapq.heappush(self._events, (now + seconds, 0, machine, self._turns[machine]))

    def _look_later(self, now: float) -> None:
        heapq.heappush(self._events, (now + _LOOK * self._config.list_seconds, 3, 0, 0))

    def _look(self, now: float) -> None:
        """Let idle machines see whether a list has become late."""
        idle, self._idle = self._idle, []
        for machine in idle:
            self._begin(machine, now)

    def _straggler(self, now: float) -> int | None:
        """Return the list that has run longest, if that is too long and nobody repeats it."""
        if not self._config.repeat or not self._finished:
            return None
        bar = _PATIENCE * float(np.median(self._finished[-1000:]))
        late = [
            (begun, number)
            for number, begun, _ in self._running.values()
            if now - begun > bar and number not in self._repeated and number not in self._done
        ]
        if not late:
            return None
        number = min(late)[1]
        self._repeated.add(number)
        return number

    def _end(self, machine: int, now: float) -> None:
        number, begun, _ = self._running.pop(machine)
        if number not in self._done:
            self._done.add(number)
            self._finished.append(now - begun)
            for other, (theirs, _, _) in list(self._running.items()) if number in self._repeated else ():
                if theirs == number:  # the other one is stopped
                    del self._running[other]
                    self._turns[other] += 1
                    self._begin(other, now)
        self._begin(machine, now)

    def _lose(self, machine: int, now: float) -> float:
        """Take a machine away; return the seconds of its work that are lost."""
        self._turns[machine] += 1
        if machine in self._idle:
            self._idle.remove(machine)
        if machine not in self._running:
            return 0.0
        number, begun, seconds = self._running.pop(machine)
        if number in self._done:
            return 0.0
        spent = now - begun
        lost = min(spent, self._rng.random() * self._config.commit_seconds, spent)
        self._left[number] *= 1 - (spent - lost) / seconds
        if all(theirs != number for theirs, _, _ in self._running.values()):
            self._repeated.discard(number)
            self._waiting.append(number)
            if self._idle:
                self._begin(self._idle.pop(0), now)
        return lost
