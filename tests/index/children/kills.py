"""Kills a writer at random moments, again and again, always going on with the same archive.

    python kills.py FOLDER COUNT

Prints JSON: kills, the last step, how often the state was that of the last step said to be committed or a later one.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from archives import files, referenced
from history import History, write
from jobs import require

from ctxdeploy.index import Index


def attempt(path: Path, folder: Path, seconds: float, waiting: bool) -> int:
    """Let a child write, kill it after some time, and return the last step that it said it had committed.

    Args:
        path: the archive.
        folder: for what the child says.
        seconds: from its start, or if ``waiting`` from its first commit, which a slow machine reaches late.
        waiting: wait for that.
    """
    out = folder / "said"
    out.write_bytes(b"")
    child = os.fork()
    if child == 0:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        shutil.rmtree(folder / "child", ignore_errors=True)
        (folder / "child").mkdir()
        write(path, folder / "child", 1 << 30)
        os._exit(1)
    end = time.monotonic() + 300
    while waiting and not out.stat().st_size and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    require(os.WIFSIGNALED(status), f"the writer ended by itself: {status}")
    lines = out.read_text().splitlines()
    return int(lines[-1]) if lines else 0


def main(folder: Path, count: int) -> None:
    """Kill and check."""
    history = History(folder)
    path = folder / "archive"
    history.create(path)
    with Index.open(path, writable=True) as index:
        for step in range(1, 13):  # compiles every loop, for the children
            history.take(index, step)
            history.tidy(index, step)
    os.fsync = lambda handle: None  # type: ignore[assignment]
    last, in_time, snapshots = 12, 0, 0
    chance = random.Random(5)
    for number in range(count):
        said = attempt(path, folder, 0.08 * chance.random(), chance.random() < 0.7)
        with Index.open(path) as index:
            step = history.check(index)
            require(index.verify() == [], f"kill {number}: {index.verify()}")
            names = [info.name for info in index.snapshots()]
        require(step >= max(last, said), f"kill {number}: step {step}, but {said} was said to be committed")
        for name in names:
            with Index.open(path, at=name) as held:
                require(history.check(held) == int(name[1:]), f"snapshot {name}")
                snapshots += 1
        in_time += said > 0
        last = step
    for abandoned in (path / "snapshots").glob(".tmp-*"):
        os.utime(abandoned, (0, 0))
    with Index.open(path, writable=True) as index:
        index.collect_garbage()
    require(files(path) == referenced(path), f"{files(path) ^ referenced(path)}")
    print(json.dumps({"kills": count, "steps": last, "kills after a commit": in_time, "snapshots checked": snapshots}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
