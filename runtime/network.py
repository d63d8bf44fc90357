"""Decoded photos through the network, in batches that fit into memory, and where the time goes."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ctxdeploy.core.bundle import ShapeRange
from ctxdeploy.core.errors import ConfigError, OutOfMemoryError
from ctxdeploy.core.types import LARGEST, GlobalDescriptor, LocalDescriptors, PhotoDescriptors, StageSeconds
from ctxdeploy.runtime.backends.base import Backend, GraphOutputs, RunTimeoutError
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.memory import MemoryGrowth, return_free_memory
from ctxdeploy.runtime.photo import PhotoFailure, WorkItem


@dataclass(kw_only=True)
class ExtractionStatistics:
    """Seconds and counts of one ``Extractor.extract``, growing while it runs.

    Attributes:
        photos: results so far, failures among them.
        failed: failures.
        seconds: of all photos together. Reading and decoding run beside each other and beside the network, in several
            workers: their seconds may add up to more than the time that passed.
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
        rest = batch
        while rest:
            part = rest[: self._max_batch(rest[0].pixels.pixels.size, len(rest))]
            start = time.perf_counter()
            with self._turn:
                outputs = self._outputs(part)
            seconds = time.perf_counter() - start
            statistics.seconds += StageSeconds(network=seconds)
            if isinstance(outputs, GraphOutputs):
                for row, item in enumerate(part):
                    item.seconds += StageSeconds(network=seconds / len(part))
                    yield _result(item, outputs, row)
            elif len(part) == 1:
                height, width = part[0].pixels.pixels.shape[:2]
                slow = isinstance(outputs, RunTimeoutError)
                what = "takes too long" if slow else "has not enough memory"
                yield part[0].fail(f"the network {what} for its {width}×{height} pixels ({outputs})", "network")
            else:
                statistics.halved_batches += 1
                continue
            rest = rest[len(part) :]

    def _outputs(self, part: list[WorkItem]) -> GraphOutputs | Exception:
        """Return what the graph returns, or why it cannot: memory, or time."""
        pixels = part[0].pixels.pixels.size
        try:
            outputs = self._backend.run(np.stack([item.pixels.pixels for item in part]))
        except (OutOfMemoryError, MemoryError, RunTimeoutError) as error:
            reason = type(error)(*error.args)  # without its traceback, which holds the run's arrays
        else:
            if self._growth is not None:
                self._growth.note(pixels * len(part))
            return outputs
        # Only now nothing refers to the failed run any more: ONNX Runtime with 100 MB to spare failed with each smaller
        # batch as well, for what the larger one had got was not given back.
        return_free_memory()
        if len(part) > 1:
            self._failed.append((pixels, len(part)))
        return reason

    def _max_batch(self, pixels: int, count: int) -> int:
        """Return how many of ``count`` photos of so many pixels to run at once."""
        limits = [failed_count // 2 for failed, failed_count in self._failed if failed <= pixels]
        if self._growth is not None:
            limits.append(self._growth.max_photos(pixels))
        return min(limits, default=count)


class Turns:
    """A lock that threads get in the order in which they asked: who releases one of Python's may take it again at once,
    and a stream of photos kept a query waiting for six of its batches so."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._is_taken = False

    def __enter__(self) -> None:
        mine = threading.Event()
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return
            self._waiting.append(mine)
        try:
            mine.wait()
        except BaseException:  # Ctrl-C
            with self._mutex:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                else:
                    self._pass_on()
            raise

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._mutex:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._is_taken = False


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
