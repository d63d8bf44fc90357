"""Which lists go out when: lost workers, passing and lasting errors, stragglers, machines that come; Ray is played."""

import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ctxdeploy
from ctxdeploy.cluster import ray_pool
from ctxdeploy.cluster.config import ClusterConfig
from ctxdeploy.cluster.lists import NameList
from ctxdeploy.cluster.ray_pool import ATTEMPTS, UNSTARTED, RayPool
from ctxdeploy.cluster.unit import Receipt
from ctxdeploy.cluster.worker import Reply
from ctxdeploy.core.errors import ArchiveError, BackendError, ConfigError, MismatchError, StorageError
from ctxdeploy.core.locks import LockedError
from ctxdeploy.core.part import Part
from ctxdeploy.core.progress import Display

Answer = Callable[[int, int, bool], Any]


class RayError(Exception):
    """As Ray's."""


class RayTaskError(RayError):
    """As Ray's."""


class Task:
    """A call of a worker, and what comes of it: a reply, an error, or None for nothing ever."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


class PlayedRay:
    """Answers at once what ``answer(list, how often it went out before, is_repeat)`` says.

    Attributes:
        machines: what each machine has.
        workers: that were started.
        version: what a worker says when it has started.
        given: number of every list that went out, and whether it was a repetition.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, answer: Answer) -> None:
        self.machines, self.workers = [{"CPU": 2.0}], 0
        self.version: Any = ("machine", ctxdeploy.__version__)
        self.given: list[tuple[int, bool]] = []
        self._answer = answer

    def init(self, **_: Any) -> None:
        """Join."""

    def shutdown(self) -> None:
        """Leave."""

    def put(self, value: Any) -> Any:
        return value

    def kill(self, worker: Any) -> None:
        """End a worker."""

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": machine} for machine in self.machines] + [{"Alive": False}]

    def remote(self, **_: Any) -> Callable[[type], Any]:
        return lambda _: SimpleNamespace(remote=self._start)

    def _start(self, _: Any) -> Any:
        self.workers += 1
        version = SimpleNamespace(remote=lambda: Task(self.version))
        return SimpleNamespace(make=SimpleNamespace(remote=self._make), version=version)

    def _make(self, names: NameList, *, is_repeat: bool) -> Task:
        number = names.part.number
        before = sum(given == number for given, _ in self.given)
        self.given.append((number, is_repeat))
        return Task(self._answer(number, before, is_repeat))

    def wait(self, tasks: list[Task], timeout: float) -> tuple[list[Task], list[Task]]:
        return [task for task in tasks if task.answer is not None][:1], []

    def get(self, task: Task) -> Any:
        if isinstance(task.answer, Exception):
            raise task.answer
        return task.answer


def done(number: int, count: int = 4) -> Reply:
    receipt = Receipt(
        segment=Path(str(number)), id=str(number), is_new=True, photos=3, images=3, failed=0, bytes=1, seconds=1.0
    )
    return Reply(part=Part(number=number, count=count), receipt=receipt, reasons=Counter())


def failed(number: int, error: str) -> Reply:
    return Reply(part=Part(number=number, count=4), error=error, text="host: no")


def locked(number: int) -> Reply:
    return Reply.of_error(Part(number=number, count=4), LockedError("it is written by process 1"))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[PlayedRay, list[int]]]:
    """Return a function that runs four lists and returns Ray and the lists in the order in which they were done."""
    clock = iter(range(0, 10**6, 20))  # every look at the clock is 20 seconds later
    monkeypatch.setattr(ray_pool, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: float(next(clock))))

    def run(answer: Answer, **attributes: Any) -> tuple[PlayedRay, list[int]]:
        ray = PlayedRay(answer)
        vars(ray).update(attributes)
        monkeypatch.setattr(ray_pool, "require", lambda *_: ray)
        spec: Any = None
        config = ClusterConfig(address="auto", worker_cpus=1, worker_gpus=ray.machines[0].get("asked", 0.0))
        pool = RayPool(config, spec, Display(quiet=True))
        lists = [NameList(part=Part(number=number, count=4), names=["a", "b", "c"]) for number in range(1, 5)]
        return ray, [reply.part.number for reply in pool.run(lists)]

    return run


Play = Callable[..., tuple[PlayedRay, list[int]]]


