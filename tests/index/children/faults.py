"""Interrupts a job at its n-th call of the operating system's writing functions, for every n.

    python faults.py FOLDER JOB,JOB,... MODE [STRIDE]

MODE: ``kill`` (SIGKILL; in a write, after half of its bytes), ``ENOSPC`` or ``EIO`` (the call fails, once), ``full``
(from the call on everything that needs space fails with ENOSPC, until the job has given up). STRIDE: try one point in
so many, the last one included. Prints JSON for each job: the number of points, how many were tried, the states found.
"""

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from jobs import CODEBOOK, ERRORS, GLOBAL, JOBS, check, make_base, require, start, state, warm_up

from ctxdeploy.core.errors import StorageError
from ctxdeploy.index import Index

CALLS = ("write", "pwrite", "fsync", "replace", "link", "unlink", "mkdir", "ftruncate")
NEED_SPACE = ("write", "pwrite", "link", "mkdir")
REAL = {name: getattr(os, name) for name in CALLS}
done = 0


def patch(point: int, mode: str) -> None:
    """Let the ``point``-th of the calls from now on fail; 0 for none."""
    global done
    done = 0

    def failing(name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            global done
            done += 1
            if mode == "full" and done >= point > 0 and name in NEED_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if done == point and mode == "kill":
                if name == "write":
                    REAL["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if done == point and mode in ERRORS:
                raise OSError(ERRORS[mode], os.strerror(ERRORS[mode]))
            return None if name == "fsync" else REAL[name](*arguments, **named)

        return call

    for name in CALLS:
        setattr(os, name, failing(name))


def restore() -> None:
    """Let every call succeed again."""
    for name, function in REAL.items():
        setattr(os, name, function)
    os.fsync = lambda handle: None  # type: ignore[assignment]


def failed(path: Path, job: str, point: int, mode: str) -> str:
    """Run a job in this process with a failing call; return the text of the error."""
    patch(point, mode)
    try:
        JOBS[job](path)
    except StorageError as error:
        require(error.exit_code == 18 and str(path.parent) in str(error), f"unclear: {error}")
        return str(error)
    finally:
        restore()
    # A point at which nothing needs space, or a temporary file that could not be unlinked after a link.
    return ""


def killed(path: Path, job: str, point: int) -> bool:
    """Run a job in a child that dies at a point; return whether it did."""
    child = os.fork()
    if child == 0:
        patch(point, "kill")
        JOBS[job](path)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    require(os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"{job} {point}: status {status}")
    return os.WIFSIGNALED(status)


def survives(folder: Path, mode: str, stride: int) -> int:
    """Fail once in a writer that stays open: it commits later. Return the number of points tried."""
    tried = point = 0
    while True:
        point += stride
        tried += 1
        path = folder / f"same-{point}"
        start(folder / "base", path, "change")
        index = Index.open(path, writable=True)
        centroids = CODEBOOK.centroids[:3]
        index.add("x", centroids, positions=centroids[:, :2], global_descriptor=GLOBAL[7])
        index.remove("c/d.jpg")
        patch(point, mode)
        try:
            index.commit()
            reached = done >= point
        except StorageError:
            reached = True
        finally:
            restore()
        index.commit()
        index.compact(purge=True)
        index.collect_garbage()
        index.close()
        with Index.open(path) as reader:
            require(reader.verify() == [] and "x" in reader and "c/d.jpg" not in reader, f"{mode} {point}")
        shutil.rmtree(path)
        if not reached:
            return tried


def interrupt(folder: Path, job: str, mode: str, stride: int) -> dict[str, Any]:
    """Interrupt a job everywhere; return the report."""
    start(folder / "base", folder / f"{job}-whole", job)
    before = state(folder / f"{job}-whole")
    kept = state(folder / "base", "kept")
    patch(0, "none")
    JOBS[job](folder / f"{job}-whole")
    points = done
    restore()
    after = state(folder / f"{job}-whole")
    require(not isinstance(after, str), str(after))
    found = {"before": 0, "after": 0}
    errors: set[str] = set()
    for point in range(points, 0, -stride):
        path = folder / f"{job}-{point}"
        start(folder / "base", path, job)
        if mode == "kill":
            require(killed(path, job, point), f"{job} was not killed at point {point}")
        else:
            errors.add(failed(path, job, point, mode))
        state_found = check(path, job, before, after, kept)
        found["after" if state_found == after else "before"] += 1
        shutil.rmtree(path)
    report = {"points": points, "tried": sum(found.values()), **found, "errors": len(errors - {""})}
    if job == "change" and mode != "kill":
        report["same_writer"] = survives(folder, mode, stride)
    return report


def main(folder: Path, jobs: list[str], mode: str, stride: int) -> None:
    """Interrupt jobs everywhere; print the reports."""
    restore()
    make_base(folder / "base")
    warm_up(folder)
    print(json.dumps({job: interrupt(folder, job, mode, stride) for job in jobs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 1)
