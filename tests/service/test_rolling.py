"""Two services that are restarted in turn while another process commits: no request is dropped, no answer is mixed."""

import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from ctxdeploy import PhotoIndex

MINUTES = 300.0
CLIENTS = 32
# Each of the two once.
RESTARTS = 2
# Seconds between changes of what runs, and of one client between requests: 32 that hardly wait take 100 s of processor
# time on a busy machine, most of it their own.
BETWEEN, PAUSE = 2.0, 1.0


@dataclass
class Balancer:
    """What stands before services: it asks ``/readyz``, and sends requests where that says yes."""

    services: list[Any]
    ready: list[str] = field(default_factory=list)

    def look(self, is_over: threading.Event) -> None:
        with httpx.Client(timeout=MINUTES) as client:
            while not is_over.wait(0.1):
                found = []
                for served in list(self.services):
                    try:
                        if client.get(f"{served.url}/readyz").status_code == 200:
                            found.append(served.url)
                    except httpx.TransportError:  # it has ended
                        continue
                self.ready = found


@dataclass
class Commits:
    """Photos by the number of the manifest that holds them, of those that each change ended with."""

    names: dict[int, frozenset[str]] = field(default_factory=dict)

    def of(self, state: int) -> set[frozenset[str]]:
        """Return what a state may hold: a change may commit once more in between, such as where it compacts."""
        before = max(number for number in self.names if number <= state)
        return {
            self.names[before],
            self.names[min((number for number in self.names if number >= state), default=before)],
        }

    def write(self, archive: Any, photo: bytes, is_over: threading.Event) -> None:
        """Add a photo a second, and remove one that was added before."""
        with PhotoIndex.open(archive, writable=True) as photos:
            number = 0
            while not is_over.wait(1.0):
                photos.add([(f"new/{number}.jpg", photo)])
                self.names[photos.state] = frozenset(photos.names())
                if number % 3 == 2:
                    photos.remove(f"new/{number - 2}.jpg")
                    self.names[photos.state] = frozenset(photos.names())
                number += 1


def ask(balancer: Balancer, is_over: threading.Event, seed: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Ask until it is over; return how often what happened, and the answers."""
    counted, answers, chance = Counter[str](), [], random.Random(seed)
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(timeout=MINUTES, limits=limits) as client:
        while not is_over.is_set():
            ready = balancer.ready
            if not ready:
                counted["nobody is ready"] += 1
                is_over.wait(0.05)
                continue
            url = f"{chance.choice(ready)}/v1/search"
            try:
                answer = client.get(url, params={"indexed": "first/chelsea.jpg", "top": 500, "expand": 0})
            except httpx.TransportError as error:
                counted[f"{type(error).__name__}: {error}"] += 1
                continue
            code = answer.json().get("code", "")
            counted[f"{answer.status_code} {code}".strip()] += 1
            if answer.status_code == 200:
                answers.append(answer.json())
            is_over.wait(PAUSE)
    return counted, answers


@pytest.mark.slow
def test_restarts_and_commits_drop_no_request_and_mix_no_answer(start: Any, own_album: Any) -> None:
    with PhotoIndex.open(own_album.archive) as photos:
        commits = Commits({photos.state: frozenset(photos.names())})
    arguments = (own_album.archive, "--refresh", 0.2, "--drain", 2, "--max-queue", 24)
    services = [start(*arguments), start(*arguments)]
    balancer, is_over = Balancer(services), threading.Event()
    with ThreadPoolExecutor(CLIENTS + 2) as threads:
        looking = threads.submit(balancer.look, is_over)
        writing = threads.submit(commits.write, own_album.archive, own_album.query("coffee"), is_over)
        asking = [threads.submit(ask, balancer, is_over, seed) for seed in range(CLIENTS)]
        try:
            for number in range(RESTARTS):
                time.sleep(BETWEEN)
                ended = services[number % 2]
                assert ended.end(signal.SIGTERM) == 0
                services[number % 2] = start(*arguments)
            time.sleep(BETWEEN)
        finally:
            is_over.set()
        looking.result()
        writing.result()
        counted, answers = Counter[str](), []
        for one in asking:
            counts, found = one.result()
            counted += counts
            answers += found
    assert set(counted) <= {"200", "429 QueueFull", "503 NotReady", "nobody is ready"}, counted
    states = {answer["state"] for answer in answers}
    assert len(states) > 3 and len(answers) > CLIENTS, (states, counted)
    for state in states:
        of_state = [answer for answer in answers if answer["state"] == state]
        (count,) = {answer["coverage"]["photos"] for answer in of_state}
        assert count in {len(names) for names in commits.of(state)}
        results = {str([(result["name"], result["score"]) for result in answer["results"]]) for answer in of_state}
        assert len(results) == 1, state
        found = {result["name"] for result in of_state[0]["results"]}
        assert any(len(names) == count and found <= names for names in commits.of(state))
