"""An extractor that any number of threads ask at once, for a service."""

import threading
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Self

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.deadline import Deadline, Promise
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.config import ExtractorConfig
from ctxdeploy.runtime.extractor import Extractor
from ctxdeploy.runtime.network_queue import ExtractionObserver, NetworkQueue, Unobserved, closed, reporting
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource, WorkItem
from ctxdeploy.runtime.pipeline import make_decoder
from ctxdeploy.runtime.pools import DecodePool


class QueuedExtractor(Extractor):
    """An ``Extractor`` that any number of threads ask at once: each waits until its own result is there.

        with QueuedExtractor(bundle, config=ExtractorConfig(batch_size=8)) as extractor:
            with PhotoIndex.open("photos.ctxindex", extractor=extractor) as photos:
                ...

    Photos are decoded in worker processes with a time limit, ``config.workers`` of them, so that one that crashes the
    decoder or hangs fails alone (in threads without a limit where ``config.isolated`` is False). Decoded ones wait
    while the network runs, and those of exactly one shape go together in its next batch, oldest first, at most
    ``config.batch_size``; nobody waits while the network is idle. Results are those of ``Extractor``. Photos that are
    not files are read in the thread that asks.

    One thread at a time may ``extract`` beside the others, with processes of its own; the network takes turns.

    Args:
        bundle, backend, config: as of ``Extractor``, which says what it raises.
        observer: told seconds of decoding and network, and the size of each batch.
    """

    # Of its own, and of ``extract``.
    _pools = 2

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: BackendConfig | None = None,
        config: ExtractorConfig | None = None,
        observer: ExtractionObserver | None = None,
    ) -> None:
        super().__init__(bundle, backend=backend, config=config)
        self._observer = observer or Unobserved()
        self._lock = threading.Lock()
        self._decoding_now: dict[WorkItem, Promise[None]] = {}
        self._is_closed = False
        self._decoders = DecodePool(
            lambda: make_decoder(self._in_force, self._decoding),
            self._in_force.workers,
            self._pass_on,
            self._is_wanted,
        )
        self._queue = NetworkQueue(self._network, self._in_force.batch, self._observer)

    @property
    def waiting(self) -> int:
        """Photos that are being decoded, or wait for that or for the network."""
        return len(self._decoding_now) + len(self._queue)

    def extract(self, photos: Iterable[PhotoSource]) -> Generator[PhotoDescriptors | PhotoFailure, None, None]:
        """As ``Extractor.extract``; ``BackendError`` if it is closed."""
        self._check_open()
        return super().extract(photos)

    def close(self) -> None:
        """End threads and processes. Calls that wait, and later ones, raise ``BackendError``. May be called twice."""
        with self._lock:
            self._is_closed = True
            left = list(self._decoding_now.values())
        for promise in left:
            promise.fail(closed())
        self._queue.close()
        self._decoders.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, source: PhotoSource) -> WorkItem:
        self._check_open()
        return super()._read(source)

    def _decode(self, item: WorkItem, wanted: Deadline) -> None:
        promise: Promise[None] = Promise(wanted)
        with self._lock:
            self._check_open()
            self._decoding_now[item] = promise
        try:
            self._decoders.submit(item)
            promise.wait()
        finally:
            with self._lock:
                del self._decoding_now[item]
        with reporting():
            self._observer.decoded(item.seconds.total)

    def _describe(self, items: Sequence[WorkItem], wanted: Deadline) -> list[PhotoDescriptors | PhotoFailure]:
        return self._queue.run(items, wanted)

    def _is_wanted(self, item: WorkItem) -> bool:
        """Return whether somebody still waits for a photo whose turn to be decoded has come."""
        promise = self._decoding_now.get(item)
        return promise is not None and promise.is_wanted

    def _pass_on(self, item: WorkItem) -> None:
        """Note that a photo was decoded, or failed; called from the thread that did it."""
        promise = self._decoding_now.get(item)
        if promise is not None:
            promise.give(None)

    def _check_open(self) -> None:
        if self._is_closed:
            raise closed()
