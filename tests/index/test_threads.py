"""Threads of searches: many callers, errors, an end in the midst of it, a fork, and a system that gives no threads."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from ctxdeploy.index.threads import SearchThreads

TASKS = range(20)
SQUARES = [task * task for task in TASKS]


def square(task: int) -> int:
    time.sleep(0.0005)  # so that helpers get their share
    return task * task


def search_threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ctxdeploy-search")]


def test_helpers_take_part() -> None:
    threads, seen = SearchThreads(3), set()
    together = threading.Barrier(2)  # one thread alone would wait here

    def note(task: int) -> int:
        if task < 2:
            together.wait(300)
        seen.add(threading.get_ident())
        return square(task)

    assert threads.run(note, TASKS) == SQUARES and 2 <= len(seen) <= 3
    threads.close()
    assert not search_threads_left()


def test_many_callers_share_them() -> None:
    threads = SearchThreads(3)
    with ThreadPoolExecutor(4) as callers:
        assert all(found == SQUARES for found in callers.map(lambda _: threads.run(square, TASKS), range(40)))
    threads.close()


def test_an_error_ends_the_work_and_is_raised() -> None:
    threads, done = SearchThreads(3), []

    def fail(task: int) -> None:
        if task == 3:
            raise ValueError("the third")
        time.sleep(0.001)
        done.append(task)

    with pytest.raises(ValueError, match="the third"):
        threads.run(fail, range(1000))
    assert len(done) < 1000
    assert threads.run(square, TASKS) == SQUARES
    threads.close()


def test_an_end_in_the_midst_of_searches_harms_none_and_leaves_no_thread() -> None:
    for _ in range(20):
        threads = SearchThreads(3)
        with ThreadPoolExecutor(3) as callers:
            found = [callers.submit(threads.run, square, TASKS) for _ in range(6)]
            time.sleep(0.004)
            threads.close()
            threads.close()
            assert all(one.result() == SQUARES for one in found)
        assert threads.run(square, TASKS) == SQUARES
        assert not search_threads_left()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own_even_if_another_held_the_lock() -> None:
    threads = SearchThreads(3)
    threads.run(square, TASKS)
    with threads._mutex:
        child = os.fork()
        if child == 0:
            signal.alarm(300)  # ends a child that waits for ever
            os._exit(0 if threads.run(square, TASKS) == SQUARES else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert threads.run(square, TASKS) == SQUARES
    threads.close()


@pytest.mark.parametrize("queued", [False, True])
def test_where_the_system_gives_no_threads_one_does_all(queued: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work may be in the executor's queue all the same, and another helper take it later."""
    submit = ThreadPoolExecutor.submit

    def refuse(executor: ThreadPoolExecutor, work: Any) -> Future[None]:
        if queued:
            submit(executor, work)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    threads = SearchThreads(3)
    for _ in range(20):
        assert threads.run(square, TASKS) == SQUARES
    threads.close()


def test_a_search_goes_on_while_the_interpreter_ends() -> None:
    script = """
import threading, time
from ctxdeploy.index.threads import SearchThreads
threads = SearchThreads(3)
def later():
    time.sleep(0.5)
    print(sum(threads.run(lambda task: task, range(20))))
threading.Thread(target=later).start()
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=600)
    assert (found.stdout, found.stderr) == ("190\n", "")
