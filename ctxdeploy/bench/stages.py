"""The stages that a photo and a query pass through, each timed by itself, one after another in one thread."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench.machine import GpuMemory
from ctxdeploy.bench.statistics import timed
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.index import Aggregated, Index, Searcher, SearchPlace, SearchThreads
from ctxdeploy.runtime import BackendConfig
from ctxdeploy.runtime.backends import open_backend
from ctxdeploy.runtime.decode import Pixels, decode_bytes, decode_photo, read_file

# Larger than any photo: then decoding does not scale.
_UNSCALED = 16384


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One timed photo or query.

    Attributes:
        seconds: of the whole, by a clock of its own.
        stages: seconds by name; they need not add up to the whole.
    """

    seconds: float
    stages: dict[str, float]


class PhotoStages:
    """Read, decode, scale, network.

    Args:
        bundle: the model.
        backend: engine, precision, threads.
        paths: photos.

    Attributes:
        pixels: of every photo, as the network takes them.
        gpu: memory of the engine's GPU.
    """

    def __init__(self, bundle: Bundle, backend: BackendConfig, paths: Sequence[Path]) -> None:
        self.gpu = GpuMemory(backend.engine, backend.gpu)
        self.backend = open_backend(bundle, backend)
        self._preprocessing = bundle.preprocessing
        self._paths = paths
        self.pixels = [decode_photo(path, bundle.preprocessing).pixels for path in paths]

    def extract(self, number: int) -> tuple[Sample, NDArray[np.float32]]:
        """Time a photo; returns its descriptors n×D too.

        Decoding and scaling are one call. It is made once more without the scaling, which does not count for the
        whole. With a bundle of ``--draft`` the decoder scales, so that scaling is not a stage.
        """
        start = time.perf_counter()
        read, data = timed(lambda: read_file(self._paths[number]))
        decoded, photo = timed(lambda: self._decode(data))
        network, outputs = timed(lambda: self.backend.run(photo.pixels[None]))
        seconds = time.perf_counter() - start
        stages = {"read": read, "decode": decoded}
        if not self._preprocessing.draft:
            alone, _ = timed(lambda: self._decode(data, scaled=False))
            stages |= {"decode": min(alone, decoded), "scale": max(decoded - alone, 0.0)}
        stages["network"] = network
        return Sample(seconds=seconds, stages=stages), outputs.descriptors[0][outputs.attention[0] != 0]

    def batch(self, number: int, size: int) -> Sample:
        """Time the network on a batch of a photo and others of its shape, or itself again; seconds are of the batch."""
        shape = self.pixels[number].shape
        alike = [pixels for pixels in self.pixels[number:] + self.pixels[:number] if pixels.shape == shape]
        batch = np.stack([alike[i % len(alike)] for i in range(size)])
        seconds, _ = timed(lambda: self.backend.run(batch))
        return Sample(seconds=seconds, stages={"network": seconds})

    def _decode(self, data: bytes, *, scaled: bool = True) -> Pixels:
        size = self._preprocessing.image_size if scaled else _UNSCALED
        return decode_bytes(data, replace(self._preprocessing, image_size=size))


class _TimedSearcher(Searcher):
    """Notes how long the scans of postings take, apart from the selection of the best."""

    def __init__(self, snapshot: Any) -> None:
        super().__init__(snapshot)
        self.scans: list[tuple[int, float]] = []

    def scores(self, *arguments: Any) -> NDArray[np.float32]:
        import threading

        start = time.perf_counter()
        rows = super().scores(*arguments)
        self.scans.append((threading.get_ident(), time.perf_counter() - start))
        return rows


class SearchStages:
    """Assign, aggregate, scan, top-k.

    Args:
        index: an opened archive.
        threads: of assignment and search.
        top: hits.
    """

    def __init__(self, index: Index, threads: int, top: int) -> None:
        self.index, self._top = index, top
        self._threads = SearchThreads(threads)
        self._searcher = _TimedSearcher(index.state)
        self._scoring = index.config.scoring()

    def search(self, vectors: NDArray[np.float32]) -> tuple[Sample, list[Any]]:
        """Time a query's descriptors n×D; returns the hits too.

        With several threads the scan is that of the thread that scans longest; all else of the search counts as top-k.
        """
        index, count = self.index, self.index.config.query_assignment
        start = time.perf_counter()
        assigned, words = timed(lambda: index.codebook.assign(vectors, count, threads=self._threads))
        aggregated, query = timed(lambda: _aggregate(index, vectors, words))
        self._searcher.scans.clear()
        searched, hits = timed(
            lambda: self._searcher.search([query], self._top, scoring=self._scoring, threads=self._threads)
        )
        seconds = time.perf_counter() - start
        by_thread: dict[int, float] = {}
        for thread, spent in self._searcher.scans:
            by_thread[thread] = by_thread.get(thread, 0.0) + spent
        scan = min(max(by_thread.values(), default=0.0), searched)
        stages = {"assign": assigned, "aggregate": aggregated, "scan": scan, "top-k": searched - scan}
        return Sample(seconds=seconds, stages=stages), hits[0]

    @property
    def place(self) -> SearchPlace:
        """Where queries are searched."""
        return SearchPlace.of(self._searcher.device, self._threads.count)

    def query(self, vectors: NDArray[np.float32]) -> Aggregated:
        """Return a query as it is searched for."""
        count = self.index.config.query_assignment
        return _aggregate(self.index, vectors, self.index.codebook.assign(vectors, count))

    def bytes_read(self, vectors: NDArray[np.float32]) -> int:
        """Return the bytes of the postings that a query reads: code and number of the photo."""
        words = self.query(vectors).words
        shards = self.index.state.shards
        postings = sum(
            int((shard.word_offsets[words + 1] - shard.word_offsets[words]).sum(dtype=np.int64)) for shard in shards
        )
        return postings * posting_bytes(self.index)

    def close(self) -> None:
        """End threads, and let go of the archive."""
        self._threads.close()
        self.index.close()


def posting_bytes(index: Index) -> int:
    """Return the bytes of a posting: its code, and two for the photo's number."""
    return index.state.posting_bytes


def _aggregate(index: Index, vectors: NDArray[np.float32], words: NDArray[np.int32]) -> Aggregated:
    from ctxdeploy.index.codebook import aggregate

    return aggregate(vectors, words, index.codebook.centroids, binary=index.config.binary)
