"""Runs that are killed at any moment: nothing lost, nothing twice, the same archive in the end."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.index import Index
from ctxdeploy.runtime import Extractor

# Seconds for what takes some: no test fails because the machine is busy.
PATIENCE = 600
# Photos that can be read.
MANY = 54
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def many(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen photos under three names each, and four that cannot be read."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    for part in ("a", "b", "c"):
        shutil.copytree(photos, folder / part)
    whole = (photos / "coins_0.jpg").read_bytes()
    for number in range(4):
        (folder / "c" / f"cut_{number}.jpg").write_bytes(whole[: 500 + 300 * number])
    return folder


def _command(folder: Path, archive: Path, bundle: Bundle, *options: str) -> list[str]:
    command = [sys.executable, "-m", "ctxdeploy.cli.main", "index", str(folder), "-o", str(archive)]
    return [*command, "--model", str(bundle.path), "--commit-seconds", "0.2", "--training-photos", "30", *options]


def _finish(command: list[str]) -> dict[str, object]:
    done = subprocess.run([*command, "--json", "-q"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode in (0, 19), done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


def _current(archive: Path) -> bytes:
    """Return what names the state of an archive in force; nothing where there is none."""
    try:
        return (archive / "CURRENT").read_bytes()
    except FileNotFoundError:
        return b""


def _plan(call, folder: Path, archive: Path, bundle: Bundle) -> dict[str, int]:
    plan = call("index", folder, "-o", archive, "--model", bundle.path, "--dry-run", "--json").json[0]
    return {kind: plan[kind] for kind in ("new", "changed", "unchanged", "given_up")}


def _content(archive: Path) -> dict[str, str]:
    """Return the hash of every file that is the same whenever the same photos were added in the same order."""
    files = [*archive.glob("shards/*"), *archive.glob("names/*"), archive / "codebook.safetensors"]
    return {str(path.relative_to(archive)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_archive(
    call, bundle: Bundle, photos: Path, many: Path, tmp_path: Path
) -> None:
    calm, shaken = tmp_path / "calm.ctxindex", tmp_path / "shaken.ctxindex"
    words = ("--words", "40")
    start = time.monotonic()
    assert _finish(_command(many, calm, bundle, *words))["indexed"] == MANY
    seconds = time.monotonic() - start
    chance = random.Random(7)
    found = len(list(many.rglob("*.jpg")))
    seen, kills = [0], 0
    for turn in range(7):
        process = subprocess.Popen(_command(many, shaken, bundle, *words, "-q"), stderr=subprocess.DEVNULL)
        if turn % 2:  # as soon as something more is committed; else at any moment, the start of the program among them
            before = _current(shaken)
            while process.poll() is None and _current(shaken) == before:
                time.sleep(0.005)
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=seconds * chance.random() if turn < 6 else PATIENCE)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        code = process.wait()
        if (shaken / "CURRENT").exists():
            plan = _plan(call, many, shaken, bundle)
            assert sum(plan.values()) == found, "every photo is indexed, given up, or to be done"
            assert plan["unchanged"] >= seen[-1], "what was committed stays"
            seen.append(plan["unchanged"])
            with Index.open(shaken) as index:
                assert index.verify() == []
                names = list(index.names())
                assert len(names) == len(set(names)) == plan["unchanged"]
        if code in (0, 19):
            break
    assert code in (0, 19) and kills >= 2 and len(seen) > 2
    assert _finish(_command(many, shaken, bundle, *words))["unchanged"] == MANY
    queries = sorted((photos.parent / "queries").iterdir())
    extractor = Extractor(bundle)
    with Index.open(calm) as one, Index.open(shaken) as other:
        for photo in queries:
            descriptors = extractor.extract_one(photo)
            assert [(h.name, h.score) for h in one.search(descriptors, MANY)] == [
                (h.name, h.score) for h in other.search(descriptors, MANY)
            ]
        assert {f["name"] for f in one.failures()} == {f["name"] for f in other.failures()}
    for archive in (calm, shaken):
        assert call("compact", archive, "-q").code == 0
        with Index.open(archive, writable=True) as index:
            index.collect_garbage()
    assert _content(calm) == _content(shaken), "byte for byte"
    assert not shaken.with_name("shaken.ctxindex.training").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 143, marks=pytest.mark.long),  # taken as SIGTERM is
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.long),  # tests/cli/test_continue.py sends it too
    ],
)
def test_told_to_end_it_commits_and_goes_on_later(
    call, bundle: Bundle, many: Path, shared_archive: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    archive = tmp_path / "a.ctxindex"
    codebook = ("--codebook", str(shared_archive / "codebook.safetensors"))
    command = [*_command(many, archive, bundle, *codebook), "--json", "--commit-seconds", "3600"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if '"progress"' in line and json.loads(line)["done"] >= 5:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    if process.returncode == code:  # else it was done before
        assert "run the same command again to continue" in err and "Traceback" not in err
        done = _plan(call, many, archive, bundle)
        assert done["unchanged"] >= 5, "what was extracted is committed"
    assert _finish(command)["failed"] in range(5)
    assert _plan(call, many, archive, bundle) == {"new": 0, "changed": 0, "unchanged": MANY, "given_up": 4}


def test_when_nobody_reads_the_progress_any_more_what_was_extracted_is_kept(
    bundle: Bundle, many: Path, shared_archive: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "a.ctxindex"
    codebook = ("--codebook", str(shared_archive / "codebook.safetensors"))
    command = [*_command(many, archive, bundle), "--json", "--commit-seconds", "3600", *codebook]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    next(line for line in process.stderr if '"progress"' in line)
    process.stderr.close()
    assert process.wait(timeout=PATIENCE) == 1
    with Index.open(archive) as index:
        assert len(index) >= 1 and index.verify() == []


def test_queries_see_what_is_committed_while_the_run_goes_on(
    bundle: Bundle, many: Path, shared_archive: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "a.ctxindex"
    codebook = ("--codebook", str(shared_archive / "codebook.safetensors"))
    descriptors = Extractor(bundle).extract_one(many / "a" / "astronaut_0.jpg")
    process = subprocess.Popen(_command(many, archive, bundle, "-q", *codebook), stderr=subprocess.DEVNULL)
    sizes = []
    while process.poll() is None:
        if (archive / "CURRENT").exists():
            with Index.open(archive) as index:
                sizes.append(len(index))
                if len(index):
                    assert index.search(descriptors)[0].name.endswith("astronaut_0.jpg")
        time.sleep(0.05)
    assert process.wait() == 19
    assert sizes == sorted(sizes)
    assert any(0 < size < MANY for size in sizes), "it grew before our eyes"


def test_a_full_disk_stops_the_run_and_costs_nothing_that_was_committed(
    call, bundle: Bundle, many: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 16 KB: manifests do not, the shard of 18 photos does."""
    import resource

    folder, archive = tmp_path / "photos", tmp_path / "a.ctxindex"
    shutil.copytree(many / "a", folder / "a")
    assert _finish([*_command(folder, archive, bundle), "--words", "512"])["indexed"] == 18
    shutil.copytree(many / "b", folder / "b")
    command = [*_command(folder, archive, bundle), "--commit-seconds", "3600"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, 16 << 10))

    # Bytecode of which half is left would end whoever imports the module next.
    none = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    full = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=limit, timeout=PATIENCE, env=none
    )
    assert full.returncode == 18, full.stderr
    assert "Traceback" not in full.stderr and full.stderr.splitlines()[-1].startswith("ctxdeploy: error: ")
    with Index.open(archive) as index:
        assert index.verify() == [] and len(index) == 18
    assert _finish(command)["indexed"] == 18
    with Index.open(archive) as index:
        assert index.verify() == [] and len(index) == 36


def test_a_second_run_at_the_same_time_is_refused_in_one_line(bundle: Bundle, many: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.ctxindex"
    first = subprocess.Popen(_command(many, archive, bundle, "-q"), stderr=subprocess.DEVNULL)
    spool = archive.with_name("a.ctxindex.training")
    end = time.monotonic() + PATIENCE
    # The folder is there before it is locked, and what it keeps is written under the lock.
    while not list(spool.glob("*/*.safetensors")) and first.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # it might end before the other one is there
    second = subprocess.run(
        _command(many, archive, bundle), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    first.kill()
    first.wait()
    assert second.returncode == 15, second.stderr
    assert "Traceback" not in second.stderr and "is being written by process" in second.stderr.splitlines()[-1]
