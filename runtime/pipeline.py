"""Photos to descriptors as a stream: reading and decoding run ahead of the network by a bounded number of photos.

    photos ─┬─ read (threads) ─┬─ decode (lanes, each with a process) ─ in order ─ batches ─ network
            └── files ─────────┘

The network runs in the caller's thread (the engines release the GIL), so that an exception, a closed generator or
Ctrl-C ends it where it stands.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from ctxdeploy.core.bundle import ShapeRange
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.runtime.batching import BatchingConfig, ShapeBatcher
from ctxdeploy.runtime.decoder import Decoded, Decoder, DecodeSettings, ThreadDecoder
from ctxdeploy.runtime.network import Flow, Network
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource
from ctxdeploy.runtime.pools import DecodePool, ReadPool, Ticket
from ctxdeploy.runtime.reorder_buffer import ReorderBuffer
from ctxdeploy.runtime.worker_process import ProcessDecoder

# Seconds that a photo may keep decoded ones behind it from the network.
OVERTAKEN_AFTER = 3.0
# Seconds without any photo after which another lane is started beside those that may hang.
STARVED_AFTER = 5.0
_TICK = 0.1
# More has passed only when this process was stopped (Ctrl-Z), or its caller was busy: that is not the photos' time.
_LONGEST_TICK = 1.0


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """How photos flow.

    Attributes:
        decoding: how they are decoded.
        shapes: that the network takes.
        batching: how they are grouped.
        workers: that decode at the same time.
        isolated: in processes of their own.
        read_threads: that read photos which are no files.
        lookahead: photos on their way to the network at most; as many again as are read, if there are such.
    """

    decoding: DecodeSettings
    shapes: ShapeRange
    batching: BatchingConfig
    workers: int
    isolated: bool
    read_threads: int
    lookahead: int


def stream(
    photos: Iterable[PhotoSource], network: Network, settings: PipelineSettings, flow: Flow
) -> Generator[PhotoDescriptors | PhotoFailure, None, None]:
    """Yield one result per photo. Closing the generator ends all threads and processes.

    Raises:
        BackendError: the network failed, or no photo can be decoded at all.
    """
    ahead = _Ahead(photos, settings, flow)
    try:
        for result in _results(ahead, network, ShapeBatcher(settings.batching), flow):
            flow.photos += 1
            flow.failed += isinstance(result, PhotoFailure)
            yield result
    finally:
        ahead.close()


def _results(
    decoded: Iterable[Decoded | PhotoFailure], network: Network, batcher: ShapeBatcher[Decoded], flow: Flow
) -> Iterator[PhotoDescriptors | PhotoFailure]:
    for item in decoded:
        if isinstance(item, PhotoFailure):
            yield item
            continue
        for batch in batcher.add(item.photo.pixels.shape, item):
            yield from network.run(batch, flow)
    for batch in batcher.flush():
        yield from network.run(batch, flow)


class _Ahead:
    """Photos in, decoded photos out; a bounded number is in between."""

    def __init__(self, photos: Iterable[PhotoSource], settings: PipelineSettings, flow: Flow) -> None:
        self._photos: Iterator[PhotoSource] | None = iter(photos)
        self._settings, self._flow = settings, flow
        self._room = settings.lookahead
        self._line = ReorderBuffer(OVERTAKEN_AFTER)
        self._done: SimpleQueue[Ticket] = SimpleQueue()
        self._lanes = DecodePool(self._decoder, settings.workers, self._done.put)
        self._readers: ReadPool | None = None
        self._seen = time.monotonic()
        self._starved = 0.0

    def __iter__(self) -> Iterator[Decoded | PhotoFailure]:
        while True:
            start = time.perf_counter()
            ticket = self._next()
            self._flow.waiting += time.perf_counter() - start
            if ticket is None:
                return
            self._flow.replaced_workers = self._lanes.replaced
            yield self._outcome(ticket)

    def close(self) -> None:
        """End threads and processes."""
        if self._readers is not None:
            self._readers.close()
        self._lanes.close()

    def _next(self) -> Ticket | None:
        """Return the ticket of the photo that is next; None after the last."""
        while True:
            self._take_in()
            ticket = self._line.leave()
            if ticket is not None or not len(self._line):
                return ticket
            self._wait()

    def _take_in(self) -> None:
        """Send photos on their way: one, and more until there is no room or one is ready to leave."""
        self._collect()
        while self._photos is not None and len(self._line) < self._room:
            source = next(self._photos, None)
            if source is None:
                self._photos = None
                return
            self._submit(source)
            self._collect()
            if self._line.ready():
                return

    def _submit(self, source: PhotoSource) -> None:
        ticket = Ticket(source=source, data=source.data)
        self._line.add(ticket)
        if source.reader is None:
            self._lanes.submit(ticket)
            return
        if self._readers is None:
            settings = self._settings
            self._readers = ReadPool(settings.read_threads, settings.decoding.timeout, self._read)
            self._room += settings.read_threads
        self._readers.submit(ticket)

    def _read(self, ticket: Ticket) -> None:
        """Send a photo on that has been read, or could not be; called from any thread."""
        (self._lanes.submit if ticket.result is None else self._done.put)(ticket)

    def _collect(self, seconds: float = 0) -> None:
        """Note which photos are done, waiting at most so long for the first; and how time passes."""
        with suppress(Empty):
            self._line.mark_done(self._done.get(timeout=seconds) if seconds else self._done.get_nowait())
            while True:
                self._line.mark_done(self._done.get_nowait())
        now = time.monotonic()
        if self._readers is not None:
            self._readers.advance(min(now - self._seen, _LONGEST_TICK))
        self._seen = now

    def _wait(self) -> None:
        """Wait for a photo; let the first of the line be overtaken if it keeps others waiting."""
        start = time.monotonic()
        self._collect(_TICK)
        waited = min(time.monotonic() - start, _LONGEST_TICK)
        if self._line.ready():
            self._starved = 0.0
            return
        self._starved += waited
        if self._line.wait(waited) or self._starved >= STARVED_AFTER:
            self._starved = 0.0
            if self._settings.decoding.memory is None:  # else the workers have divided it among them
                self._lanes.reinforce()

    def _decoder(self) -> Decoder:
        settings = self._settings
        return ProcessDecoder(settings.decoding) if settings.isolated else ThreadDecoder(settings.decoding)

    def _outcome(self, ticket: Ticket) -> Decoded | PhotoFailure:
        result = ticket.result
        if isinstance(result, BaseException):
            raise result
        if result is None:
            raise RuntimeError(f"photo {ticket.source.name!r} left the line without a result")
        self._flow.read += ticket.read
        if isinstance(result, PhotoFailure) and result.stage == "read":
            return result
        self._flow.decode += result.seconds
        if isinstance(result, PhotoFailure):
            return replace(result, seconds=result.seconds + ticket.read)
        return checked(replace(result, read=ticket.read), self._settings.shapes)


def checked(decoded: Decoded, shapes: ShapeRange) -> Decoded | PhotoFailure:
    """Return a photo that the network takes as it is; any other becomes a ``PhotoFailure``."""
    try:
        shapes.check((1, *decoded.photo.pixels.shape))
    except ConfigError as error:
        seconds = decoded.read + decoded.seconds
        return PhotoFailure(
            name=decoded.source.name, reason=str(error), stage="decode", file=decoded.file, seconds=seconds
        )
    return decoded
