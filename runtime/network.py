"""Decoded photos through the network, in batches that fit into memory, and where the time goes."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ctxdeploy.core.bundle import ShapeRange
from ctxdeploy.core.errors import BackendError, ConfigError, OutOfMemoryError
from ctxdeploy.core.types import LARGEST, GlobalDescriptor, LocalDescriptors, PhotoDescriptors, StageSeconds
from ctxdeploy.runtime.backends.base import Backend, GraphOutputs, Run, RunTimeoutError
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.memory import MemoryGrowth, return_free_memory
from ctxdeploy.runtime.photo import PhotoFailure, WorkItem
from ctxdeploy.runtime.turns import Turns

# Why a batch is halved.
_TOO_MUCH = (OutOfMemoryError, MemoryError, RunTimeoutError)


@dataclass(kw_only=True)
class ExtractionStatistics:
    """Seconds and counts of one ``Extractor.extract``, growing while it runs.

    Attributes:
        photos: results so far, failures among them.
        failed: failures.
        seconds: of all photos together. Reading and decoding run beside each other and beside the network, in several
            workers: their seconds may add up to more than the time that passed. Those of the network are what the
            extraction waited for it: on a GPU, what it computed while photos were taken in is not among them.
        waiting: seconds in which the network had nothing to do, because no photo was ready. Together with those of the
            network they are at most the time that passed.
        replaced_workers: processes that died or hung.
        halved_batches: batches that did not fit into memory.
    """

    photos: int = 0
    failed: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)
    waiting: float = 0.0
    replaced_workers: int = 0
    halved_batches: int = 0


@dataclass(eq=False)
class _Batch:
    """Photos of one shape, and what came of them: a run that is under way, then its outputs or why there are none."""

    items: list[WorkItem]
    seconds: float = 0.0
    run: Run | None = None
    outcome: GraphOutputs | Exception | None = None


class Network:
    """A bundle in its runtime, and what is known of its need of memory.

    Args:
        backend: runs the graph.
        shapes: that the graph takes.
        growth: foretells which batches fit into a limit of memory; None without a limit.
    """

    def __init__(self, backend: Backend, shapes: ShapeRange, growth: MemoryGrowth | None = None) -> None:
        self._backend, self._shapes, self._growth = backend, shapes, growth
        self._failed: list[tuple[int, int]] = []
        # Queries of other threads come between two batches: engines take one at a time, and so do the figures here.
        self._turn = Turns()
        # Oldest first, of all threads.
        self._under_way: deque[_Batch] = deque()

    @property
    def in_flight(self) -> int:
        """Batches that may be under way at once."""
        return self._backend.in_flight

    def check(self, item: WorkItem) -> None:
        """Let a decoded photo fail whose size the graph does not take."""
        if isinstance(item.result, PhotoFailure):
            return
        try:
            self._shapes.check((1, *item.pixels.pixels.shape))
        except ConfigError as error:
            item.fail(str(error), "decode")

    def run(self, batch: list[WorkItem], statistics: ExtractionStatistics) -> Iterator[PhotoDescriptors | PhotoFailure]:
        """Run the network on photos of one shape; yield one result for each, in their order.

        A batch that does not fit into memory, or takes too long, is halved, and so are later ones of that size or a
        larger one. A single photo that does not fit is a failure.

        Raises:
            BackendError: the network failed otherwise.
        """
        return self.stream([batch], statistics)

    def stream(
        self, batches: Iterable[list[WorkItem] | PhotoFailure], statistics: ExtractionStatistics
    ) -> Iterator[PhotoDescriptors | PhotoFailure]:
        """As ``run`` for many batches, in their order; failures among them pass through, ahead of batches under way.

        As many batches are under way as the backend can have: the next one is taken while the one before is computed.
        Those of a generator that is closed early end by themselves; whoever comes next clears them away.
        """
        mine: deque[_Batch] = deque()
        for batch in batches:
            if isinstance(batch, PhotoFailure):
                yield batch
                continue
            for part in self._parts(batch):
                mine.append(self._start(part))
                if len(mine) >= self._backend.in_flight:
                    yield from self._results(mine.popleft(), statistics)
        while mine:
            yield from self._results(mine.popleft(), statistics)

    def _parts(self, batch: list[WorkItem]) -> Iterator[list[WorkItem]]:
        """Yield a batch in parts that fit, by what is known when each is asked for."""
        rest = batch
        while rest:
            part = rest[: self._max_batch(rest[0].pixels.pixels.size, len(rest))]
            yield part
            rest = rest[len(part) :]

    def _results(self, started: _Batch, statistics: ExtractionStatistics) -> Iterator[PhotoDescriptors | PhotoFailure]:
        part, outcome = started.items, self._outcome(started)
        statistics.seconds += StageSeconds(network=started.seconds)
        if isinstance(outcome, GraphOutputs):
            for row, item in enumerate(part):
                item.seconds += StageSeconds(network=started.seconds / len(part))
                yield _result(item, outcome, row)
        elif len(part) == 1:
            height, width = part[0].pixels.pixels.shape[:2]
            slow = isinstance(outcome, RunTimeoutError)
            what = "takes too long" if slow else "has not enough memory"
            yield part[0].fail(f"the network {what} for its {width}×{height} pixels ({outcome})", "network")
        else:
            statistics.halved_batches += 1
            for smaller in self._parts(part):
                yield from self._results(self._start(smaller), statistics)

    def _start(self, part: list[WorkItem]) -> _Batch:
        begun, start = _Batch(part), time.perf_counter()
        with self._turn:
            while len(self._under_way) >= self._backend.in_flight:
                self._settle(self._under_way[0])  # of another thread, or of a stream that nobody reads at the moment
            self._attempt(begun, lambda: self._begin(begun))
            if self._backend.in_flight == 1 and begun.run is not None:
                self._settle(begun)
        begun.seconds += time.perf_counter() - start
        return begun

    def _begin(self, batch: _Batch) -> None:
        batch.run = self._backend.start([item.pixels.pixels for item in batch.items])
        self._under_way.append(batch)

    def _outcome(self, batch: _Batch) -> GraphOutputs | Exception:
        """Return what the graph returned, or why it could not: memory, or time; other errors are raised."""
        start = time.perf_counter()
        if batch.outcome is None:
            run = batch.run
            if run is not None:
                run.wait()  # others may begin theirs meanwhile
            with self._turn:
                if batch.outcome is None:  # nobody needed its place meanwhile
                    self._settle(batch)
            batch.seconds += time.perf_counter() - start
        outcome, batch.outcome = batch.outcome, None
        if not isinstance(outcome, (GraphOutputs, *_TOO_MUCH)):
            raise outcome or _interrupted()
        return outcome

    def _settle(self, batch: _Batch) -> None:
        """Wait for a batch that is under way, and note what came of it."""
        self._under_way.remove(batch)
        run, batch.run = batch.run, None
        if run is not None:
            self._attempt(batch, lambda: self._take(batch, run))

    def _take(self, batch: _Batch, run: Run) -> None:
        batch.outcome = run.result()
        if self._growth is not None:
            self._growth.note(batch.items[0].pixels.pixels.size * len(batch.items))

    def _attempt(self, batch: _Batch, step: Callable[[], None]) -> None:
        """Take a step of a batch; note why it failed."""
        try:
            step()
            return
        except _TOO_MUCH as error:
            batch.outcome = type(error)(*error.args)  # without its traceback, which holds the run's arrays
        except Exception as error:
            batch.outcome = error  # for the thread whose batch it is
            return
        except BaseException:
            batch.outcome = _interrupted()
            raise
        while self._under_way:
            self._settle(self._under_way[0])
        # Only now nothing refers to the failed run any more: ONNX Runtime with 100 MB to spare failed with each smaller
        # batch as well, for what the larger one had got was not given back.
        return_free_memory()
        if len(batch.items) > 1:
            self._failed.append((batch.items[0].pixels.pixels.size, len(batch.items)))

    def _max_batch(self, pixels: int, count: int) -> int:
        """Return how many of ``count`` photos of so many pixels to run at once."""
        limits = [failed_count // 2 for failed, failed_count in self._failed if failed <= pixels]
        if self._growth is not None:
            limits.append(self._growth.max_photos(pixels))
        return min(limits, default=count)


def _interrupted() -> BackendError:
    return BackendError("the run was interrupted: start another one")


def _result(item: WorkItem, outputs: GraphOutputs, row: int) -> PhotoDescriptors | PhotoFailure:
    whole = None if outputs.global_vectors is None else outputs.global_vectors[row]
    attention = outputs.attention[row]
    keep = attention != 0  # not > 0, which would take NaN for padding
    vectors = outputs.descriptors[row][keep]
    if not all(np.isfinite(array).all() for array in (attention, vectors, whole) if array is not None):
        return item.fail("the network returned NaN or infinity", "network")
    if len(vectors) and np.abs(vectors).max() > LARGEST:
        return item.fail(f"the network returned a number beyond {LARGEST:g}", "network")
    pixels = item.pixels
    descriptors = LocalDescriptors(
        vectors=vectors,
        attention=attention[keep],
        positions=pixels.to_original(outputs.positions[row][keep]),
        scales=outputs.scales[row][keep],
    )
    return PhotoDescriptors(
        name=item.source.name,
        descriptors=descriptors,
        global_descriptor=None if whole is None else GlobalDescriptor.unit(whole),
        size=pixels.original_size,
        seconds=item.seconds,
        file=item.file,
        remark=_remark(pixels, bool(len(descriptors)) or (whole is not None and bool(whole.any()))),
    )


def _remark(pixels: Pixels, is_found: bool) -> str:
    """Return why hardly any query will find a photo; nothing where one may."""
    if pixels.is_nearly_one_colour():
        return "it is nearly one colour"
    return "" if is_found else "the network found nothing in it"
