"""What does a service do with a million names: to list them by pages, by folders, to search among some of them?

    python benchmarks/names.py                    # 10,000 and a million names: a minute and a half
    python benchmarks/names.py --photos 100000

A synthetic archive of tiny photos, in folders of dates, in many small folders, and in one folder without any below.
`ctxdeploy serve` answers from it on loopback, one request after the other: what grows with the number of names beyond
its logarithm shows in the ratio to the small archive, best in the processor time of the service. Then others commit 20
times: how long the new state takes to be seen (`--refresh 0.1` looks ten times a second), and how long requests that
come meanwhile take.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
from serving.subjects import Subject, load_average, service

from ctxdeploy.bench import draw_photos, milliseconds, publish
from ctxdeploy.index import Codebook, Index

WORDS, WORDS_A_PHOTO, DIM = 4096, 3, 128
SMALL = 10_000
COMMITS = 20


def name_of(number: int, photos: int) -> str:
    """Return the name of a photo: six in ten by date, three in one folder, one in small folders."""
    share = number * 10 // photos
    if share < 6:
        return f"{2000 + number % 25}/{number % 12 + 1:02d}/IMG_{number:07d}.jpg"
    if share < 9:
        return f"flat/{number:07d}.jpg"
    return f"users/{number % 20_011:05d}/{number:07d}.jpg"


def build(path: Path, photos: int, seed: int) -> None:
    """Make an archive."""
    random = np.random.default_rng(seed)
    codebook = Codebook.from_centroids(random.standard_normal((WORDS, DIM), np.float32))
    number = 0
    with Index.create(path, codebook) as index:
        for chunk in draw_photos(photos, WORDS_A_PHOTO, random, WORDS):
            for photo in chunk:
                index.add_aggregated(name_of(number, photos), photo)
                number += 1


def questions(photos: int) -> dict[str, Callable[[int], str]]:
    """Return paths by what is asked, each for the number of a request."""
    step = 7919

    def some(number: int) -> str:
        return name_of(number * step % photos, photos)

    return {
        "first 1000 names": lambda _: "photos?" + urlencode({"limit": 1000}),
        "next 60 names": lambda number: "photos?" + urlencode({"limit": 60, "after": some(number)}),
        "60 names of a folder": lambda number: "photos?" + urlencode({"limit": 60, "prefix": f"{2000 + number % 25}/"}),
        "folders of the archive": lambda _: "folders",
        "folders beside a third of the photos": lambda _: "folders?" + urlencode({"prefix": "flat/"}),
        "1000 of many folders": lambda number: (
            "folders?" + urlencode({"prefix": "users/", "after": f"users/{150 * number:05d}"})
        ),
        "a photo": lambda number: f"photos/{some(number)}",
        "a name that there is not": lambda number: "search?" + urlencode({"indexed": f"no\\x0a{number}"}),
        "search": lambda number: "search?" + urlencode({"indexed": some(number)}),
        "search in a folder of dates": lambda number: (
            "search?" + urlencode({"indexed": some(number), "prefix": f"{2000 + number % 25}/01/"})
        ),
        "search in a small folder": lambda number: (
            "search?" + urlencode({"indexed": some(number), "prefix": f"users/{number % 20_011:05d}/"})
        ),
    }


def ask(subject: Subject, path: str) -> tuple[float, Any]:
    """Return seconds and the reply; what is not there has one as well."""
    since = time.perf_counter()
    try:
        with urlopen(f"http://127.0.0.1:{subject.port}/v1/{path}", timeout=300) as reply:
            body = reply.read()
    except OSError as error:
        if getattr(error, "code", None) != 404:
            raise
        body = error.read()  # type: ignore[attr-defined]
    return time.perf_counter() - since, json.loads(body)


def processor_time(pid: int) -> float:
    """Return the seconds of processor time of a process."""
    facts = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


def measure(archive: Path, photos: int, requests: int) -> dict[str, Any]:
    """Return the figures of one archive."""
    since = time.perf_counter()
    with service(archive, "--refresh", 0.1, "--timeout", 300) as subject:
        found: dict[str, Any] = {"photos": photos, "seconds_until_ready": round(time.perf_counter() - since, 2)}
        found["memory_when_ready"] = subject.memory()
        found["first_ms"], found["ms"], found["processor_ms"] = {}, {}, {}
        for what, path in questions(photos).items():
            found["first_ms"][what] = round(1000 * ask(subject, path(0))[0], 2)
            before = processor_time(subject.process.pid)
            seconds = [ask(subject, path(number))[0] for number in range(1, requests)]
            used = processor_time(subject.process.pid) - before
            found["processor_ms"][what] = round(1000 * used / len(seconds), 2)
            found["ms"][what] = milliseconds(seconds)
            _say(f"{photos:,} names: {what}: {found['ms'][what]}, processor {found['processor_ms'][what]}")
        found["memory_after_requests"] = subject.memory()
        found["commits"] = _commits(subject, archive)
        found["memory_after_commits"] = subject.memory()
    return found


def _commits(subject: Subject, archive: Path) -> dict[str, Any]:
    """Return how long states of another writer take to be seen, and requests that come all the time meanwhile."""
    ended, seconds = threading.Event(), list[float]()

    def go_on() -> None:
        while not ended.is_set():
            seconds.append(ask(subject, "photos?limit=60")[0])

    asking = threading.Thread(target=go_on)
    asking.start()
    seen = []
    try:
        with Index.open(archive, writable=True) as writer:
            vectors = np.random.default_rng(5).standard_normal((4, DIM), np.float32)
            for number in range(COMMITS):
                writer.add(f"!new/{number:03d}.jpg", vectors)
                writer.commit()
                since = time.perf_counter()
                while ask(subject, "photos?prefix=!new/&limit=1")[1]["count"] <= number:
                    time.sleep(0.005)
                seen.append(time.perf_counter() - since)
    finally:
        ended.set()
        asking.join()
    times = milliseconds(seconds)
    return {"until_seen_ms": milliseconds(seen), "meanwhile_ms": times, "slowest_ms": round(1000 * max(seconds), 1)}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def lines(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return what was found, for people."""
    small, large = runs[0], runs[-1]
    few, found = f"among {small['photos']:,}", []
    for what, of in large["ms"].items():
        used = f"{large['processor_ms'][what]:.2f} ms of processor, {small['processor_ms'][what]:.2f} {few}"
        found.append(f"{what}: {of['median_ms']:.2f} ms; {used}")
    commits, memory = large["commits"], large["memory_after_commits"]["own_mb"]
    found.append(f"a commit is seen after {commits['until_seen_ms']['median_ms']:.0f} ms; {memory:.0f} MB of memory")
    return found


def main() -> None:
    """Measure a small and a large archive, and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=101, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for the archives; the default is the temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "names.json")
    options = parser.parse_args()
    runs = []
    for photos in sorted({min(SMALL, options.photos), options.photos}):
        folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="names-"))
        try:
            since = time.perf_counter()
            build(folder / "names.ctxindex", photos, options.seed)
            _say(f"{photos:,} names: built in {time.perf_counter() - since:.1f} s")
            runs.append(measure(folder / "names.ctxindex", photos, options.requests))
        finally:
            shutil.rmtree(folder)
    publish({"requests": options.requests, "runs": runs, "load_average": load_average()}, options.output, lines(runs))


if __name__ == "__main__":
    main()
