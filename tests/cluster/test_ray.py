"""``index --cluster`` on a Ray of this machine: the archive of one machine, though workers and drivers are killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.core.locks import WriterLock
from ctxdeploy.index import Index

pytest.importorskip("ray")
PATIENCE = 600
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
Call = Callable[..., Any]


def command(photos: Path, archive: Path, *options: str) -> list[str]:
    given = ("--model", "ctx-small", "--cluster", "local", "--worker-cpus", "1", "--list-size", "3", "--json", *options)
    return [sys.executable, "-m", "ctxdeploy", "index", str(photos), "-o", str(archive), *given]


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


@contextmanager
def driver(arguments: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """Run a driver; whatever is left below it is ended."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        below = descendants(process.pid)
        process.kill()
        process.wait()
        for child in below:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue


def compare(call: Call, archive: Path, whole: Path, photos: Path, content: Callable[[Path], dict[str, str]]) -> None:
    one = Path(shutil.copytree(whole, archive.parent / "one.ctxindex"))
    with PhotoIndex.open(archive) as many, PhotoIndex.open(one) as single:
        for photo in sorted(photos.rglob("[0-9].jpg")):
            assert many.search(photo) == single.search(photo)
        assert {f["name"]: f["reason"] for f in many.failures()} == {f["name"]: f["reason"] for f in single.failures()}
    for path in (archive, one):
        assert call("compact", path, "--by-name", "-q").code == 0
        assert call("verify", path, "-q").code == 0
    assert content(archive) == content(one), "byte for byte"


@pytest.mark.long  # tests/cluster/test_nodes.py kills them too, and nodes
def test_workers_and_drivers_are_killed(
    call: Call, photos: Path, whole: Path, tmp_path: Path, content: Callable[[Path], dict[str, str]]
) -> None:
    archive, parts = tmp_path / "many.ctxindex", tmp_path / "many.ctxindex.parts"
    chance, kills = random.Random(3), {"worker": 0, "driver": 0}
    for turn in range(3):
        with driver(command(photos, archive, "--list-size", "1")) as process:
            end = time.monotonic() + PATIENCE
            finished = len(list(parts.glob("*.ctxsegment")))
            while process.poll() is None and time.monotonic() < end:
                workers = [pid for pid, title in descendants(process.pid).items() if "SegmentWorker" in title]
                works = list(parts.glob(".work-*"))
                if workers and works and kills["worker"] < 2 * (turn + 1):
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    kills["worker"] += 1
                    time.sleep(0.3)
                has_more = len(list(parts.glob("*.ctxsegment"))) > finished
                if turn < 2 and kills["worker"] > turn and has_more:
                    kills["driver"] += 1  # on leaving the block
                    break
                time.sleep(0.05)
            if turn < 2:
                continue
            _, err = process.communicate(timeout=PATIENCE)
            # 0 if a driver that was killed had published the two that cannot be decoded: they are not tried again.
            assert process.returncode in (0, 19), err
    # How many come in time depends on the machine; without any there is nothing to see.
    assert kills["worker"] >= 1, kills
    assert not parts.exists(), "what was published is not kept twice"
    with Index.open(archive) as index:
        assert len(index) == 12 and len(index.failures()) == 2
    compare(call, archive, whole, photos, content)


@pytest.mark.long  # tests/cluster/test_nodes.py trains one too
def test_a_codebook_is_trained_on_what_the_workers_extract(
    call: Call, photos: Path, tmp_path: Path, content: Callable[[Path], dict[str, str]]
) -> None:
    archive, whole = tmp_path / "many.ctxindex", tmp_path / "whole.ctxindex"
    options = ("--words", "40", "--training-photos", "9")
    assert call("index", photos, "-o", whole, "--model", "ctx-small", *options, "-q").code == 19
    with driver(command(photos, archive, *options)) as process:
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 19, err
    report = json.loads(out)
    assert (report["indexed"], report["failed"], report["codebook"]["words"]) == (12, 2, 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.ctxindex", "whole.ctxindex"]
    compare(call, archive, whole, photos, content)


def test_an_archive_grows_and_loses_photos(call: Call, photos: Path, tmp_path: Path) -> None:
    """Settings of the archive hold, changed photos are replaced, --sync removes; then there is nothing to do."""
    folder, archive = Path(shutil.copytree(photos, tmp_path / "photos")), tmp_path / "a.ctxindex"
    shutil.rmtree(folder / "rocket")
    assert call("index", folder, "-o", archive, "--model", "ctx-small", "--geometry", "-q").code == 19
    shutil.copytree(photos / "rocket", folder / "rocket")
    shutil.copyfile(photos / "rocket" / "0.jpg", folder / "coins" / "0.jpg")
    (folder / "coins" / "1.jpg").unlink()
    done = subprocess.run(command(folder, archive, "--sync"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Index.open(archive) as index:
        assert index.config.geometry == "codes" and len(index) == 11 and "coins/1.jpg" not in index
        assert index.verify() == [] and len(index.failures()) == 2
    again = call("index", folder, "-o", archive, "--dry-run", "--json").json
    assert (again["new"], again["changed"], again["given_up"]) == (0, 0, 2)


def test_what_a_cluster_cannot_do_is_refused(
    call: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # else Ray looks for clusters that others have left
    given = ("index", photos, "-o", tmp_path / "a", "--model", "ctx-small", "-q")
    for options, text in (
        (("--cluster", "here"), "'here' is neither auto nor local"),
        (("--cluster", "local", "--list-size", "0"), "--list-size 0 is outside 1"),
        (("--cluster", "local", "--device", "cuda"), "cuda runs on a GPU, and no worker has one: give --worker-gpus 1"),
        (("--cluster", "local", "--backend", "tensorrt"), "tensorrt runs on a GPU, and no worker has one"),
        (("--cluster", "auto"), "there is no Ray cluster"),
        (("--cluster", "ray://127.0.0.1:1"), "there is no Ray cluster"),
        (("--cluster", "local", "--worker-cpus", "999"), "has room for a worker of --worker-cpus 999"),
    ):
        done = call(*given, *options)
        assert done.code == 2 and text in done.err and "Traceback" not in done.err, done.err
    done = call(*given, "--cluster", "local", "--global", "pq")
    assert done.code == 17 and "--global pq is trained on 256 photos or more" in done.err
    assert not (tmp_path / "a").exists()


def test_one_driver_at_a_time(call: Call, photos: Path, tmp_path: Path) -> None:
    archive, parts = tmp_path / "a.ctxindex", tmp_path / "a.ctxindex.parts"
    parts.mkdir()
    lock = WriterLock(parts)
    done = call("index", photos, "-o", archive, "--model", "ctx-small", "--cluster", "local", "-q")
    lock.release()
    assert done.code == 15 and f"is being written by process {os.getpid()}" in done.err
    done = call("index", photos, "-o", archive, "--model", "ctx-small", "--cluster", "127.0.0.1:1", "-q")
    assert done.code == 2 and "there is no Ray cluster" in done.err
    assert not parts.exists(), "nothing was done, and nothing is left"
