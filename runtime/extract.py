"""The door of the runtime: an opened bundle that turns photos into local descriptors."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctxdeploy.bundle import Bundle
from ctxdeploy.descriptors import LocalDescriptors
from ctxdeploy.errors import BackendError, ConfigError, PhotoError
from ctxdeploy.runtime.backends import open_backend
from ctxdeploy.runtime.backends.base import BackendConfig
from ctxdeploy.runtime.batching import BatchingConfig
from ctxdeploy.runtime.boxes import Box
from ctxdeploy.runtime.pipeline import decode, run_batch, stream
from ctxdeploy.runtime.sources import Extracted, PhotoFailure, PhotoSource
from ctxdeploy.text import printable


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig:
    """How photos flow.

    Attributes:
        batch_size: photos of one size that the network takes at once. On a CPU 1: batches gain 2 % at most and cost
            3.6 times the memory at 8.
        decode_threads: threads that read and decode.
        lookahead: photos that may be decoded ahead of the network (3 MB each at 1024 pixels).
        max_pending: decoded photos that may wait for others of their size.
        max_age: a photo that waits leaves when this many others came after it.
    """

    batch_size: int = 1
    decode_threads: int = 2
    lookahead: int = 8
    max_pending: int = 64
    max_age: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.decode_threads <= 256:
            raise ConfigError(
                f"{self.decode_threads} decoding threads are outside 1..256: give another --decode-threads"
            )
        if self.lookahead < 1:
            raise ConfigError(f"lookahead {self.lookahead} is below 1")
        self.batching()

    def batching(self) -> BatchingConfig:
        """Return the part that groups photos by size."""
        max_pending = max(self.max_pending, self.batch_size)
        return BatchingConfig(batch_size=self.batch_size, max_pending=max_pending, max_age=self.max_age)


class Extractor:
    """A network ready to extract. Use it from one thread at a time.

    Args:
        bundle: as ``ctxdeploy.bundle.open`` returns it.
        backend: engine, precision and threads.
        config: batches, threads and queues.

    Raises:
        ConfigError: settings that exclude each other, or a batch size that the bundle does not take.
        MissingExtraError: the engine is not installed.
        BackendError: the engine cannot run the bundle on this machine in this precision.
    """

    def __init__(
        self, bundle: Bundle, *, backend: BackendConfig | None = None, config: ExtractorConfig | None = None
    ) -> None:
        self.bundle = bundle
        self.config = config or ExtractorConfig()
        low, high = bundle.shapes.batch
        if low > 1:
            raise ConfigError(
                f"the bundle takes {low}..{high} photos at once, but the last batch may hold one: export anew"
            )
        if self.config.batch_size > high:
            raise ConfigError(
                f"batch size {self.config.batch_size} exceeds the bundle's {high}: give a smaller --batch-size"
            )
        self._backend = open_backend(bundle, backend or BackendConfig())

    def extract(self, photos: Iterable[PhotoSource]) -> Generator[Extracted | PhotoFailure, None, None]:
        """Yield one result per photo, in any order, while later photos are being decoded.

        A photo that fails becomes a ``PhotoFailure`` and the others go on. Closing the generator early ends its
        threads. Exceptions of ``photos`` itself pass through.

        Raises:
            BackendError: the network failed.
        """
        config = self.config
        return stream(photos, self.bundle, self._backend, config.batching(), config.decode_threads, config.lookahead)

    def extract_one(self, photo: PhotoSource | Path | str | bytes, box: Box | None = None) -> LocalDescriptors:
        """Return the descriptors of one photo.

        Args:
            photo: a file, the bytes of one, or a ``PhotoSource``.
            box: the part to extract; it replaces that of a ``PhotoSource``.

        Raises:
            PhotoError: the photo cannot be read, or the box does not lie in it.
            BackendError: the network failed.
        """
        source = _source(photo, box)
        decoded = decode(source, self.bundle.preprocessing, self.bundle.shapes)
        if isinstance(decoded, PhotoFailure):
            raise PhotoError(f"{printable(decoded.name)}: {decoded.reason}")
        (result,) = run_batch([decoded], self._backend)
        if isinstance(result, PhotoFailure):
            raise BackendError(f"{printable(result.name)}: {result.reason}")
        return result.descriptors

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
            "decode_threads": self.config.decode_threads,
            "model_id": self.bundle.model_id,
            "preprocessing_hash": self.bundle.preprocessing.hash,
        }


def _source(photo: PhotoSource | Path | str | bytes, box: Box | None) -> PhotoSource:
    if isinstance(photo, PhotoSource):
        return replace(photo, box=box) if box is not None else photo
    if isinstance(photo, bytes):
        return PhotoSource(name=f"photo of {len(photo):,} bytes", data=photo, box=box)
    return PhotoSource(name=str(photo), path=Path(photo), box=box)
