"""Photos to descriptors as a stream: decoding threads run ahead of the network by a bounded number of photos.

The network runs in the caller's thread (the engines release the GIL), so that an exception, a closed generator or
Ctrl-C ends it where it stands.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ctxdeploy.bundle import Bundle, ShapeRange
from ctxdeploy.descriptors import LocalDescriptors
from ctxdeploy.errors import ConfigError, PhotoError
from ctxdeploy.preprocessing import Preprocessing
from ctxdeploy.runtime.backends.base import Backend, GraphOutputs
from ctxdeploy.runtime.batching import BatchingConfig, ShapeBatcher
from ctxdeploy.runtime.decode import Photo, decode_bytes, read_file
from ctxdeploy.runtime.sources import Extracted, FileState, PhotoFailure, PhotoSource, StageSeconds

THREAD_PREFIX = "ctxdeploy-decode"


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A photo on its way from the decoder to the network."""

    source: PhotoSource
    photo: Photo
    seconds: float
    file: FileState | None


def decode(source: PhotoSource, preprocessing: Preprocessing, shapes: ShapeRange) -> Decoded | PhotoFailure:
    """Read and decode one photo; whatever is wrong with it becomes a ``PhotoFailure``."""
    start = time.perf_counter()
    file = source.state()
    try:
        data = _read(source)
        photo = decode_bytes(data, preprocessing, source.box)
        shapes.check((1, *photo.pixels.shape))
    except (PhotoError, ConfigError) as error:
        return PhotoFailure(name=source.name, reason=str(error), stage="decode", file=file)
    return Decoded(source=source, photo=photo, seconds=time.perf_counter() - start, file=file)


def stream(
    photos: Iterable[PhotoSource],
    bundle: Bundle,
    backend: Backend,
    batching: BatchingConfig,
    decode_threads: int,
    lookahead: int,
) -> Generator[Extracted | PhotoFailure, None, None]:
    """Yield one result per photo, in any order. Closing the generator ends the decoding threads.

    Raises:
        BackendError: the network failed.
    """
    batcher: ShapeBatcher[Decoded] = ShapeBatcher(batching)
    for decoded in _decode_ahead(photos, bundle, decode_threads, lookahead):
        if isinstance(decoded, PhotoFailure):
            yield decoded
            continue
        for batch in batcher.add(decoded.photo.pixels.shape, decoded):
            yield from run_batch(batch, backend)
    for batch in batcher.flush():
        yield from run_batch(batch, backend)


def _decode_ahead(
    photos: Iterable[PhotoSource], bundle: Bundle, threads: int, lookahead: int
) -> Iterator[Decoded | PhotoFailure]:
    queue: deque[Future[Decoded | PhotoFailure]] = deque()
    executor = ThreadPoolExecutor(threads, thread_name_prefix=THREAD_PREFIX)
    try:
        for source in photos:
            queue.append(executor.submit(decode, source, bundle.preprocessing, bundle.shapes))
            if len(queue) > lookahead:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        # What is being decoded is finished, at most one photo per thread; what waits is dropped.
        executor.shutdown(wait=True, cancel_futures=True)


def run_batch(batch: list[Decoded], backend: Backend) -> Iterator[Extracted | PhotoFailure]:
    """Run the network on photos of one shape; yield one result for each.

    Raises:
        BackendError: the network failed.
    """
    start = time.perf_counter()
    outputs = backend.run(np.stack([decoded.photo.pixels for decoded in batch]))
    seconds = (time.perf_counter() - start) / len(batch)
    for row, decoded in enumerate(batch):
        yield _result(decoded, outputs, row, seconds)


def _result(decoded: Decoded, outputs: GraphOutputs, row: int, seconds: float) -> Extracted | PhotoFailure:
    name = decoded.source.name
    attention = outputs.attention[row]
    keep = attention != 0  # not > 0, which would take NaN for padding
    vectors = outputs.descriptors[row][keep]
    if not (np.isfinite(attention).all() and np.isfinite(vectors).all()):
        return PhotoFailure(
            name=name, reason="the network returned NaN or infinity", stage="network", file=decoded.file
        )
    descriptors = LocalDescriptors(
        vectors=vectors,
        attention=attention[keep],
        positions=decoded.photo.to_original(outputs.positions[row][keep]),
        scales=outputs.scales[row][keep],
    )
    return Extracted(
        name=name,
        descriptors=descriptors,
        size=decoded.photo.original_size,
        seconds=StageSeconds(decode=decoded.seconds, network=seconds),
        file=decoded.file,
    )


def _read(source: PhotoSource) -> bytes:
    if source.reader is not None:
        return source.reader.read()
    return read_file(source.path) if source.path is not None else source.data or b""
