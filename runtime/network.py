"""Decoded photos through the network, in batches that fit into memory."""

import time
from collections.abc import Iterator

import numpy as np

from ctxdeploy.descriptors import LocalDescriptors
from ctxdeploy.errors import OutOfMemoryError
from ctxdeploy.runtime.backends.base import Backend, GraphOutputs
from ctxdeploy.runtime.decoding import Decoded
from ctxdeploy.runtime.flow import Flow
from ctxdeploy.runtime.memory import Growth, return_free
from ctxdeploy.runtime.sources import Extracted, PhotoFailure, StageSeconds


class Network:
    """An engine, and what is known of its need of memory.

    Args:
        backend: the engine.
        growth: foretells batches within a limit of memory; None without a limit.
    """

    def __init__(self, backend: Backend, growth: Growth | None = None) -> None:
        self._backend, self._growth = backend, growth
        self._failed: list[tuple[int, int]] = []

    def run(self, batch: list[Decoded], flow: Flow) -> Iterator[Extracted | PhotoFailure]:
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


def _result(decoded: Decoded, outputs: GraphOutputs, row: int, seconds: float) -> Extracted | PhotoFailure:
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
    return Extracted(
        name=name,
        descriptors=descriptors,
        size=decoded.photo.original_size,
        seconds=StageSeconds(read=decoded.read, decode=decoded.seconds, network=seconds),
        file=decoded.file,
    )
