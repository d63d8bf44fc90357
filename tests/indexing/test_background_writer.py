"""Work handed to another thread: nothing lost, nothing twice, never stuck."""

import os
import signal
import threading
import time

import pytest

from ctxdeploy.indexing.commit import BackgroundWriter


def test_all_items_are_taken_in_order_in_one_other_thread() -> None:
    taken: list[int] = []
    threads: set[int] = set()

    def take(item: int) -> None:
        threads.add(threading.get_ident())
        taken.append(item)

    with BackgroundWriter(take, 3) as handover:
        for item in range(1000):
            handover.put(item)
    assert taken == list(range(1000))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_the_giver_waits_when_too_many_wait() -> None:
    gate = threading.Event()
    given: list[int] = []

    def give() -> None:
        with BackgroundWriter(lambda item: bool(gate.wait()), 4) as handover:
            for item in range(20):
                handover.put(item)
                given.append(item)

    giver = threading.Thread(target=give)
    giver.start()
    time.sleep(0.3)
    assert len(given) <= 5, "one is being taken, four wait"
    gate.set()
    giver.join(300)
    assert len(given) == 20 and not giver.is_alive()


def test_what_was_put_is_taken_though_the_block_ends_with_an_exception() -> None:
    taken: list[int] = []

    def take(item: int) -> None:
        time.sleep(0.01)
        taken.append(item)

    with pytest.raises(KeyboardInterrupt), BackgroundWriter(take, 10) as handover:
        for item in range(8):
            handover.put(item)
        raise KeyboardInterrupt
    assert taken == list(range(8))


@pytest.mark.parametrize("most", [1, 100])
def test_an_error_of_the_taker_reaches_the_giver_and_ends_the_work(most: int) -> None:
    taken: list[int] = []

    def take(item: int) -> None:
        if item == 5:
            raise LookupError("five")
        taken.append(item)

    before = threading.active_count()
    with pytest.raises(LookupError, match="five"), BackgroundWriter(take, most) as handover:
        for item in range(10_000):
            handover.put(item)
            time.sleep(0.001)
    assert taken == list(range(5))
    assert threading.active_count() == before


def test_an_error_at_the_last_item_is_not_lost() -> None:
    def take(item: int) -> None:
        raise LookupError(str(item))

    with pytest.raises(LookupError, match="7"), BackgroundWriter(take, 5) as handover:
        handover.put(7)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("first", "taken"), [(KeyboardInterrupt, 1), (None, 3)])
def test_an_interrupt_on_leaving_does_not_leave_the_thread_at_work(
    first: type[KeyboardInterrupt] | None, taken: int
) -> None:
    """Who catches it commits what was taken, and must not do so beside the thread. Only the second one drops items."""
    began, gate, waiting = threading.Event(), threading.Event(), threading.Event()
    done: list[int] = []

    class Ended(threading.Event):
        """What the block waits for on leaving."""

        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            return super().wait(timeout)

    def take(item: int) -> None:
        began.set()
        gate.wait(300)
        done.append(item)

    def interrupt() -> None:
        if began.wait(300) and waiting.wait(300):
            os.kill(os.getpid(), signal.SIGINT)
            waiting.clear()
            waiting.wait(300)  # again: the interrupt has been taken
        gate.set()

    before = threading.active_count()
    helper = threading.Thread(target=interrupt)
    helper.start()
    writer = BackgroundWriter(take, 10)
    writer._ended = Ended()
    with pytest.raises(KeyboardInterrupt), writer as handover:
        for item in range(3):
            handover.put(item)
        if first is not None:
            raise first
    assert done == list(range(taken))
    helper.join()
    assert threading.active_count() == before