@pytest.mark.parametrize("given", ["", "127.0.0.1:1"])
def test_the_cluster_that_was_started_last_may_be_gone(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at once: Ray itself tries for minutes to reach what its file of this machine names."""
    monkeypatch.setenv("RAY_ADDRESS", given)
    ray: Any = PlayedRay(lambda *_: None)
    monkeypatch.setattr(ray_pool, "require", lambda *_: ray)
    monkeypatch.setattr(ray, "init", None)  # not called
    if not given:
        services = SimpleNamespace(get_ray_address_from_environment=lambda address, folder: "127.0.0.1:1")
        ray._private = SimpleNamespace(services=services)
    spec: Any = None
    with pytest.raises(ConfigError, match=r"--cluster auto: .*nothing answers at 127\.0\.0\.1:1: .*ray start --head"):
        RayPool(ClusterConfig(address="auto"), spec, Display(quiet=True))


def test_ray_says_what_auto_means() -> None:
    """What we ask it for is there, in the version that is installed."""
    services = pytest.importorskip("ray._private.services")
    assert list(inspect.signature(services.get_ray_address_from_environment).parameters) == ["addr", "temp_dir"]


def test_every_list_once_by_as_many_workers_as_there_is_room_for(play: Play) -> None:
    ray, order = play(lambda number, *_: done(number))
    assert sorted(order) == [1, 2, 3, 4] and ray.workers == 2 and len(ray.given) == 4


def test_a_lost_worker_is_replaced_and_its_list_goes_out_again(play: Play) -> None:
    ray, order = play(lambda number, before, _: RayError("lost") if number == 2 and before < 2 else done(number))
    assert sorted(order) == [1, 2, 3, 4] and ray.workers >= 3 and len(ray.given) == 6


def test_a_list_that_loses_every_worker_ends_the_run(play: Play) -> None:
    with pytest.raises(BackendError, match=rf"list 2 of 4 lost its worker {ATTEMPTS} times.*first photo is 'a'"):
        play(lambda number, *_: RayError("lost") if number == 2 else done(number))


def test_errors_that_pass_are_tried_again_and_others_end_the_run(play: Play) -> None:
    ray, order = play(lambda n, before, _: failed(n, "ArchiveError") if n == 3 and not before else done(n))
    assert sorted(order) == [1, 2, 3, 4] and ray.workers == 2
    with pytest.raises(MismatchError, match="host: no"):
        play(lambda number, *_: failed(number, "MismatchError") if number == 1 else done(number))
    with pytest.raises(StorageError, match="host: no"):
        play(lambda number, *_: failed(number, "StorageError") if number == 4 else done(number))
    with pytest.raises(RayTaskError):
        play(lambda number, *_: RayTaskError("a defect") if number == 1 else done(number))


def test_a_straggler_is_repeated_and_the_first_receipt_counts(play: Play) -> None:
    ray, order = play(lambda number, before, _: None if number == 2 and not before else done(number))
    assert sorted(order) == [1, 2, 3, 4] and ray.given[-1] == (2, True)
    assert ray.given.count((2, True)) == 1, "not more than one repetition"


def test_machines_that_come_are_used(play: Play) -> None:
    def answer(number: int, before: int, is_repeat: bool) -> Any:
        if number == 1:
            machines.append({"CPU": 1.0})
        return done(number)

    machines = [{"CPU": 2.0}]
    ray, order = play(answer, machines=machines)
    assert sorted(order) == [1, 2, 3, 4] and ray.workers == 3


@pytest.mark.parametrize(
    ("machines", "workers"),
    [
        ([{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 0.5}], 2),
        ([{"CPU": 4.0, "GPU": 1.0, "asked": 0.1}, {"CPU": 4.0}], 4),
        ([{"CPU": 64.0, "GPU": 1.0, "asked": 0.5}, {"CPU": 1.0, "GPU": 4.0}], 3),
    ],
)
def test_a_worker_has_room_on_one_machine_or_none(play: Play, machines: list[dict[str, float]], workers: int) -> None:
    """Half a processor here and half a one there are none; shares of a GPU are counted without errors of rounding."""
    ray, order = play(lambda number, *_: done(number), machines=machines)
    assert sorted(order) == [1, 2, 3, 4] and ray.workers == workers


def test_a_list_that_another_process_holds_is_waited_for_and_then_begun_elsewhere(play: Play) -> None:
    """As the worker of a machine that is cut off holds it; that is no attempt that failed."""
    ray, order = play(lambda number, _, is_repeat: locked(number) if number == 2 and not is_repeat else done(number))
    assert sorted(order) == [1, 2, 3, 4]
    assert [repeat for number, repeat in ray.given if number == 2] == [False, False, False, True]


def test_other_versions_and_machines_that_start_nothing_end_the_run(play: Play) -> None:
    with pytest.raises(ConfigError, match=r"there has ctxdeploy 0\.1\.0, and this machine"):
        play(lambda number, *_: done(number), version=("there", "0.1.0"))
    with pytest.raises(BackendError, match=f"{UNSTARTED} workers in turn were lost before they began.*no module"):
        play(lambda number, *_: done(number), version=RayError("no module"))
    with pytest.raises(ConfigError, match="no machine of the cluster has room"):
        play(lambda number, *_: done(number), machines=[{"CPU": 0.5}, {"CPU": 0.5}])


def test_errors_keep_their_class_or_that_which_stands_for_it() -> None:
    reply = locked(1)
    assert reply.error == "ArchiveError" and reply.is_locked
    assert type(reply.raised()) is ArchiveError and "process 1" in str(reply.raised())
