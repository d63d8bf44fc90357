"""``index --cluster`` on a Ray of several nodes on this machine, of which everything is killed or stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.cluster import ray_pool
from ctxdeploy.index import Index

pytest.importorskip("ray")
NODES = Path(__file__).parent / "children" / "nodes.py"
PATIENCE = 600
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
Call = Callable[..., Any]
Content = Callable[[Path], dict[str, str]]


@dataclass(frozen=True)
class Cluster:
    """A cluster that another process holds.

    Attributes:
        address: HOST:PORT.
        raylets: the process of each node: of one with two processors and a GPU that is none, and of one with one.
    """

    address: str
    raylets: list[int]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Return a cluster of a head and two nodes."""
    command = [sys.executable, "-W", "ignore", str(NODES), "hold", "2+1", "1"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Cluster(**json.loads(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(timeout=PATIENCE)


def options(cluster: Cluster, archive: Path, *more: str) -> list[str]:
    """Return the arguments of a run in which every worker has one processor."""
    given = ["-o", str(archive), "--model", "ctx-small", "--cluster", cluster.address, "--worker-cpus", "1", *more]
    return given if "--list-size" in more else [*given, "--list-size", "3"]


def compare(call: Call, archive: Path, whole: Path, photos: Path, content: Content) -> None:
    """Compare names, failures, answers and bytes with those of one machine."""
    one = Path(shutil.copytree(whole, archive.parent / "one.ctxindex"))
    with PhotoIndex.open(archive) as many, PhotoIndex.open(one) as single:
        for photo in sorted(photos.rglob("[0-9].jpg")):
            assert many.search(photo) == single.search(photo)
        assert {f["name"]: f["reason"] for f in many.failures()} == {f["name"]: f["reason"] for f in single.failures()}
    for path in (archive, one):
        assert call("compact", path, "--by-name", "-q").code == 0
        assert call("verify", path, "-q").code == 0
    assert content(archive) == content(one), "byte for byte"


def segment_workers(raylet: int) -> set[int]:
    """Return the processes below a node that make segments."""
    found, level = set[int](), {raylet}
    while level:
        below = set[int]()
        for parent in level:
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                try:
                    below.update(map(int, task.read_text().split()))
                except OSError:
                    continue
        level = set(below)
        for process in below:
            try:
                if b"SegmentWorker" in Path(f"/proc/{process}/cmdline").read_bytes():
                    found.add(process)
                    level.discard(process)  # what it starts has its name until it is another program
            except OSError:
                continue
    return found


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_nodes_and_drivers_are_killed(
    call: Call, photos: Path, whole: Path, tmp_path: Path, content: Content
) -> None:
    archive = tmp_path / "many.ctxindex"
    command = [sys.executable, "-W", "ignore", str(NODES), "disturb", str(photos), str(archive), "--kills", "3"]
    flags = ["--", "--model", "ctx-small", "--list-size", "1"]
    done = subprocess.run([*command, *flags], stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["code"] in (0, 19), report
    # How many kills come in time depends on the machine; each kind comes once before there are more.
    assert sum(report["killed"].values()) >= 1, report
    assert not Path(f"{archive}.parts").exists() and not Path(f"{archive}.training").exists()
    with Index.open(archive) as index:
        assert len(index) == 12 and len(index.failures()) == 2
    compare(call, archive, whole, photos, content)


def test_a_stopped_worker_is_overtaken_and_the_display_names_what_limits(
    call: Call,
    cluster: Cluster,
    photos: Path,
    whole: Path,
    tmp_path: Path,
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The list that it holds is repeated by another worker, and the run ends without it."""
    monkeypatch.setattr(ray_pool, "_SLOW_SECONDS", 1.0)
    archive, stopped = tmp_path / "many.ctxindex", list[int]()

    def stop() -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not list(tmp_path.glob("*.parts/*.ctxsegment")):
            time.sleep(0.01)
        for process in sorted(set().union(*map(segment_workers, cluster.raylets)))[:1]:
            os.kill(process, signal.SIGSTOP)
            stopped.append(process)

    thread = threading.Thread(target=stop)
    thread.start()
    done = call("index", photos, *options(cluster, archive, "--json", "--list-size", "1"))
    thread.join()
    assert done.code == 19, done.err
    assert stopped, "it was running when the first segment was there"
    end = time.monotonic() + PATIENCE
    while is_alive(stopped[0]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(stopped[0]), "the end of the run ends it"
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith('{"event": "progress"')]
    indexing = [event for event in events if event["task"] == "indexing"]
    assert indexing[-1]["done"] == 14 and indexing[-1]["failed"] == 2
    assert indexing[-1]["limit"] in ("read", "decode", "network", "assign", "write")
    assert done.json["stages"]["network"] > 0 and done.json["stages"]["limit"] == indexing[-1]["limit"]
    assert not list(tmp_path.glob("*.parts"))
    compare(call, archive, whole, photos, content)


def test_gpus_decide_where_workers_run(call: Call, cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    """Two halves of one GPU that Ray was told of: two workers on its node at a time, none elsewhere where room is."""
    archive, most, is_over = tmp_path / "many.ctxindex", [0, 0], threading.Event()
    # One that the test before has ended may take its time to go.
    before = set[int]().union(*map(segment_workers, cluster.raylets))

    def watch() -> None:
        while not is_over.wait(0.05):
            for place, raylet in enumerate(cluster.raylets):
                most[place] = max(most[place], len(segment_workers(raylet) - before))

    thread = threading.Thread(target=watch)
    thread.start()
    done = call("index", photos, *options(cluster, archive, "--worker-gpus", "0.5", "-q"))
    is_over.set()
    thread.join()
    assert done.code == 19, done.err
    assert most == [2, 0]
    refused = call("index", photos, *options(cluster, tmp_path / "no", "--worker-gpus", "2", "-q"))
    assert refused.code == 2 and "too few for one worker" in refused.err and "1 GPUs" in refused.err
    # Three processors, but on two nodes: none has room for such a worker.
    refused = call("index", photos, *options(cluster, tmp_path / "no", "--worker-cpus", "3", "-q"))
    assert refused.code == 2 and "no machine of the cluster has room" in refused.err


def test_failures_of_all_workers_count(call: Call, cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    """No list has more than one photo that cannot be read."""
    archive = tmp_path / "many.ctxindex"
    done = call("index", photos, *options(cluster, archive, "--max-failures", "1", "-q"))
    assert done.code == 20 and "stopped: 2 of" in done.err, done.err
    done = call("index", photos, *options(cluster, archive, "--max-failures", "2", "-q"))
    assert done.code in (0, 19), done.err
    with Index.open(archive) as index:
        assert len(index) == 12 and len(index.failures()) == 2


@pytest.mark.long
def test_told_to_stop_it_keeps_what_is_finished_and_goes_on(
    call: Call, cluster: Cluster, photos: Path, whole: Path, tmp_path: Path, content: Content
) -> None:
    archive, parts = tmp_path / "many.ctxindex", tmp_path / "many.ctxindex.parts"
    command = ["index", str(photos), *options(cluster, archive, "--list-size", "1")]
    process = subprocess.Popen([sys.executable, "-m", "ctxdeploy", *command], stderr=subprocess.PIPE, text=True)
    while not list(parts.glob("*.ctxsegment")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    if process.returncode != 19:  # else it was done before
        assert process.returncode == 130 and "run the same command again to continue" in err, err
        with Index.open(archive) as index:
            assert 1 <= len(index) + len(index.failures()) <= 14
    done = call(*command, "-q")
    assert done.code in (0, 19), done.err
    assert not parts.exists() and not list(tmp_path.rglob(".work-*"))
    compare(call, archive, whole, photos, content)


def test_codebook_and_cells_of_global_vectors_are_trained_on_what_the_workers_extract(
    call: Call, cluster: Cluster, photos: Path, tmp_path: Path, content: Content
) -> None:
    archive, whole = tmp_path / "many.ctxindex", tmp_path / "whole.ctxindex"
    flags = ["--words", "40", "--global", "int8", "--global-cells", "2", "--training-photos", "9"]
    assert call("index", photos, "-o", whole, "--model", "ctx-small", *flags, "-q").code == 19
    done = call("index", photos, *options(cluster, archive, *flags, "-q", "--json"))
    assert done.code == 19, done.err
    report = done.json
    assert (report["indexed"], report["failed"], report["codebook"]["words"]) == (12, 2, 40)
    for path in (archive, whole):
        assert call("compact", path, "--by-name", "-q").code == 0
        assert call("verify", path, "-q").code == 0
    files = [
        {path.relative_to(one): path.read_bytes() for path in (*one.glob("vectors/*"), *one.glob("quantiser*"))}
        for one in (archive, whole)
    ]
    assert len(files[0]) == 2 and files[0] == files[1] and content(archive) == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.ctxindex", "whole.ctxindex"]
