"""Reads in threads and in a process of its own while another process writes.

    python readers.py FOLDER SECONDS

Every reader opens the archive in a loop, compares what it finds with the history, and keeps some states open, to
compare them again later, when the writer has long collected their garbage. Prints JSON: counts.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from history import History, write
from jobs import require

from ctxdeploy.index import Index

THREADS = 2
HELD = 4
PATIENCE = 300


def read(path: Path, history: History, seconds: float, seed: int) -> Counter[str]:
    """Open, compare, hold and let go, until the time is over."""
    chance = random.Random(seed)
    held: list[tuple[Index, int]] = []
    counts: Counter[str] = Counter()
    latest = 0
    start = time.monotonic()
    # A slow machine needs longer for as many states.
    while time.monotonic() < start + seconds or not (
        min(counts["answers of old states"], counts["opened"]) > 5 * seconds and counts["new states"] > seconds
    ):
        require(time.monotonic() < start + seconds + PATIENCE, f"too little was seen: {counts}")
        index = Index.open(path, threads=1 + seed % 2)
        step = history.check(index)
        require(step >= latest, f"step {step} after step {latest}")
        counts["opened"] += 1
        counts["new states"] += step > latest
        latest = step
        held.append((index, step))
        for number in range(len(held)):
            require(history.check(held[number][0]) == held[number][1], "a held state has changed")
            counts["answers"] += 1
            counts["answers of old states"] += held[number][1] < latest
        if len(held) > HELD:
            held.pop(chance.randrange(len(held)))[0].close()
    counts["steps"] = latest
    for index, _ in held:
        index.close()
    return counts


def in_child(path: Path, history: History, seconds: float, out: Path) -> int:
    """Read in a forked process, which writes its counts to a file; return the process."""
    child = os.fork()
    if child == 0:
        counts = read(path, history, seconds, 99)
        out.write_text(json.dumps(counts))
        os._exit(0)
    return child


def main(folder: Path, seconds: float) -> None:
    """Start all and wait."""
    history = History(folder)
    path = folder / "archive"
    history.create(path)
    with Index.open(path, writable=True) as index:
        for step in range(1, 4):  # compiles every loop, for the children
            history.take(index, step)
            history.tidy(index, step)
    (folder / "child").mkdir()
    writer = os.fork()
    if writer == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        write(path, folder / "child", 1 << 30)
        os._exit(0)
    reader = in_child(path, history, seconds, folder / "counts")
    totals: Counter[str] = Counter()
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            totals.update(read(path, History(folder / str(seed)), seconds, seed))
        except BaseException as error:
            errors.append(error)

    threads = []
    for seed in range(THREADS):
        (folder / str(seed)).mkdir()
        threads.append(threading.Thread(target=run, args=(seed,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    require(os.waitpid(reader, 0)[1] == 0, "the reading process failed")
    require(os.waitpid(writer, os.WNOHANG) == (0, 0), "the writer ended by itself")
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    if errors:
        raise errors[0]
    steps = totals.pop("steps") // THREADS
    totals.update({key: value for key, value in json.loads((folder / "counts").read_text()).items() if key != "steps"})
    require(Index.open(path).verify() == [], "verify")
    print(json.dumps({"seconds": seconds, "steps": steps, **totals}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
