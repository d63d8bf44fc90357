"""Parts that fail: what is left is searched, one answer comes from one set of parts, and nobody waits for ever."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, DeadlineError, ShardError, StaleStateError
from ctxdeploy.core.part import Part
from ctxdeploy.index import Index
from ctxdeploy.sharding import ShardedIndex, Shards

ROWS = np.random.default_rng(2).normal(size=(50, 40)).astype(np.float32)


def fail(deadline: Deadline) -> None:
    raise ShardError("nobody is there")


def stale(deadline: Deadline) -> None:
    raise StaleStateError("another state", held=(1,))


@pytest.fixture
def four(archives: dict[str, Path], serve: Callable[..., Any]) -> Iterator[tuple[ShardedIndex, list[Any], Index]]:
    path = archives["descriptors"]
    shards, transports = serve(path, 4)
    index, one = ShardedIndex.open(path, shards), Index.open(path)
    yield index, transports, one
    index.close()
    one.close()


def held(transports: list[Any], numbers: list[int]) -> list[str]:
    """Return the names that some parts hold."""
    parts = [transports[number - 1].server for number in numbers]
    return [name for part in parts for name in part._newest().index.names()]


@pytest.mark.parametrize("failing", [fail, stale])
def test_the_parts_that_answer_are_searched(four: Any, failing: Callable[[Deadline], None]) -> None:
    sharded, transports, one = four
    transports[1].before = failing
    query = sharded.for_query()
    found = query.search_batch([ROWS], 99)[0]
    left = held(transports, [1, 3, 4])
    assert [(hit.name, hit.score) for hit in found] == [
        (hit.name, hit.score) for hit in one.search(ROWS, 99, among=left)
    ]
    assert query.missing == (Part(number=2, count=4),)
    assert query.reached(None) == len(left) < len(sharded) == len(one)
    transports[1].before = lambda deadline: None
    asked = len(transports[1].asked)
    assert query.search_batch([ROWS], 99)[0] == found  # it stays left out of this query
    assert len(transports[1].asked) == asked
    again = sharded.for_query()
    assert again.search_batch([ROWS], 99) == one.search_batch([ROWS], 99) and again.missing == ()


def test_expansion_goes_on_among_the_parts_that_answer(four: Any) -> None:
    sharded, transports, one = four
    transports[2].before = fail
    left = held(transports, [1, 2, 4])
    name = left[10]
    wanted = one.search_batch([name], 50, expand=5, among=left)
    assert sharded.for_query().search_batch([name], 50, expand=5) == wanted


def test_a_part_that_is_lost_during_a_query_is_left_out_of_all_of_it(four: Any) -> None:
    sharded, transports, one = four
    query, calls = sharded.for_query(), []

    def work() -> Any:
        calls.append(query.search_batch([ROWS], 99)[0])
        if len(calls) == 1:
            transports[3].before = fail
        expanded = query.search_batch([ROWS], 99, expand=3)[0]
        query.scores([calls[-1][0].name], [calls[-1][1].name])
        return calls[-1], expanded

    plain, expanded = query.settled(work)
    left = held(transports, [1, 2, 3])
    assert len(calls) == 2 and query.missing == (Part(number=4, count=4),)
    assert plain == one.search(ROWS, 99, among=left)
    assert expanded == one.search(ROWS, 99, among=left, expand=3)


def test_without_any_part_there_is_an_error(four: Any) -> None:
    sharded, transports, _ = four
    for transport in transports:
        transport.before = fail
    query = sharded.for_query()
    with pytest.raises(ShardError, match=r"no part of the shards answers \(1/4: nobody is there; 2/4"):
        query.search_batch([ROWS], 5)
    with pytest.raises(ShardError, match="no part of the shards answers"):
        query.search_batch([ROWS], 5)


def test_what_is_not_known_is_not_denied(four: Any) -> None:
    sharded, transports, one = four
    name = held(transports, [2])[0]
    transports[1].before = fail
    for ask in (
        lambda index: name in index,
        lambda index: index.search_batch([name]),
        lambda index: index.file_of(name),
        lambda index: index.stored_features([name]),
        lambda index: list(index.names()),
        lambda index: index.search_batch([ROWS], idf=True),
    ):
        with pytest.raises(ShardError, match=r"2/4|nobody is there"):
            ask(sharded.for_query())
    found = sharded.for_query().subset(prefixes=["zz"], names=[name, "x"])
    assert (found.unknown, found.unused) == ((), ())
    assert one.subset(prefixes=["zz"], names=[name, "x"]).unused == ("zz",)


def test_who_hangs_is_left_out_when_the_time_is_over(archives: dict[str, Path], serve: Callable[..., Any]) -> None:
    path, released = archives["idf"], threading.Event()
    shards, transports = serve(path, 2, patience=0.05)
    transports[0].before = lambda deadline: released.wait() and None
    with Index.open(path) as one:
        index = ShardedIndex.open(path, shards)
        query = index.for_query()
        try:
            while True:  # a busy machine may not answer in so short a time
                try:
                    found = query.search_batch([ROWS], 50)[0]
                except ShardError:
                    query = index.for_query()
                    continue
                break
        finally:
            released.set()
        assert query.missing == (Part(number=1, count=2),)
        assert found == one.search(ROWS, 50, among=held(transports, [2]))
        index.close()


def test_a_deadline_that_is_over_or_given_up_ends_the_query(four: Any) -> None:
    sharded, transports, _ = four
    over = Deadline(0.0)
    with pytest.raises(DeadlineError):
        sharded.for_query(over).search_batch([ROWS], 5)
    assert not any(transport.asked for transport in transports)
    deadline, hanging, released = Deadline(), threading.Event(), threading.Event()

    def hang(given: Deadline) -> None:
        hanging.set()
        released.wait()

    transports[0].before = hang
    giving_up = threading.Thread(target=lambda: hanging.wait() and deadline.give_up())
    giving_up.start()
    try:
        with pytest.raises(DeadlineError, match="not wanted any more"):
            sharded.for_query(deadline).search_batch([ROWS], 5)
    finally:
        released.set()
        giving_up.join()


def test_an_error_that_is_none_of_ours_is_not_hidden(four: Any) -> None:
    sharded, transports, _ = four

    def break_down(deadline: Deadline) -> None:
        raise RuntimeError("a defect")

    transports[0].before = break_down
    with pytest.raises(RuntimeError, match="a defect"):
        sharded.for_query().search_batch([ROWS], 5)


def test_parts_are_there_once_each(archives: dict[str, Path], serve: Callable[..., Any]) -> None:
    _, two = serve(archives["idf"], 2)
    _, three = serve(archives["idf"], 3)
    for transports, text in (
        ([], "are none"),
        (two[:1], "are 1/2: give"),
        ([two[0], two[0]], "are 1/2, 1/2"),
        ([*two, three[2]], "are 1/2, 2/2, 3/3"),
    ):
        with pytest.raises(ConfigError, match=text):
            Shards(transports)
    with pytest.raises(ConfigError, match="a patience of 0"):
        Shards(two, patience=0)
    Shards(two[::-1]).close()


def test_what_is_known_of_a_photo_is_asked_once_a_query(four: Any) -> None:
    sharded, transports, index = four
    first, second = sorted(index.names())[:2]
    query = sharded.for_query()
    before = [len(one.asked) for one in transports]
    assert first in query and query.file_of(first) == index.file_of(first)
    assert query.photo_sizes([first]) == index.photo_sizes([first])
    assert [len(one.asked) for one in transports] == [count + 1 for count in before]
    assert query.held_names([first, second, "nobody"]) == {first, second} and "nobody" not in query
