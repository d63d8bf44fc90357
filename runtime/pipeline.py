"""Photos to descriptors as a stream: reading and decoding run ahead of the network by a bounded number of photos.

    photos ─┬─ read (threads) ─┬─ decode (threads, each with a process) ─ in order ─ batches ─ network
            └── files ─────────┘

The network runs in the caller's thread (the runtimes release the GIL), so that an exception, a closed generator or
Ctrl-C ends it where it stands.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue

from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.runtime.batching import ShapeBatcher
from ctxdeploy.runtime.config import ExtractorConfig
from ctxdeploy.runtime.network import ExtractionStatistics, Network
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource, WorkItem
from ctxdeploy.runtime.pools import DecodePool, Decoder, ReorderBuffer, ThreadDecoder
from ctxdeploy.runtime.reading import ReadingRoom, ReadPool
from ctxdeploy.runtime.worker import DecodeSettings
from ctxdeploy.runtime.worker_process import ProcessDecoder

# Seconds that a photo may keep decoded ones behind it from the network.
OVERTAKEN_AFTER = 3.0
# Seconds without any photo after which another thread decodes beside those that may hang.
STARVED_AFTER = 5.0
_TICK = 0.1
# More has passed only when this process was stopped (Ctrl-Z), or its caller was busy: that is not the photos' time.
_MAX_TICK = 1.0


def stream(
    photos: Iterable[PhotoSource],
    network: Network,
    config: ExtractorConfig,
    decoding: DecodeSettings,
    statistics: ExtractionStatistics,
) -> Generator[PhotoDescriptors | PhotoFailure, None, None]:
    """Yield one result per photo. Closing the generator ends all threads and processes.

    Args:
        photos: taken as there is room for them.
        network: computes the descriptors.
        config: the settings in force, see ``ExtractorConfig.in_force``.
        decoding: how photos are decoded.
        statistics: counted up.

    Raises:
        BackendError: the network failed, or no photo can be decoded at all.
    """
    prefetch = _Prefetch(photos, config, decoding, statistics)
    try:
        for result in network.stream(_batches(prefetch, network, config), statistics):
            statistics.photos += 1
            statistics.failed += isinstance(result, PhotoFailure)
            yield result
    finally:
        prefetch.close()


def _batches(
    items: Iterable[WorkItem], network: Network, config: ExtractorConfig
) -> Iterator[list[WorkItem] | PhotoFailure]:
    batcher: ShapeBatcher[WorkItem] = ShapeBatcher(
        batch_size=config.batch, max_pending=config.max_pending, max_age=config.max_age
    )
    for item in items:
        network.check(item)
        if isinstance(item.result, PhotoFailure):
            yield item.result
            continue
        yield from batcher.add(item.pixels.pixels.shape, item)
    yield from batcher.flush()


class _Prefetch:
    """Photos in, decoded or failed photos out; a bounded number is in between."""

    def __init__(
        self,
        photos: Iterable[PhotoSource],
        config: ExtractorConfig,
        decoding: DecodeSettings,
        statistics: ExtractionStatistics,
    ) -> None:
        self._photos: Iterator[PhotoSource] | None = iter(photos)
        self._config, self._decoding, self._statistics = config, decoding, statistics
        self._room = config.lookahead
        self._buffer = ReorderBuffer(OVERTAKEN_AFTER)
        self._done: SimpleQueue[WorkItem] = SimpleQueue()
        self._decoders = DecodePool(lambda: make_decoder(config, decoding), config.workers, self._take_back)
        self._readers: ReadPool | None = None
        self._seen = time.monotonic()
        self._starved = 0.0

    def __iter__(self) -> Iterator[WorkItem]:
        while True:
            start = time.perf_counter()
            item = self._next()
            self._statistics.waiting += time.perf_counter() - start
            if item is None:
                return
            if isinstance(item.result, BaseException):
                raise item.result
            self._statistics.replaced_workers = self._decoders.replaced
            self._statistics.seconds += item.seconds
            yield item

    def close(self) -> None:
        """End threads and processes."""
        if self._readers is not None:
            self._readers.close()
        self._decoders.close()

    def _next(self) -> WorkItem | None:
        """Return the photo that is next; None after the last."""
        while True:
            self._take_in()
            item = self._buffer.leave()
            if item is not None or not len(self._buffer):
                return item
            self._wait()

    def _take_in(self) -> None:
        """Send photos on their way: one, and more until there is no room or one is ready to leave."""
        self._collect()
        while self._photos is not None and len(self._buffer) < self._room:
            source = next(self._photos, None)
            if source is None:
                self._photos = None
                return
            self._submit(source)
            self._collect()
            if self._buffer.ready():
                return

    def _submit(self, source: PhotoSource) -> None:
        # The state of a file is taken by what reads it.
        item = WorkItem(source=source, file=None if source.path is not None else source.state())
        self._buffer.add(item)
        if source.reader is None:
            self._decoders.submit(item)
            return
        if self._readers is None:
            threads = self._config.read_threads
            room = ReadingRoom(self._decoding.reading)
            self._readers = ReadPool(threads, self._decoding.timeout, room, self._pass_on)
            self._room += threads
        self._readers.submit(item)

    def _pass_on(self, item: WorkItem) -> None:
        """Send a photo on that has been read, or could not be; called from any thread."""
        (self._decoders.submit if item.result is None else self._take_back)(item)

    def _take_back(self, item: WorkItem) -> None:
        """Note a photo that is done, whose bytes are not needed any more; called from any thread."""
        if self._readers is not None:
            self._readers.release(item)
        self._done.put(item)

    def _collect(self, seconds: float = 0) -> None:
        """Note which photos are done, waiting at most so long for the first; and how time passes."""
        with suppress(Empty):
            self._buffer.mark_done(self._done.get(timeout=seconds) if seconds else self._done.get_nowait())
            while True:
                self._buffer.mark_done(self._done.get_nowait())
        now = time.monotonic()
        if self._readers is not None:
            self._readers.advance(min(now - self._seen, _MAX_TICK))
        self._seen = now

    def _wait(self) -> None:
        """Wait for a photo; let the first one be overtaken if it keeps others waiting."""
        start = time.monotonic()
        self._collect(_TICK)
        waited = min(time.monotonic() - start, _MAX_TICK)
        if self._buffer.ready():
            self._starved = 0.0
            return
        self._starved += waited
        if self._buffer.wait(waited) or self._starved >= STARVED_AFTER:
            self._starved = 0.0
            if self._decoding.memory is None:  # else the workers have divided it among them
                self._decoders.reinforce()


def make_decoder(config: ExtractorConfig, decoding: DecodeSettings) -> Decoder:
    """Return what a thread decodes with: a process of its own, or itself."""
    return (ProcessDecoder if config.isolated else ThreadDecoder)(decoding)
