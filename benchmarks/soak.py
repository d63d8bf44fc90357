"""The tests of what an archive survives, at full count: writes benchmarks/results/soak.json.

    python benchmarks/soak.py [PART ...]

Parts: states (random sequences of changes beside `asmk`), points (kill -9 and failing calls at every writing call),
kills (at random moments), readers (beside a writer), mutations (of every file), disk (a file system that is full). All
take twenty minutes on two cores. The suite runs the same code with smaller counts.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy

ROOT = Path(__file__).parents[1]
CHILDREN = ROOT / "tests" / "index" / "children"
RESULT = ROOT / "benchmarks" / "results" / "soak.json"
JOBS = "add,change,compact,merge,collect,snapshot,forget,repair,create"
SEQUENCES = 500
KILLS = 300
SECONDS = 120
MUTATIONS = 6000
SEEDS = (101, 102, 103, 104)


def child(name: str, *arguments: object, environment: dict[str, str] | None = None) -> Any:
    """Run one of the tests' scripts on an empty folder; return its report."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", str(CHILDREN / f"{name}.py"), folder, *map(str, arguments)]
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": paths} | (environment or {}),
        )
    return json.loads(result.stdout.splitlines()[-1])


def states() -> Any:
    """Random sequences of changes, for four kinds of archive."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-s", "tests/index/test_state_machine.py"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"CTXDEPLOY_EXAMPLES": str(SEQUENCES)},
    )
    found = [tuple(map(int, pair)) for pair in re.findall(r"(\d+) steps, (\d+) searches", result.stdout)]
    steps, searches = (sum(part) for part in zip(*found, strict=True))
    return {"archives": len(found), "sequences": SEQUENCES * len(found), "steps": steps, "searches": searches}


def points() -> Any:
    """Every writing call of every job."""
    return {mode: child("faults", JOBS, mode, 1) for mode in ("kill", "ENOSPC", "EIO", "full")}


def mutations() -> Any:
    """Mutated files; the last seed with checked array accesses."""
    reports = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as cache:
            checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": cache} if seed == SEEDS[-1] else {}
            reports.append(child("fuzz", MUTATIONS, seed, environment=checked))
    return {key: sum(report[key] for report in reports) for key in reports[0]}


PARTS = {
    "states": states,
    "points": points,
    "kills": lambda: child("kills", KILLS),
    "readers": lambda: child("readers", SECONDS),
    "mutations": mutations,
    "disk": lambda: child("full_disk"),
}


def main(chosen: list[str]) -> None:
    """Run parts and write what they counted; the parts that are not run keep their last counts."""
    report: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    report["versions"] = {"python": platform.python_version(), "numpy": numpy.__version__, "system": platform.system()}
    for part in chosen or PARTS:
        begin = time.perf_counter()
        counts = PARTS[part]()
        report[part] = {**counts, "took_seconds": round(time.perf_counter() - begin, 1)}
        RESULT.write_text(json.dumps(report, indent=1) + "\n")
        print(part, json.dumps(report[part]))


if __name__ == "__main__":
    main(sys.argv[1:])
