"""Workers of parts that are killed at any moment, again and again: the archive of one machine in the end."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.index import Index

PARTS = 3
PATIENCE = 600
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")]


def start(photos: Path, parts: Path, part: int) -> "subprocess.Popen[bytes]":
    options = ["-o", str(parts), "--model", "ctx-small", "--part", f"{part}/{PARTS}", "--commit-seconds", "0", "-q"]
    return subprocess.Popen([sys.executable, "-m", "ctxdeploy", "extract", str(photos), *options])


def written(work: Path) -> int:
    """Return how many states a work archive has had."""
    return len(list(work.glob("manifest-*.json")))


def test_killed_again_and_again_the_parts_become_the_archive_of_one_machine(
    call: Callable[..., Any],
    photos: Path,
    whole: Path,
    tmp_path: Path,
    content: Callable[[Path], dict[str, str]],
) -> None:
    parts, archive = tmp_path / "parts", tmp_path / "many.ctxindex"
    chance = random.Random(11)
    kills = committed = 0
    todo = set(range(1, PARTS + 1))
    for turn in range(40):
        if not todo:
            break
        workers = {part: start(photos, parts, part) for part in todo}
        before = {work: written(work) for work in parts.glob(".work-*")}
        end = time.monotonic() + PATIENCE
        if turn % 3:  # as soon as one of them has committed something more; else at any moment
            while time.monotonic() < end and any(worker.poll() is None for worker in workers.values()):
                if any(written(work) > before.get(work, 0) + 1 for work in parts.glob(".work-*")):
                    break
                time.sleep(0.005)
        else:
            time.sleep(chance.random() * 4)
        if turn < 3:
            for worker in workers.values():
                if worker.poll() is None:
                    worker.send_signal(signal.SIGKILL)
                    kills += 1
        codes = {part: worker.wait(timeout=PATIENCE) for part, worker in workers.items()}
        assert set(codes.values()) <= {0, -signal.SIGKILL}
        todo -= {part for part, code in codes.items() if code == 0}
        works = [work for work in parts.glob(".work-*") if (work / "CURRENT").exists()]
        for work in works:
            with Index.open(work) as index:
                committed = max(committed, len(index))
                assert index.verify() == []
    assert not todo and kills >= 4 and committed >= 1
    assert len(list(parts.glob("*.ctxsegment"))) == PARTS and not list(parts.glob(".work-*"))
    assert call("publish", archive, parts, "-q").code == 19
    one = Path(shutil.copytree(whole, tmp_path / "one.ctxindex"))
    with PhotoIndex.open(archive) as many, PhotoIndex.open(one) as single:
        for photo in sorted(photos.rglob("[0-9].jpg")):
            assert many.search(photo) == single.search(photo)
        assert [f["name"] for f in many.failures()] == [f["name"] for f in single.failures()]
    for path in (archive, one):
        assert call("compact", path, "-q").code == 0
    assert content(archive) == content(one), "byte for byte"


def test_publishing_is_killed_at_any_moment(call: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    """A new archive is there with all its photos or not at all."""
    parts, archive = tmp_path / "parts", tmp_path / "new.ctxindex"
    for part in (1, 2):
        assert call("extract", photos, "-o", parts, "--model", "ctx-small", "--part", f"{part}/2", "-q").code == 0
    script = (
        "import os, signal, sys\n"
        "point, count = int(sys.argv[1]), 0\n"
        "def hook(event, arguments):\n"
        "    global count\n"
        "    if event in ('os.rename', 'os.link', 'os.mkdir') and str(arguments[0]).startswith(sys.argv[2]):\n"
        "        count += 1\n"
        "        if count == point:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(hook)\n"
        "from ctxdeploy.cli.main import run\n"
        "sys.exit(run(sys.argv[3:]))\n"
    )
    point, kills = 1, 0
    while True:
        command = [sys.executable, "-c", script, str(point), str(tmp_path), "publish", str(archive), str(parts), "-q"]
        code = subprocess.run(command, check=False, stderr=subprocess.DEVNULL, timeout=PATIENCE).returncode
        if code != -signal.SIGKILL:
            break
        kills += 1
        assert not archive.exists(), "the rename of the folder is the last of these calls"
        point += 4
    assert code == 19 and kills >= 3
    with Index.open(archive) as index:
        assert len(index) == 12 and index.verify() == []
