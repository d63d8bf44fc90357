"""Several batches under way at once: results, their order, and what becomes of those that fail."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.runtime import BackendConfig, PhotoDescriptors, PhotoFailure
from ctxdeploy.runtime.backends import open_backend
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.network import ExtractionStatistics, Network
from ctxdeploy.runtime.network_queue import NetworkQueue, Unobserved
from ctxdeploy.runtime.photo import PhotoSource, WorkItem

MakeBundle = Callable[..., Bundle]
Images = NDArray[np.uint8]
SIZES = ((4, 4), (8, 4), (5, 7))


class Ahead:
    """Makes a backend take several batches, which are computed only when their results are asked for.

    Attributes:
        errors: of batches that fail, by their number in the order of their start; at their start or at their end.
        wait: is called where a thread waits for the GPU.
        most: batches that were under way at once.
        sizes: photos of each batch.
    """

    def __init__(self, bundle: Bundle, in_flight: int, backend: Any = None) -> None:
        self.backend = backend or open_backend(bundle, BackendConfig(name="onnxruntime", threads=1))
        self.compute = self.backend._run
        self.backend.in_flight, self.backend._start = in_flight, self._start
        self.network = Network(self.backend, bundle.shapes)
        self.errors: dict[int, tuple[str, BaseException]] = {}
        self.most = self.open = 0
        self.wait: Callable[[], None] = lambda: None
        self.sizes: list[int] = []

    def _start(self, photos: Sequence[Images]) -> "Late":
        when, error = self.errors.get(len(self.sizes), ("", MemoryError()))
        self.sizes.append(len(photos))
        if when == "start":
            raise error
        self.open += 1
        self.most = max(self.most, self.open)
        return Late(self, np.stack(photos), error if when == "end" else None)


class Late:
    """A batch that nobody computes before its result is asked for."""

    def __init__(self, ahead: Ahead, images: Images, error: BaseException | None) -> None:
        self._ahead, self._images, self._error = ahead, images, error

    def wait(self) -> None:
        self._ahead.wait()

    def arrays(self) -> list[NDArray[np.float32]]:
        if self._error is not None:
            raise self._error
        return list(self._ahead.compute(self._images))

    def close(self) -> None:
        self._ahead.open -= 1


def batches(sizes: Sequence[tuple[int, int]]) -> list[list[WorkItem]]:
    """Return a batch of decoded photos for each pair: how many, and which of the sizes."""
    made = []
    for number, (count, size) in enumerate(sizes):
        height, width = SIZES[size]
        items = []
        for row in range(count):
            pixels = np.random.default_rng([number, row]).integers(0, 256, (height, width, 3), dtype=np.uint8)
            result = Pixels(pixels=pixels, original_size=(width, height), region=(0, 0, width, height))
            items.append(WorkItem(source=PhotoSource(name=f"{number}-{row}", data=b"x"), result=result))
        made.append(items)
    return made


def summary(results: Sequence[PhotoDescriptors | PhotoFailure]) -> list[tuple[Any, ...]]:
    """Return names in their order, with what was found or why nothing was."""
    return [
        (one.name, one.reason.partition(" (")[0])
        if isinstance(one, PhotoFailure)
        else (one.name, *(getattr(one.descriptors, n).tobytes() for n in ("vectors", "attention", "positions")))
        for one in results
    ]


def test_any_stream_gives_what_one_batch_after_another_gives(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    plain = Network(open_backend(bundle, BackendConfig(name="onnxruntime", threads=1)), bundle.shapes)
    backend = open_backend(bundle, BackendConfig(name="onnxruntime", threads=1))

    @given(
        st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), max_size=9),
        st.integers(1, 4),
        st.dictionaries(st.integers(0, 9), st.sampled_from(["start", "end"]), max_size=3),
    )
    def check(sizes: list[tuple[int, int]], in_flight: int, failing: dict[int, str]) -> None:
        single = [item for batch in batches(sizes) for item in batch]
        wanted = [one for item in single for one in plain.run([item], ExtractionStatistics())]
        ahead, statistics = Ahead(bundle, in_flight, backend), ExtractionStatistics()
        ahead.errors = {number: (when, MemoryError("no room")) for number, when in failing.items()}
        found = list(ahead.network.stream(batches(sizes), statistics))
        assert [one.name for one in found] == [one.name for one in wanted], "in the order of the photos"
        alone = [n for n in failing if n < len(ahead.sizes) and ahead.sizes[n] == 1]
        for one, other in zip(summary(found), summary(wanted), strict=True):
            if len(one) == 2:
                assert "not enough memory" in one[1]
            else:
                assert one == other, "batches are of one shape, so that bits do not depend on company"
        failures = [one for one in found if isinstance(one, PhotoFailure)]
        assert len(failures) == len(alone), "a photo fails if it does not fit alone"
        halved = [n for n in failing if n < len(ahead.sizes) and ahead.sizes[n] > 1]
        assert statistics.halved_batches == len(halved)
        assert ahead.open == 0 and ahead.most <= in_flight

    check()


def test_batches_are_under_way_together(make_bundle: MakeBundle) -> None:
    ahead = Ahead(make_bundle(), 3)
    results = ahead.network.stream(batches([(2, 0)] * 5), ExtractionStatistics())
    assert next(results).name == "0-0"
    assert (len(ahead.sizes), ahead.open) == (3, 2), "two wait in the GPU while the first one's results are used"
    assert [one.name for one in results] == ["0-1", *(f"{n}-{row}" for n in range(1, 5) for row in range(2))]
    assert (ahead.most, ahead.open) == (3, 0)


def test_what_fails_for_memory_lets_the_others_end_before_it_is_tried_again(make_bundle: MakeBundle) -> None:
    ahead = Ahead(make_bundle(), 3)
    ahead.errors[0] = ("end", MemoryError("no room"))
    start, open_then = ahead._start, list[int]()

    def noting(photos: Sequence[Images]) -> Late:
        open_then.append(ahead.open)
        return start(photos)

    ahead.backend._start = noting
    found = list(ahead.network.stream(batches([(4, 0)] * 3), ExtractionStatistics()))
    assert ahead.sizes == [4, 4, 4, 2, 2] and open_then == [0, 1, 2, 0, 0]
    assert [one.name for one in found] == [f"{n}-{row}" for n in range(3) for row in range(4)]


def test_a_query_between_the_results_of_a_stream(make_bundle: MakeBundle) -> None:
    """It needs the place of a batch whose results nobody takes at the moment."""
    ahead = Ahead(make_bundle(), 2)
    wanted = summary(list(Ahead(make_bundle(), 1).network.stream(batches([(1, 0)] * 6), ExtractionStatistics())))
    found: list[Any] = []
    for result in ahead.network.stream(batches([(1, 0)] * 6), ExtractionStatistics()):
        found.append(result)
        for _ in range(3):
            queries = list(ahead.network.stream(batches([(1, 0)] * 2), ExtractionStatistics()))
            assert summary(queries) == wanted[:2]
    assert summary(found) == wanted
    assert ahead.most == 2


def test_queries_of_other_threads(make_bundle: MakeBundle) -> None:
    ahead, bundle = Ahead(make_bundle(), 3), make_bundle()
    wanted = summary(list(Ahead(bundle, 1).network.stream(batches([(2, 1)] * 8), ExtractionStatistics())))
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        found[number] = summary(list(ahead.network.stream(batches([(2, 1)] * 8), ExtractionStatistics())))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert [found[number] for number in range(4)] == [wanted] * 4
    assert ahead.most == 3 and ahead.open == 0


def test_an_error_is_raised_where_its_batch_is_waited_for(make_bundle: MakeBundle) -> None:
    ahead = Ahead(make_bundle(), 2)
    ahead.errors[1] = ("end", RuntimeError("a broken kernel"))
    results = ahead.network.stream(batches([(1, 0)] * 4), ExtractionStatistics())
    assert next(results).name == "0-0"
    # They wait for the stream's second batch, which fails, and have results all the same.
    queries = list(ahead.network.stream(batches([(1, 0)] * 3), ExtractionStatistics()))
    assert [isinstance(query, PhotoDescriptors) for query in queries] == [True] * 3
    with pytest.raises(BackendError, match=r"onnxruntime failed on an input of .*: a broken kernel"):
        list(results)


@pytest.mark.parametrize("when", ["start", "end"])
def test_ctrl_c_passes_and_the_network_is_still_of_use(make_bundle: MakeBundle, when: str) -> None:
    ahead = Ahead(make_bundle(), 3)
    ahead.errors[2] = (when, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(ahead.network.stream(batches([(1, 0)] * 6), ExtractionStatistics()))
    assert len(list(ahead.network.stream(batches([(1, 0)] * 6), ExtractionStatistics()))) == 6
    assert ahead.most <= 3 and ahead.open == 0


def test_an_interrupted_wait_for_another_threads_batch_fails_that_batch(make_bundle: MakeBundle) -> None:
    ahead = Ahead(make_bundle(), 2)
    ahead.errors[1] = ("end", KeyboardInterrupt())
    results = ahead.network.stream(batches([(1, 0)] * 3), ExtractionStatistics())
    next(results)
    with pytest.raises(KeyboardInterrupt):
        list(ahead.network.stream(batches([(1, 0)] * 2), ExtractionStatistics()))
    with pytest.raises(BackendError, match="the run was interrupted"):
        list(results)


def test_a_stream_that_is_closed_early_leaves_no_run_behind(make_bundle: MakeBundle) -> None:
    ahead = Ahead(make_bundle(), 3)
    results = ahead.network.stream(batches([(1, 0)] * 6), ExtractionStatistics())
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert ahead.open == 2
    assert len(list(ahead.network.stream(batches([(1, 0)] * 6), ExtractionStatistics()))) == 6
    assert (ahead.most, ahead.open) == (3, 0)


def test_a_run_gives_its_result_once(make_bundle: MakeBundle) -> None:
    ahead = Ahead(make_bundle(), 2)
    photo = np.zeros((1, 4, 4, 3), np.uint8)
    run = ahead.backend.start(photo)
    assert run.result().attention.shape == (1, 40)
    run.close()
    with pytest.raises(BackendError, match="was taken"):
        run.result()
    closed = ahead.backend.start(list(photo))
    closed.close()
    closed.close()
    assert ahead.open == 0
    with pytest.raises(BackendError, match="it was closed"):
        closed.result()


def test_photos_of_one_batch_are_of_one_shape(make_bundle: MakeBundle) -> None:
    backend = open_backend(make_bundle(), BackendConfig(name="onnxruntime", threads=1))
    photos = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    with pytest.raises(ConfigError, match=r"photos of \(4, 4, 3\) and \(4, 5, 3\) are in one batch"):
        backend.start(photos)
    with pytest.raises(ConfigError, match="batch is 0"):
        backend.start([])


def test_who_waits_for_the_gpu_lets_others_begin(make_bundle: MakeBundle) -> None:
    """Each of two batches of a queue waits until both are under way."""
    ahead = Ahead(make_bundle(), 3)
    both = threading.Barrier(2)
    ahead.wait = lambda: both.wait(300) and None
    queue = NetworkQueue(ahead.network, 4, Unobserved())
    items = [batch[0] for batch in batches([(1, 0), (1, 1)])]
    wanted = [Ahead(make_bundle(), 1).network.run([item], ExtractionStatistics()) for item in items]
    found = queue.run(items, Deadline())
    assert summary(found) == summary([one for results in wanted for one in results])
    assert ahead.most == 2
    ahead.wait = lambda: None
    assert len(queue.run([batch[0] for batch in batches([(1, 0)] * 9)], Deadline())) == 9
    queue.close()
    with pytest.raises(BackendError, match="closed"):
        queue.run(items, Deadline())
