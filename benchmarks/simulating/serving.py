"""Queries over shard servers: each query asks one copy of every part, and the slowest answer decides.

A server answers one search after the other, in the order in which they come, with all of its threads: as long as the
service time says that is drawn for it. Where a part has copies, a search goes to the one that has least to do, and, if
asked for (hedging), to another copy as well once it takes longer than nearly all do; the first answer counts. A search
that no longer counts is dropped where it still waits; one that runs, runs to its end. At the deadline a query is
answered with the parts that have answered.

``lindley`` computes the same without copies, hedging and deadline by the recursion of waiting times, without any event.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Draws so many service times, in seconds.
Draw = Callable[[np.random.Generator, int], Floats]
_BLOCK = 4096


def lognormal(median: float, sigma: float, slow_share: float, slow_times: float) -> Draw:
    """Return draws of a log-normal time, a share of which takes so many times as long."""

    def draw(rng: np.random.Generator, count: int) -> Floats:
        slow = rng.random(count) < slow_share
        return median * np.exp(sigma * rng.standard_normal(count)) * np.where(slow, slow_times, 1.0)

    return draw


def exponential(mean: float) -> Draw:
    """Return draws of an exponential time, for which queueing theory has the answers."""
    return lambda rng, count: rng.exponential(mean, count)


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """What is simulated.

    Attributes:
        parts: of the archive, on different servers.
        replicas: copies of each part.
        rate: queries a second, which come by chance; 0: one after the other.
        queries: how many.
        draw: service times.
        asking: seconds for a query to the servers and hits back.
        deadline: seconds after which a query is answered with what there is; infinite without.
        hedge: seconds after which another copy is asked too; infinite without.
        lost: servers (part, replica) that never answer.
    """

    parts: int
    draw: Draw
    queries: int
    replicas: int = 1
    rate: float = 0.0
    asking: float = 0.0
    deadline: float = float("inf")
    hedge: float = float("inf")
    lost: frozenset[tuple[int, int]] = frozenset()


@dataclass(kw_only=True)
class Served:
    """What came of it.

    Attributes:
        latencies: seconds of each query, from its arrival.
        coverage: share of the parts that each query's answer holds.
        searches: that were begun by servers; without hedging one a part and query.
        busy: part of the time that servers searched, on average.
    """

    latencies: Floats
    coverage: Floats
    searches: int
    busy: float


@dataclass(kw_only=True, eq=False)
class _Server:
    """A server, its queue, and what it has to do."""

    queue: Any
    waiting: int = 0
    lost: bool = False
    busy: float = 0.0


@dataclass(kw_only=True, eq=False)
class _Search:
    """A query's search of one part: ``answered`` happens once, whichever copy is first."""

    answered: Any
    tried: set[int] = field(default_factory=set)


class Serving:
    """A run; ``run`` returns what came of it. The same seed gives the same run."""

    def __init__(self, config: ServingConfig, seed: int) -> None:
        self._config, self._rng = config, np.random.default_rng(seed)
        self._env = simpy.Environment()
        self._servers = [
            [_Server(queue=simpy.Store(self._env), lost=(part, copy) in config.lost) for copy in range(config.replicas)]
            for part in range(config.parts)
        ]
        self._times: Iterator[float] = self._drawn()
        self._latencies: list[float] = []
        self._coverage: list[float] = []
        self._searches = 0

    def run(self) -> Served:
        """Simulate all queries."""
        for row in self._servers:
            for server in row:
                if not server.lost:
                    self._env.process(self._serve(server))
        self._env.run(self._env.process(self._arrive()))
        servers = sum(not server.lost for row in self._servers for server in row)
        busy = sum(server.busy for row in self._servers for server in row)
        return Served(
            latencies=np.array(self._latencies),
            coverage=np.array(self._coverage),
            searches=self._searches,
            busy=busy / max(servers * self._env.now, 1e-12),
        )

    def _drawn(self) -> Iterator[float]:
        while True:
            yield from self._config.draw(self._rng, _BLOCK).tolist()

    def _arrive(self) -> Iterator[Any]:
        """Let queries come, and wait for the last."""
        config, running = self._config, []
        for _ in range(config.queries):
            query = self._env.process(self._ask())
            if config.rate:
                running.append(query)
                yield self._env.timeout(self._rng.exponential(1 / config.rate))
            else:
                yield query
        yield self._env.all_of(running)

    def _ask(self) -> Iterator[Any]:
        """Ask one copy of every part, wait for all or for the deadline, and note what came."""
        env, config, begun = self._env, self._config, self._env.now
        searches = []
        for part in range(config.parts):
            search = _Search(answered=env.event())
            searches.append(search)
            self._send(part, search)
            if config.hedge < float("inf") and config.replicas > 1:
                env.process(self._hedge(part, search))
        everything = env.all_of([search.answered for search in searches])
        if config.deadline < float("inf"):
            yield everything | env.timeout(config.deadline - config.asking)
        else:
            yield everything
        self._latencies.append(env.now - begun + config.asking)
        self._coverage.append(sum(search.answered.triggered for search in searches) / config.parts)
        for search in searches:
            if not search.answered.triggered:
                search.answered.succeed()

    def _send(self, part: int, search: _Search) -> None:
        """Give a search to the copy that has least to do, of those that were not tried."""
        row = self._servers[part]
        copies = [number for number in range(len(row)) if number not in search.tried]
        if not copies:
            return
        if len(copies) > 1:
            copies.sort(key=lambda number: (row[number].waiting, self._rng.random()))
        chosen = copies[0]
        search.tried.add(chosen)
        row[chosen].waiting += 1
        row[chosen].queue.put(search)

    def _hedge(self, part: int, search: _Search) -> Iterator[Any]:
        yield search.answered | self._env.timeout(self._config.hedge)
        if not search.answered.triggered:
            self._send(part, search)

    def _serve(self, server: _Server) -> Iterator[Any]:
        """Answer one search after the other."""
        while True:
            search = yield server.queue.get()
            if not search.answered.triggered:
                seconds = next(self._times)
                self._searches += 1
                server.busy += seconds
                yield self._env.timeout(seconds)
                if not search.answered.triggered:
                    search.answered.succeed()
            server.waiting -= 1


def lindley(config: ServingConfig, seed: int) -> Floats:
    """Return the latencies of queries without copies, hedging and deadline.

    Every server meets the same arrivals; a search waits as long as the one before it waited and took, less the time
    between the two (Lindley).
    """
    rng = np.random.default_rng(seed)
    if not config.rate:
        times = config.draw(rng, config.queries * config.parts).reshape(config.queries, config.parts)
        return np.asarray(times.max(axis=1) + config.asking)
    gaps = rng.exponential(1 / config.rate, config.queries)
    times = config.draw(rng, config.queries * config.parts).reshape(config.queries, config.parts)
    steps = np.zeros_like(times)
    np.cumsum(times[:-1] - gaps[:-1, None], axis=0, out=steps[1:])
    # The wait is how far the sum of steps lies above its lowest point so far.
    waits = steps - np.minimum.accumulate(np.minimum(steps, 0), axis=0)
    return np.asarray((waits + times).max(axis=1) + config.asking)


def percentiles(seconds: Floats) -> dict[str, float]:
    """Return p50, p90, p99, p99.9 and the mean, in milliseconds, to four digits."""
    found = {f"p{share:g}": float(np.percentile(seconds, share)) for share in (50, 90, 99, 99.9)}
    return {name: float(f"{1000 * value:.4g}") for name, value in {**found, "mean": float(seconds.mean())}.items()}
