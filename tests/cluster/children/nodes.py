"""A Ray cluster of several nodes on this machine, until stdin ends; and one whose parts are killed while it indexes.

    python nodes.py hold [CPUS[+GPUS] …]                # prints {"address": …, "raylets": […]}
    python nodes.py disturb PHOTOS ARCHIVE --kills N    # prints what was killed; options of `index` after --

`disturb` runs `ctxdeploy index` and kills workers, nodes (a raylet with all that it started), drivers and, with --all,
everything at once. Another node takes the place of one that was killed, another driver goes on. A kill comes when there
is something to lose: a segment was finished, or a state committed, since the last one.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

PATIENCE = 900
# Exit codes of a driver that is done: all photos, or all but those that cannot be read.
DONE = (0, 19)
SMALLEST_STORE = 80 << 20


def descendants(process: int) -> dict[int, str]:
    """Return the processes below one, and what they call themselves."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except (OSError, ValueError, IndexError):
            continue
    found, level = {}, {process}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= {child: titles.get(child, "") for child in level}
    return found


def end(processes: Iterable[int]) -> None:
    """Kill processes, as a machine that loses its power does."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Nodes:
    """A head without processors, which drivers join, and nodes that have some.

    Args:
        sizes: (processors, GPUs that nobody looks for) of each node.
    """

    def __init__(self, sizes: Iterable[tuple[int, int]]) -> None:
        self._sizes = list(sizes)
        self.cluster: Any = None
        self.start()

    def start(self) -> None:
        """Start all nodes."""
        given = {"num_cpus": 0, "object_store_memory": SMALLEST_STORE, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=given)
        for size in self._sizes:
            self.add(size)

    def add(self, size: tuple[int, int] | None = None) -> None:
        """Start a node."""
        cpus, gpus = size or self._sizes[0]
        self.cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=SMALLEST_STORE)

    @property
    def address(self) -> str:
        """HOST:PORT of the cluster."""
        return str(self.cluster.address)

    @property
    def raylets(self) -> list[int]:
        """The process of each node that has processors."""
        return [self._raylet(node) for node in self._workers()]

    def _workers(self) -> list[Any]:
        return sorted(self.cluster.worker_nodes, key=self._raylet)

    @staticmethod
    def _raylet(node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def workers(self) -> list[int]:
        """The processes that make segments."""
        below = (descendants(raylet) for raylet in self.raylets)
        return sorted(pid for found in below for pid, title in found.items() if "SegmentWorker" in title)

    def kill_one(self, chance: random.Random) -> None:
        """Let a node lose its power."""
        node = chance.choice(self._workers())
        raylet = self._raylet(node)
        end([*descendants(raylet), raylet])
        self.cluster.remove_node(node, allow_graceful=False)

    def kill_all(self) -> None:
        """Let all nodes lose their power."""
        end(descendants(os.getpid()))
        for node in self.cluster.list_all_nodes():
            with suppress(Exception):
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        remembered = Path("/tmp/ray/ray_current_cluster")  # where ray.init(address="auto") would look for it
        if remembered.exists() and remembered.read_text().strip() == self.address:
            remembered.unlink(missing_ok=True)
        self.cluster.worker_nodes, self.cluster.head_node = set(), None


class Disturbance:
    """Runs drivers until one says that it is done, and kills.

    Args:
        nodes: of the cluster.
        options: as of the command line.
    """

    def __init__(self, nodes: Nodes, options: argparse.Namespace) -> None:
        self._nodes, self._options = nodes, options
        self._chance = random.Random(options.seed)
        self._parts = Path(f"{options.archive}.parts")
        self.killed: Counter[str] = Counter()
        self.drivers = self.again = 0
        self._left = self._kinds()
        self._err = Path(f"{options.archive}.err")

    def _kinds(self) -> list[str]:
        """Return what is killed, in a random order in which each kind comes."""
        kinds = ["worker", "node", "driver"] + ["everything"] * self._options.all
        more = self._options.kills - len(kinds)
        drawn = self._chance.choices(["worker", "node", "driver"], (5, 3, 2), k=max(more, 0))
        self._chance.shuffle(drawn)
        return [*kinds[: self._options.kills], *drawn]

    def run(self) -> int:
        """Return the exit code of the last driver."""
        begin = time.monotonic()
        while time.monotonic() - begin < self._options.patience:
            with self._err.open("w") as err:
                driver = self._driver(err)
                self.drivers += 1
                self._disturb(driver)
                code = driver.wait(timeout=PATIENCE)
            text = self._err.read_text()
            self.again += text.count("is given out again")
            if code in DONE:
                return code
            if code != -signal.SIGKILL and not self._is_cut_off(text):
                raise SystemExit(f"the driver ended with {code}: {text}")
        raise SystemExit("it does not come to an end")

    @staticmethod
    def _is_cut_off(text: str) -> bool:
        """Return whether a driver ended because its cluster was gone."""
        return "GCS" in text or "raylet" in text

    def _driver(self, err: Any) -> "subprocess.Popen[str]":
        options = self._options
        command = [sys.executable, "-m", "ctxdeploy", "index", options.photos, "-o", options.archive]
        flags = ["--cluster", self._nodes.address, "--worker-cpus", "1", "--commit-seconds", "0", *options.flags]
        return subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=err, text=True)

    def _disturb(self, driver: "subprocess.Popen[str]") -> None:
        seen = self._state()
        while self._left and driver.poll() is None:
            time.sleep(0.02)
            now = self._state()
            if now == seen:
                continue
            time.sleep(self._chance.random() * self._options.pause)
            kind = self._left[0]
            if driver.poll() is not None or not self._kill(kind, driver):
                continue
            self.killed[self._left.pop(0)] += 1
            if kind in ("driver", "everything"):
                return
            seen = self._state()

    def _state(self) -> tuple[int, int]:
        """Return what there is to lose: finished segments, and states of those that are not."""
        return len(list(self._parts.glob("*.ctxsegment"))), len(list(self._parts.glob(".work-*/manifest-*.json")))

    def _kill(self, kind: str, driver: "subprocess.Popen[str]") -> bool:
        """Return whether there was something to kill."""
        if kind == "worker":
            workers = self._nodes.workers()
            end([self._chance.choice(workers)] if workers else [])
            return bool(workers)
        if kind == "node":
            self._nodes.kill_one(self._chance)
            self._nodes.add()
        elif kind == "driver":
            driver.kill()
        else:
            driver.kill()
            self._nodes.kill_all()
            self._nodes.start()
        return True


def hold(sizes: list[str]) -> None:
    """Keep a cluster until stdin ends."""
    pairs = [tuple(int(part) for part in f"{size}+0".split("+")[:2]) for size in sizes]
    nodes = Nodes((cpus, gpus) for cpus, gpus in pairs)
    try:
        print(json.dumps({"address": nodes.address, "raylets": nodes.raylets}), flush=True)
        sys.stdin.read()
    finally:
        nodes.kill_all()


def disturb(options: argparse.Namespace) -> None:
    """Index while everything is killed."""
    nodes = Nodes([(1, 0)] * options.nodes)
    start = time.monotonic()
    try:
        disturbance = Disturbance(nodes, options)
        code = disturbance.run()
    finally:
        nodes.kill_all()
    counts = {"killed": dict(disturbance.killed), "drivers": disturbance.drivers, "given_out_again": disturbance.again}
    print(json.dumps({"code": code, **counts, "seconds": round(time.monotonic() - start, 1)}))


def main() -> None:
    """Read the options, and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    holding = jobs.add_parser("hold")
    holding.add_argument("sizes", nargs="*", default=["1", "1"])
    holding.set_defaults(run=lambda options: hold(options.sizes))
    disturbing = jobs.add_parser("disturb")
    disturbing.add_argument("photos")
    disturbing.add_argument("archive")
    disturbing.add_argument("--kills", type=int, default=4)
    disturbing.add_argument("--all", type=int, default=0, help="so often everything is killed at once")
    disturbing.add_argument("--nodes", type=int, default=3)
    disturbing.add_argument("--pause", type=float, default=0.3, help="a kill comes so many seconds later at most")
    disturbing.add_argument("--patience", type=float, default=PATIENCE)
    disturbing.add_argument("--seed", type=int, default=0)
    disturbing.set_defaults(run=disturb)
    given = sys.argv[1:]
    mark = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:mark])
    options.flags = given[mark + 1 :]
    options.run(options)


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main()
