"""Decoded photos through the network, in batches that fit into memory, and where the time goes."""

import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ctxdeploy.core.errors import OutOfMemoryError
from ctxdeploy.core.types import LocalDescriptors, PhotoDescriptors, StageSeconds
from ctxdeploy.runtime.backends.base import Backend, GraphOutputs
from ctxdeploy.runtime.decoder import Decoded
from ctxdeploy.runtime.memory import Growth, return_free
from ctxdeploy.runtime.photo import PhotoFailure


@dataclass(kw_only=True)
class Flow:
    """Seconds and counts of one ``Extractor.extract``, growing while it runs.

    Reading and decoding run beside each other and beside the network: their seconds are summed over all workers.
    Waiting and network are seconds of the thread that takes the results: they add up to at most the time that passed.

    Attributes:
        photos: results so far, failures among them.
        failed: failures.
        read: reading photos that are no files (tar, servers).
        decode: decoding and scaling; for files reading too.
        waiting: the network had nothing to do, for no photo was ready.
        network: the network ran.
        replaced_workers: processes that died or hung.
        halved_batches: batches that did not fit into memory.
    """

    photos: int = 0
    failed: int = 0
    read: float = 0.0
    decode: float = 0.0
    waiting: float = 0.0
    network: float = 0.0
    replaced_workers: int = 0
    halved_batches: int = 0

    def metadata(self) -> dict[str, Any]:
        """Return the figures as JSON prints them."""
        return asdict(self)


class Network:
    """An engine, and what is known of its need of memory.

    Args:
        backend: the engine.
        growth: foretells batches within a limit of memory; None without a limit.
    """

    def __init__(self, backend: Backend, growth: Growth | None = None) -> None:
        self._backend, self._growth = backend, growth
        self._failed: list[tuple[int, int]] = []
        # Queries of other threads come between two batches: engines take one at a time, and so do the figures here.
        self._turn = threading.Lock()

    def run(self, batch: list[Decoded], flow: Flow) -> Iterator[PhotoDescriptors | PhotoFailure]:
        """Run the network on photos of one shape; yield one result for each, in their order.

        A batch that does not fit into memory is halved, and so are later ones of that size or a larger one. A single
        photo that does not fit is a failure.

        Raises:
            BackendError: the network failed otherwise.
        """
        rest = batch
        while rest:
            part = rest[: self._fitting(rest[0].photo.pixels.size, len(rest))]
            start = time.perf_counter()
            with self._turn:
                outputs = self._outputs(part)
            seconds = time.perf_counter() - start
            flow.network += seconds
            if isinstance(outputs, GraphOutputs):
                for row, decoded in enumerate(part):
                    yield _result(decoded, outputs, row, seconds / len(part))
            elif len(part) == 1:
                yield _too_large(part[0], outputs)
            else:
                flow.halved_batches += 1
                continue
            rest = rest[len(part) :]

    def _outputs(self, part: list[Decoded]) -> GraphOutputs | str:
        """Return what the engine returns, or why there is not enough memory."""
        pixels = part[0].photo.pixels.size
        try:
            outputs = self._backend.run(np.stack([decoded.photo.pixels for decoded in part]))
        except (OutOfMemoryError, MemoryError) as error:
            message = str(error)
        else:
            if self._growth is not None:
                self._growth.ran(pixels * len(part))
            return outputs
        # Only now nothing refers to the failed run any more: ONNX Runtime with 100 MB to spare failed with each smaller
        # batch as well, for what the larger one had got was not given back.
        return_free()
        if len(part) > 1:
            self._failed.append((pixels, len(part)))
        return message

    def _fitting(self, pixels: int, most: int) -> int:
        """Return how many of ``most`` photos of so many pixels to run at once."""
        halves = [count // 2 for failed, count in self._failed if failed <= pixels]
        if self._growth is not None:
            halves.append(self._growth.fitting(pixels))
        return min(halves, default=most)


def _too_large(decoded: Decoded, message: str) -> PhotoFailure:
    height, width = decoded.photo.pixels.shape[:2]
    reason = f"the network has not enough memory for its {width}×{height} pixels ({message})"
    return PhotoFailure(
        name=decoded.source.name,
        reason=reason,
        stage="network",
        file=decoded.file,
        seconds=decoded.read + decoded.seconds,
    )


def _result(decoded: Decoded, outputs: GraphOutputs, row: int, seconds: float) -> PhotoDescriptors | PhotoFailure:
    name = decoded.source.name
    attention = outputs.attention[row]
    keep = attention != 0  # not > 0, which would take NaN for padding
    vectors = outputs.descriptors[row][keep]
    if not (np.isfinite(attention).all() and np.isfinite(vectors).all()):
        return PhotoFailure(
            name=name,
            reason="the network returned NaN or infinity",
            stage="network",
            file=decoded.file,
            seconds=decoded.read + decoded.seconds + seconds,
        )
    descriptors = LocalDescriptors(
        vectors=vectors,
        attention=attention[keep],
        positions=decoded.photo.to_original(outputs.positions[row][keep]),
        scales=outputs.scales[row][keep],
    )
    return PhotoDescriptors(
        name=name,
        descriptors=descriptors,
        size=decoded.photo.original_size,
        seconds=StageSeconds(read=decoded.read, decode=decoded.seconds, network=seconds),
        file=decoded.file,
    )
