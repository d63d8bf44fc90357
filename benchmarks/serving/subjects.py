"""What answers: the library in a process of its own, our service, and the bare FastAPI that anybody would write."""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from serving.load import Outcome, arrivals, in_process

# Threads of the service (--max-running), which the library is called from as well.
THREADS = 8


class Subject:
    """A process with a port that answers ``POST /v1/search`` and ``GET /v1/search?indexed=``.

    Args:
        name: for figures.
        command: that starts it; the port is its last argument.
    """

    def __init__(self, name: str, *command: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process; a line a request
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command), str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            cwd=Path(__file__).parents[1],
        )
        self._wait()

    def _wait(self) -> None:
        """Return when it says that it is ready; a service without ``/readyz`` is, as soon as it answers."""
        while True:
            if self.process.poll() is not None:
                self._log.seek(0)
                said = self._log.read()[-2000:].decode(errors="replace")
                raise SystemExit(f"{self.name} ended with code {self.process.returncode}: {said}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=60).close()
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return
            except OSError:
                pass
            else:
                return
            time.sleep(0.2)

    def memory(self) -> dict[str, float]:
        """Return MB of the process and those that it started: resident, and of these not mapped from files."""
        return memory_of(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(120)
        self._log.close()


def service(archive: Path, *options: object, name: str = "ctxdeploy serve") -> Subject:
    """Start ``ctxdeploy serve``."""
    return Subject(name, "-m", "ctxdeploy", "serve", archive, "--max-running", THREADS, *options, "--port")


def bare(archive: Path) -> Subject:
    """Start FastAPI with ``PhotoIndex`` in a handler."""
    return Subject("bare FastAPI", "-m", "serving.bare", archive)


def memory_of(pid: int) -> dict[str, float]:
    """Return MB of a process and all below it: ``resident``, and ``own``, which is not mapped from files."""
    resident = own = 0
    for each in tree(pid):
        try:
            status = Path(f"/proc/{each}/status").read_text(encoding="ascii")
        except OSError:  # it has ended
            continue
        facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        kilobytes = {name: int(facts.get(name, "0 kB").split()[0]) for name in ("VmRSS", "RssAnon", "RssShmem")}
        resident += kilobytes["VmRSS"]
        own += kilobytes["RssAnon"] + kilobytes["RssShmem"]
    return {"resident_mb": round(resident / 1024, 1), "own_mb": round(own / 1024, 1)}


def tree(pid: int) -> list[int]:
    """Return a process and all that it started, and these started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text(encoding="latin-1").rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


class Library:
    """``PhotoIndex`` in a process of its own, so that it shares nothing with what asks.

    Args:
        archive: that it opens.
        photos: files to ask with.
        names: photos of the archive to ask with.
    """

    def __init__(self, archive: Path, photos: Sequence[Path], names: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._asked, told = context.Pipe()
        self.process = context.Process(target=_answer, args=(told, archive, list(photos), list(names)))
        self.process.start()

    def many(self, kind: str, count: int) -> float:
        """Return seconds in which ``search_many`` answers so many ``photos`` or ``indexed``."""
        return self._do("many", kind, count)  # type: ignore[no-any-return]

    def scheduled(self, kind: str, rate: float, count: int, seed: int) -> Outcome:
        """Return what comes of calls on a schedule."""
        return self._do("scheduled", kind, rate, count, seed)  # type: ignore[no-any-return]

    def _do(self, *what: object) -> Any:
        self._asked.send(what)
        return self._asked.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.send(("end",))
        self.process.join()


def _answer(told: Connection, archive: Path, photos: list[Path], names: list[str]) -> None:
    from itertools import cycle, islice

    from ctxdeploy import IndexedPhoto, PhotoIndex

    with PhotoIndex.open(archive) as index:
        items: dict[str, list[Any]] = {
            "photos": [photo.read_bytes() for photo in photos],
            "indexed": [IndexedPhoto(name=name) for name in names],
        }

        def one(item: Any) -> None:
            (answer,) = index.search_many([item])
            if isinstance(answer, Exception):
                raise answer

        for kind in items:  # compiles, and meets every shape
            for item in items[kind]:
                one(item)
        while (what := told.recv())[0] != "end":
            if what[0] == "many":
                kind, count = what[1:]
                since = time.perf_counter()
                for _ in index.search_many(islice(cycle(items[kind]), count)):
                    pass
                told.send(time.perf_counter() - since)
            else:
                kind, rate, count, seed = what[1:]
                told.send(in_process(one, items[kind], arrivals(rate, count, seed), THREADS))


def load_average() -> float:
    """Return the load of the last minute."""
    return round(os.getloadavg()[0], 2)
