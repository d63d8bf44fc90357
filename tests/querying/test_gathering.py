"""Searches that are gathered: what comes while another runs goes together, and nobody has another's result or error."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy import IndexedPhoto, PhotoIndex, QueryConfig
from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, CtxdeployError, DeadlineError
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.querying.answerer import MAX_WAITING, Answerer
from ctxdeploy.querying.gathering import Gathering

LONG = 300.0
# What stands for a described query; the search gives it back as (query, "found").
Query = Any


def soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + LONG
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


class Search:
    """Notes its calls; each waits until ``let``, unless it is free. A query of ``bad`` spoils its call."""

    def __init__(self, *, free: bool = False) -> None:
        self.calls, self.free = list[list[Query]](), free
        self._allowed = threading.Semaphore(0)

    def __call__(self, queries: Sequence[Query]) -> list[Any]:
        self.calls.append(list(queries))
        if self.free:
            time.sleep(0.0005)  # for others to come meanwhile
        else:
            assert self._allowed.acquire(timeout=LONG)
        if any(isinstance(query, str) and query.startswith("bad") for query in queries):
            raise ConfigError(f"spoilt: {queries}")
        if "interrupted" in queries:
            raise KeyboardInterrupt
        return [(query, "found") for query in queries]

    def let(self, calls: int = 1) -> None:
        self._allowed.release(calls)


class Callers:
    """Threads that ask one gathering, each once it is known what became of those before."""

    def __init__(self, gathering: Gathering, search: Search, pool: ThreadPoolExecutor) -> None:
        self.gathering, self.search, self._pool = gathering, search, pool

    def waiting(self) -> int:
        return sum(map(len, self.gathering._waiting.values()))

    def ask(self, *queries: Query, kind: str = "kind", deadline: Deadline | None = None) -> Future[list[Any]]:
        before = self.waiting() + len(self.search.calls)
        found = self._pool.submit(self.gathering.find, kind, list(queries), self.search, deadline)
        assert soon(lambda: self.waiting() + len(self.search.calls) > before)
        return found


@pytest.fixture
def callers() -> Any:
    with ThreadPoolExecutor(100) as pool:
        made = Callers(Gathering(), Search(), pool)
        yield made
        made.search.let(100)
    assert not made.gathering._running and not any(made.gathering._waiting.values())


def found(*queries: Query) -> list[Any]:
    return [(query, "found") for query in queries]


def test_who_is_alone_searches_at_once_in_his_own_thread() -> None:
    seen = []

    def search(queries: Sequence[Query]) -> Any:
        seen.append(threading.get_ident())
        return found(*queries)

    assert Gathering().find("kind", ["a", "b"], search) == found("a", "b")  # type: ignore[list-item]
    assert seen == [threading.get_ident()]


def test_those_that_come_while_one_runs_go_together(callers: Callers) -> None:
    first = callers.ask("a")
    others = [callers.ask("b"), callers.ask("c", "d", "e"), callers.ask("f")]
    elsewhere = callers.ask("z", kind="other")
    assert callers.search.calls == [["a"], ["z"]], "another kind does not wait"
    callers.search.let(3)
    assert first.result(LONG) == found("a") and elsewhere.result(LONG) == found("z")
    assert [one.result(LONG) for one in others] == [found("b"), found("c", "d", "e"), found("f")]
    assert callers.search.calls[2:] == [["b", "c", "d", "e", "f"]]


def test_no_more_go_together_than_may(callers: Callers) -> None:
    first = callers.ask(0)
    others = [callers.ask(number, -number, -number) for number in range(1, 31)]
    callers.search.let(3)
    assert first.result(LONG) == found(0)
    for number, one in enumerate(others, 1):
        assert one.result(LONG) == found(number, -number, -number)
    assert [len(call) for call in callers.search.calls] == [1, 63, 27] and MAX_WAITING == 64


def test_several_may_run_beside_each_other() -> None:
    with ThreadPoolExecutor(10) as pool:
        callers = Callers(Gathering(beside=2), Search(), pool)
        all_of_them = [callers.ask(number) for number in range(5)]
        assert callers.search.calls == [[0], [1]]
        callers.search.let(5)
        assert [one.result(LONG) for one in all_of_them] == [found(number) for number in range(5)]
        assert not callers.gathering._running


def test_the_error_of_one_is_nobody_elses(callers: Callers) -> None:
    first = callers.ask("bad first")
    others = [callers.ask(query) for query in ("b", "bad", "c")]
    callers.search.let(5)
    with pytest.raises(ConfigError, match="bad first"):
        first.result(LONG)
    assert others[0].result(LONG) == found("b") and others[2].result(LONG) == found("c")
    with pytest.raises(ConfigError, match=r"spoilt: \['bad'\]"):
        others[1].result(LONG)
    assert sorted(map(tuple, callers.search.calls[1:])) == [("b",), ("b", "bad", "c"), ("bad",), ("c",)]


def test_an_interrupted_thread_takes_nobody_with_it(callers: Callers) -> None:
    first, second, third = callers.ask("a"), callers.ask("interrupted"), callers.ask("c")
    callers.search.let(3)
    assert first.result(LONG) == found("a") and third.result(LONG) == found("c")
    with pytest.raises(KeyboardInterrupt):
        second.result(LONG)
    assert callers.search.calls == [["a"], ["interrupted", "c"], ["c"]]


def test_what_nobody_waits_for_is_not_searched(callers: Callers) -> None:
    deadline = Deadline()
    first, second, third = callers.ask("a"), callers.ask("b", deadline=deadline), callers.ask("c")
    late = callers.ask("d", deadline=Deadline(0.2))
    deadline.give_up()
    for one in (second, late):
        with pytest.raises(DeadlineError):
            one.result(LONG)
    callers.search.let(2)
    assert first.result(LONG) == found("a") and third.result(LONG) == found("c")
    assert callers.search.calls == [["a"], ["c"]]


def test_a_race_of_callers_errors_and_deadlines() -> None:
    """Every call ends, with its own; and nothing is left behind."""
    gathering, search, wrong, ends = Gathering(beside=2), Search(free=True), list[Any](), list[str]()

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        for turn in range(150):
            query = f"{'bad' if random.random() < 0.1 else 'q'} {number} {turn}"
            deadline = Deadline(float(random.uniform(0, 0.002)) if random.random() < 0.3 else None)
            if random.random() < 0.2:
                threading.Thread(target=deadline.give_up).start()
            try:
                result = gathering.find(number % 2, [query], search, deadline)  # type: ignore[list-item]
            except CtxdeployError as error:
                ends.append(type(error).__name__)
                if isinstance(error, ConfigError) and str(error) != f"spoilt: {[query]}":
                    wrong.append((query, error))
                continue
            ends.append("found")
            if result != found(query) or query.startswith("bad"):
                wrong.append((query, result))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert not wrong and len(ends) == 16 * 150 and set(ends) >= {"found", "ConfigError"}
    assert any(len(call) > 1 for call in search.calls)
    assert not gathering._running and not any(gathering._waiting.values())


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gathered") / "photos"
    folder.mkdir()
    random = np.random.default_rng(1)
    for scene in ("coffee", "rocket", "chelsea", "coins"):
        for view in range(2):
            make_view(sample_photo(scene), random, ViewConfig(longest=240)).save(folder / f"{scene}_{view}.png")
    with PhotoIndex.create(folder.with_name("a.ctxindex")) as made:
        made.add(folder)
    return folder.with_name("a.ctxindex")


def test_threads_get_the_answers_of_a_lone_caller(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, find = list[int](), Answerer.find

    def noting(self: Answerer, queries: Sequence[Query]) -> Any:
        together.append(len(queries))
        return find(self, queries)

    monkeypatch.setattr(Answerer, "find", noting)
    configs = [QueryConfig(expand=2), QueryConfig(top=3, prefix=("c",)), QueryConfig(turn="none")]
    with PhotoIndex.open(archive) as index:
        index._answerers._gathering = Gathering(beside=1)
        photos = [
            *map(archive.parent.joinpath, ("photos/coffee_0.png",)),
            *(IndexedPhoto(name=n) for n in index.names()),
        ]
        asked = [(photo, config) for config in configs for photo in photos] * 2
        wanted = [told(index.answer(photo, config).metadata()) for photo, config in asked]
        assert set(together) <= {1, 3}  # a query, or its turns
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda one: index.answer(*one), asked))
        assert [told(answer.metadata()) for answer in answers] == wanted
        assert {answer.state for answer in answers} == {index.info()["manifest"]}
        with pytest.raises(DeadlineError):
            index.answer(photos[0], deadline=Deadline(0))


def told(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what an answer says but for the time that it took."""
    return {key: value for key, value in metadata.items() if key != "seconds"}


def test_the_program_of_the_guide_runs(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "queries.md").read_text(encoding="utf-8")
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "QueuedExtractor" in block)
    (tmp_path / "photos.ctxindex").symlink_to(archive)
    (tmp_path / "photo.jpg").write_bytes((archive.parent / "photos" / "coins_0.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "queries.md", "exec"), {})  # a function of it sees its names as in a module
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith("1 ['coins_0.png', 'coins_1.png'")
