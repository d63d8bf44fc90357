"""An opened bundle that turns photos into local descriptors."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.cpu import check_address_space
from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.device import Device
from ctxdeploy.core.errors import BackendError, ConfigError, PhotoError
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import LIBJPEG, TURNS, Box, LocalDescriptors, PhotoDescriptors
from ctxdeploy.runtime.backends.base import RunLimits
from ctxdeploy.runtime.backends.choice import open_backend
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.config import MAX_BYTES, NETWORK_TIMES, ExtractorConfig
from ctxdeploy.runtime.decode.nvimgcodec import check_decoder
from ctxdeploy.runtime.memory import MemoryGrowth, share_memory
from ctxdeploy.runtime.network import ExtractionStatistics, Network
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource, WorkItem
from ctxdeploy.runtime.pipeline import stream
from ctxdeploy.runtime.reading import read_now
from ctxdeploy.runtime.worker import DecodeSettings, decode_item


class Extractor:
    """A network ready to extract. One thread at a time may ``extract``; any number may ``extract_one`` meanwhile.

    Args:
        bundle: as ``ctxdeploy.core.bundle.open`` returns it.
        backend: engine, precision and threads.
        config: batches, workers, limits and queues.

    Attributes:
        device: that was asked for.

    Raises:
        ConfigError: settings that exclude each other, a batch size that the bundle does not take, or a memory limit
            below what the model needs.
        MissingExtraError: the engine is not installed.
        BackendError: the engine cannot run the bundle on this machine in this precision.
        OutOfMemoryError: ``ulimit -v`` is too low to load it.
    """

    # So many pools of decoding processes share a limit of memory.
    _pools = 1

    def __init__(
        self, bundle: Bundle, *, backend: BackendConfig | None = None, config: ExtractorConfig | None = None
    ) -> None:
        check_address_space()
        self.bundle = bundle
        self.config = config or ExtractorConfig()
        low, high = bundle.shapes.batch
        if low > 1:
            raise ConfigError(
                f"the bundle takes {low}..{high} photos at once, but the last batch may hold one: export anew"
            )
        if self.config.batch > high:
            raise ConfigError(
                f"batch size {self.config.batch} exceeds the bundle's {high}: give a smaller --batch-size"
            )
        self.device = Device.parse((backend or BackendConfig()).device)
        if self.config.memory_limit is not None and bundle.preprocessing.decoder != LIBJPEG:
            raise ConfigError(
                f"--memory-limit bounds processes that decode, and {bundle.preprocessing.decoder} needs what cannot be "
                "bounded so: leave it out, or export the model without --decoder"
            )
        check_decoder(bundle.preprocessing, self.device.number)
        self._backend = open_backend(bundle, backend or BackendConfig())
        if self.config.batch_size is None:
            self.config = replace(self.config, batch_size=min(self._backend.fitting_batch, high))
        limit = self.config.memory_limit
        self._backend.limits = RunLimits(seconds=NETWORK_TIMES * self.config.photo_timeout, memory=limit)
        processes = self._pools * self.config.workers if self.config.isolated else 0
        shares = None if limit is None else share_memory(limit, processes)
        self._in_force = self.config.in_force(bundle.preprocessing.image_size, shares.waiting if shares else None)
        self._decoding = DecodeSettings(
            preprocessing=bundle.preprocessing,
            limits=self.config.limits,
            timeout=self.config.photo_timeout,
            memory=shares.worker if shares is not None and self.config.isolated else None,
            reading=MAX_BYTES if shares is None else min(shares.reading, MAX_BYTES),
            gpu=self.device.number,
        )
        self._network = Network(self._backend, bundle.shapes, MemoryGrowth(shares.network) if shares else None)
        self._statistics = ExtractionStatistics()

    @property
    def statistics(self) -> ExtractionStatistics:
        """Seconds and counts of the latest ``extract``; they grow while it runs."""
        return self._statistics

    def extract(self, photos: Iterable[PhotoSource]) -> Generator[PhotoDescriptors | PhotoFailure, None, None]:
        """Yield one result per photo, while later photos are being decoded.

        Results come in the order of the photos, but for two things: a batch waits until it is full, and a photo that
        keeps others from the network for three seconds is overtaken. A photo that fails becomes a ``PhotoFailure`` and
        the others go on. Closing the generator early ends its threads and processes. Exceptions of ``photos`` itself
        pass through.

        Raises:
            BackendError: the network failed, or no worker can be started.
            ConfigError: there is something else among the photos.
        """
        self._statistics = ExtractionStatistics()
        return stream(_sources(photos), self._network, self._in_force, self._decoding, self._statistics)

    def extract_one(
        self, photo: PhotoSource | Path | str | bytes, box: Box | None = None, *, deadline: Deadline | None = None
    ) -> LocalDescriptors:
        """Return the descriptors of one photo, which is decoded in this thread and without a time limit.

        Args:
            photo: a file, the bytes of one, or a ``PhotoSource``.
            box: the part to extract; it replaces that of a ``PhotoSource``.
            deadline: until when they are wanted; what has begun is ended.

        Raises:
            PhotoError: the photo cannot be read, or the box does not lie in it.
            BackendError: the network failed.
            DeadlineError: the deadline was over before decoding, or before the network.
        """
        return self.extract_turned(photo, box, deadline=deadline)[0].descriptors

    def extract_turned(
        self,
        photo: PhotoSource | Path | str | bytes,
        box: Box | None = None,
        *,
        turns: Sequence[int] = (0,),
        deadline: Deadline | None = None,
    ) -> list[PhotoDescriptors]:
        """As ``extract_one``, for several turns of the photo, which is decoded once.

        Args:
            photo, box, deadline: as there; the box is one of the photo as it is.
            turns: degrees, 0, 90, 180 or 270, by which the decoded pixels are turned clockwise for the network.

        Returns:
            a result for each turn, in their order; positions and size are those of the photo as it is.
        """
        if any(turn not in TURNS for turn in turns):
            raise ConfigError(f"turns {tuple(turns)} are not among {TURNS}")
        wanted = deadline or Deadline()
        wanted.check()
        item = self._read(_source(photo, box))
        name = printable(item.source.name)
        self._decode(item, wanted)
        if isinstance(item.result, BaseException):
            raise item.result
        if isinstance(item.result, PhotoFailure):
            raise PhotoError(f"{name}: {item.result.reason}")
        items = [replace(item, result=item.pixels.turned(turn) if turn else item.pixels) for turn in turns]
        for one in items:
            self._network.check(one)
            if isinstance(one.result, PhotoFailure):
                raise PhotoError(f"{name}: {one.result.reason}")
        return [_described(name, result) for result in self._describe(items, wanted)]

    def _read(self, source: PhotoSource) -> WorkItem:
        """Return a photo to be decoded, with its bytes if it is not a file."""
        try:
            return WorkItem(source=source, content=read_now(source))
        except PhotoError as error:
            raise PhotoError(f"{printable(source.name)}: {error}") from error

    def _decode(self, item: WorkItem, wanted: Deadline) -> None:
        """Set the pixels of a photo, its failure, or what ends the extraction."""
        wanted.check()
        decode_item(item, replace(self._decoding, memory=None))

    def _describe(self, items: Sequence[WorkItem], wanted: Deadline) -> list[PhotoDescriptors | PhotoFailure]:
        """Return what the network finds in decoded photos."""
        found: list[PhotoDescriptors | PhotoFailure] = []
        for item in items:
            wanted.check()
            found += self._network.run([item], ExtractionStatistics())
        return found

    def description(self) -> dict[str, Any]:
        """Return what runs, for manifests and reports; every value fits into JSON."""
        backend = self._backend
        return {
            "backend": backend.name,
            "backend_version": backend.version,
            "device": backend.device,
            "precision": backend.precision,
            "threads": backend.threads,
            "batch_size": self.config.batch_size,
            "workers": self.config.workers,
            "isolated": self.config.isolated,
            "model_id": self.bundle.model_id,
            "preprocessing_hash": self.bundle.preprocessing.hash,
        }


def _described(name: str, result: PhotoDescriptors | PhotoFailure) -> PhotoDescriptors:
    if isinstance(result, PhotoFailure):
        raise BackendError(f"{name}: {result.reason}")
    return result


def _sources(photos: Iterable[PhotoSource]) -> Iterator[PhotoSource]:
    advice = "give find_photos(folder), or a PhotoSource(name=…, path=…) for each; extract_one takes a path"
    try:
        given = iter(photos)
    except TypeError as error:
        raise ConfigError(f"extract takes several photos, not {photos!r}: {advice}") from error
    for photo in given:
        if not isinstance(photo, PhotoSource):
            raise ConfigError(f"extract takes PhotoSource, not {type(photo).__name__}: {advice}")
        yield photo


def _source(photo: PhotoSource | Path | str | bytes, box: Box | None) -> PhotoSource:
    if isinstance(photo, PhotoSource):
        if box is None:
            return photo
        return PhotoSource(name=photo.name, path=photo.path, data=photo.data, reader=photo.reader, box=box)
    if isinstance(photo, bytes):
        return PhotoSource(name=f"photo of {len(photo):,} bytes", data=photo, box=box)
    return PhotoSource(name=str(photo), path=Path(photo), box=box)
