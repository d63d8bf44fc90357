"""The writer's lease, step by step: two writers in every order of their steps, either of them dead at every step.

The steps are the real calls of the operating system, in a real folder. Each writer takes the other for dead whenever it
looks, which is the worst that clocks can do, and ``flock`` does nothing. At every moment the state in force must be
whole, each state must hold what the one before held, and what a writer was told is committed must be there at the end.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core import files
from ctxdeploy.core.errors import ArchiveError, LeaseLostError
from ctxdeploy.index.config import IndexConfig
from ctxdeploy.index.maintenance import garbage
from ctxdeploy.index.maintenance.garbage import collect_garbage
from ctxdeploy.index.storage import lease as leases
from ctxdeploy.index.storage.lease import WriterLease
from ctxdeploy.index.storage.manifest import FileEntry, Manifest, ShardEntry, manifest_numbers, publish, store
from ctxdeploy.index.storage.pins import read_current

STEPS = ("mkdir", "rmdir", "unlink", "replace", "rename", "link", "open", "listdir")
FULL = os.environ.get("CTXDEPLOY_FULL") == "1"
# Steps after which a writer is stopped for the other: each, or one in so many.
STRIDE = 1 if FULL else 3
CODEBOOK = FileEntry(file="codebook.safetensors", bytes=0, sha256="0" * 64)


class Crash(BaseException):
    """The process is gone: no clean-up of it has any effect."""


class Stage:
    """Lets one of several threads at a time take steps, and watches what they do to an archive.

    Args:
        folder: the archive.
        monkeypatch: puts the steps in place of the calls of ``os``.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._back = threading.Semaphore(0)
        self._turns: dict[str, threading.Semaphore] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._crashed: set[str] = set()
        self._ended: set[str] = set()
        self.histories = [read_current(folder).codebook_id]
        self.numbers = [read_current(folder).number]
        self.errors: list[BaseException] = []
        self._real = {name: getattr(os, name) for name in STEPS}
        for name in STEPS:
            monkeypatch.setattr(os, name, self._step(name))

    def _step(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            who = threading.current_thread().name
            if who not in self._turns:
                return self._real[name](*arguments, **named)
            self._pause(who)
            result = self._real[name](*arguments, **named)
            if name in ("replace", "rename", "unlink", "rmdir"):
                self._watch(Path(arguments[1]) if name == "replace" else None)
            return result

        return call

    def _pause(self, who: str) -> None:
        self._back.release()
        self._turns[who].acquire()
        if who in self._crashed:
            raise Crash

    def _watch(self, target: Path | None) -> None:
        """Read the state in force as a reader would, whose calls are no steps."""
        name, _ = (self._folder / "CURRENT").read_text().split()
        with self._outside():
            manifest = read_current(self._folder)
        assert manifest.number == int(name[9:-5])
        for entry in manifest.shards:
            assert (self._folder / entry.file).exists(), f"{entry.file} of the state in force is gone"
        if target is not None and target.name == "CURRENT":
            self.histories.append(manifest.codebook_id)
            self.numbers.append(manifest.number)

    @contextmanager
    def _outside(self) -> Iterator[None]:
        thread = threading.current_thread()
        name, thread.name = thread.name, "outside"
        try:
            yield
        finally:
            thread.name = name

    def start(self, who: str, act: Callable[[], None]) -> None:
        """Let a thread begin, and stop before its first step."""

        def run() -> None:
            try:
                self._pause(who)
                act()
            except Crash:
                pass
            except BaseException as error:
                self.errors.append(error)
            self._ended.add(who)
            self._back.release()

        self._turns[who] = threading.Semaphore(0)
        self._threads[who] = threading.Thread(target=run, name=who)
        self._threads[who].start()
        self._back.acquire()

    def go(self, who: str, steps: int | None = None) -> int:
        """Let a thread take so many steps, or all; return how many it took."""
        taken = 0
        while who not in self._ended and (steps is None or taken < steps):
            self._turns[who].release()
            self._back.acquire()
            taken += 1
        return taken

    def crash(self, who: str) -> None:
        """Let a thread be gone before its next step."""
        self._crashed.add(who)
        self.go(who)

    def close(self) -> None:
        """End all threads."""
        for who, thread in self._threads.items():
            self.crash(who)
            thread.join()


def make(folder: Path) -> None:
    """Write an archive that an interrupted writer left a garbage shard in, and its lease."""
    (folder / "shards").mkdir(parents=True)
    (folder / "lease" / "5").mkdir(parents=True)
    (folder / "lease" / "5" / "manifest-000001.json").write_text("about to be removed")
    manifest = Manifest(number=3, config=IndexConfig(), source=None, codebook=CODEBOOK, codebook_id="0", words=1, dim=1)
    publish(folder, manifest)
    store(folder, "shards/{}.safetensors", [b"the shard of both"])


def write(folder: Path, who: str, told: list[str]) -> None:
    """Take the lease, remove garbage, commit twice, and note what is said to be committed."""
    lease = WriterLease(folder)
    try:
        manifest = read_current(folder)
        number = max(manifest_numbers(folder))
        collect_garbage(folder, [manifest], [], lease)
        for commit in (f"{who}1", f"{who}2"):
            number += 1
            with lease.fenced():
                shard = store(folder, "shards/{}.safetensors", [b"the shard of both"])
            manifest = replace(
                manifest,
                number=number,
                codebook_id=f"{manifest.codebook_id} {commit}",
                shards=(ShardEntry(**shard.metadata(), images=1, postings=1),),
            )
            with lease.fenced() as through:
                publish(folder, manifest, through)
            told.append(commit)
    except LeaseLostError:
        pass
    finally:
        lease.release()


@pytest.fixture(autouse=True)
def worst_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is looked at is dead at once; no locks; nothing is synced, which is no step of the protocol."""
    monkeypatch.setattr(leases, "_wait", lambda *arguments: None)
    monkeypatch.setattr(WriterLease, "_is_over", lambda self, holder: False)
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)
    monkeypatch.setattr(files, "sync_file", lambda path: None)
    monkeypatch.setattr(files, "sync_folder", lambda path: None)


def play(folder: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[[Stage], None]) -> list[str]:
    """Let two writers act as a script says; check all that must hold; return what is in the archive."""
    make(folder)
    told: list[str] = []
    with monkeypatch.context() as patch:
        stage = Stage(folder, patch)
        try:
            for who in ("a", "b"):
                stage.start(who, lambda who=who: write(folder, who, told))  # type: ignore[misc]
            script(stage)
        finally:
            stage.close()
    if stage.errors:
        raise stage.errors[0]
    assert sorted(set(stage.numbers)) == stage.numbers, f"numbers do not rise: {stage.numbers}"
    for before, after in zip(stage.histories, stage.histories[1:], strict=False):
        assert after.startswith(f"{before} "), f"{after!r} lost something of {before!r}"
    write(folder, "next", told)  # whatever happened, the next writer gets in
    found = read_current(folder).codebook_id.split()
    assert set(told) <= set(found), f"{set(told) - set(found)} was said to be committed"
    assert {"next1", "next2"} <= set(found)
    assert len(os.listdir(folder / "lease")) == 1  # noqa: PTH208
    return found


def steps_of_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many steps a writer takes that nobody disturbs."""
    steps = []
    found = play(folder, monkeypatch, lambda stage: steps.append(stage.go("a")))
    assert found == ["0", "a1", "a2", "next1", "next2"]
    assert 30 < steps[0] < 120
    return steps[0]


def test_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def both(stage: Stage) -> None:
        stage.go("a")
        stage.go("b")

    assert play(tmp_path / "x", monkeypatch, both) == ["0", "a1", "a2", "b1", "b2", "next1", "next2"]


def test_dead_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(steps_of_one(tmp_path / "one", monkeypatch)):

        def script(stage: Stage, step: int = step) -> None:
            stage.go("a", step)
            stage.crash("a")
            stage.go("b")

        found = play(tmp_path / str(step), monkeypatch, script)
        assert {"b1", "b2"} <= set(found), step


def test_asleep_at_every_step_while_another_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stopped process or a suspended laptop does: it wakes after the other has ended, and goes on."""
    lost = 0
    for step in range(steps_of_one(tmp_path / "one", monkeypatch)):

        def script(stage: Stage, step: int = step) -> None:
            stage.go("a", step)
            stage.go("b")
            stage.go("a")

        found = play(tmp_path / str(step), monkeypatch, script)
        assert {"b1", "b2"} <= set(found), step
        lost += "a2" not in found
    assert lost > 20


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["both go on", "the first dies", "the second dies"])
def test_every_order_of_two_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """The first takes i steps, the second j, then one of them ends, or dies one step later, and then the other."""
    count = steps_of_one(tmp_path / "one", monkeypatch)
    for i in range(1, count, STRIDE):
        for j in range(1 + i % STRIDE, count, STRIDE):

            def script(stage: Stage, i: int = i, j: int = j) -> None:
                stage.go("a", i)
                stage.go("b", j)
                if ending == "the first dies":
                    stage.go("a", 1)
                    stage.crash("a")
                elif ending == "the second dies":
                    stage.crash("b")
                stage.go("a")
                stage.go("b")

            play(tmp_path / f"{i}-{j}", monkeypatch, script)


@pytest.mark.parametrize("broken", ["commits are not fenced", "removals are not fenced"])
def test_without_the_fence_this_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """The checks above find what they are there for."""
    if broken == "commits are not fenced":
        real = publish
        monkeypatch.setitem(globals(), "publish", lambda folder, manifest, through=None: real(folder, manifest))
    else:
        monkeypatch.setattr(garbage, "_remove", lambda path, through: path.unlink() or True)
    count = steps_of_one(tmp_path / "one", monkeypatch)
    seen = 0
    for step in range(count):

        def script(stage: Stage, step: int = step) -> None:
            stage.go("a", step)
            stage.go("b")
            stage.go("a")

        try:
            play(tmp_path / str(step), monkeypatch, script)
        except (AssertionError, ArchiveError):
            seen += 1
    assert seen > 0
