"""The peers: PyTorch on one photo at a time as HOW's own code runs it, and the package ``asmk``."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench.inputs import WORDS
from ctxdeploy.bench.machine import machine
from ctxdeploy.bench.stages import Sample, SearchStages
from ctxdeploy.bench.statistics import timed
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import ConfigError, MismatchError
from ctxdeploy.core.extras import require, require_faiss
from ctxdeploy.index import Aggregated, Index, Searcher, SearchPlace

# Of scores of the same query that both sides compute, in float32 here and float64 there.
_TOLERANCE = 1e-4


class PyTorchSubject:
    """The network of a bundle in PyTorch, fp32: read, decode and scale a photo, then the network.

    The bundle holds its configuration, not its weights: without the checkpoint they are random, which takes the same
    time. Settings: bundle, photos, threads, checkpoint (or None).
    """

    gpu = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        torch = require("torch", "export")
        from ctxdeploy.core import bundle
        from ctxdeploy.export.parity import torch_runner
        from ctxdeploy.runtime.decode import decode_photo

        if settings["threads"] is not None:
            torch.set_num_threads(settings["threads"])
        opened = bundle.open(settings["bundle"], check_hashes=False)
        self._preprocessing = opened.preprocessing
        self._paths = [Path(photo) for photo in settings["photos"]]
        self._pixels = [decode_photo(path, self._preprocessing).pixels for path in self._paths]
        self._run = torch_runner(self._network(opened, settings["checkpoint"]))
        self.items = len(self._paths)
        self.facts = {
            "backend": "PyTorch",
            "backend_version": str(torch.__version__),
            "precision": "fp32",
            "threads": torch.get_num_threads(),
            "weights": "random" if settings["checkpoint"] is None else "those of the bundle",
        }

    def _network(self, bundle: Any, checkpoint: str | None) -> Any:
        from ctxdeploy.export import untrained_network
        from ctxdeploy.export.networks import NetworkConfig

        if checkpoint is None:
            extraction = replace(bundle.extraction)
            return untrained_network(NetworkConfig.parse(bundle.network), extraction, self._pixels[:2])
        from ctxdeploy.export import load_checkpoint

        loaded = load_checkpoint(checkpoint)
        if loaded.weights_sha256() != bundle.source["weights_sha256"]:
            raise MismatchError(f"{checkpoint} is not the checkpoint that {bundle.path} was made from (--checkpoint)")
        return loaded.network(bundle.extraction)

    def warm(self) -> None:
        """Run a photo of each shape."""
        self.run(list({pixels.shape: number for number, pixels in enumerate(self._pixels)}.values()))

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``."""
        from ctxdeploy.runtime.decode import decode_bytes, read_file

        samples = []
        for number in items:
            start = time.perf_counter()
            read, data = timed(partial(read_file, self._paths[number]))
            decoded, photo = timed(partial(decode_bytes, data, self._preprocessing))
            network, _ = timed(partial(self._run, photo.pixels[None]))
            seconds = time.perf_counter() - start
            stages = {"read": read, "decode": decoded, "network": network}
            samples.append(Sample(seconds=seconds, stages=stages))
        return samples


def choose_openblas() -> str | None:
    """Have faiss' OpenBLAS use its fastest loops, before asmk or faiss is loaded; return ``OPENBLAS_CORETYPE``.

    On AMD's processors with AVX-512 it takes those for Cooper Lake: 1000 descriptors to 65,536 words took 357 ms on one
    thread of Zen 5, with those for Skylake 107. A variable that is set stays.
    """
    facts = machine()
    if "AMD" in facts["processor"] and "avx512f" in facts["vector_flags"]:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    return os.environ.get("OPENBLAS_CORETYPE")


class AsmkSubject:
    """Queries through ``asmk``: assignment by faiss, its aggregation, its inverted file with our postings.

    Settings: as those of ``SearchSubject``. Its scores are compared with ours before anything is timed.
    """

    gpu = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        core = choose_openblas()
        require("asmk", "bench")
        faiss = require_faiss("bench")
        from asmk.codebook import Codebook as Words
        from asmk.kernel import ASMKKernel

        from ctxdeploy.bench.inputs import draw_queries

        faiss.omp_set_num_threads(settings["threads"])
        self._top = int(settings["top"])
        with Index.open(settings["archive"], at=settings["at"]) as index:
            centroids = np.ascontiguousarray(index.codebook.centroids)
            self._count = index.config.query_assignment
            self._inverted, self._similarity = reference_of(index)
            self._queries = draw_queries(index, settings["queries"], settings["descriptors"], settings["seed"])
            self._flat = faiss.IndexFlatL2(centroids.shape[1])
            self._flat.add(centroids)
            words = Words(None, size=len(centroids))
            words.centroids = centroids
            self._kernel = ASMKKernel(words, binary=True)
            query = SearchStages(index, 1, self._top).query(self._queries[0])
            worst = score_difference(index, (self._inverted, self._similarity), query, self._top)
        self.items = len(self._queries)
        self.facts = {
            "search": SearchPlace.of(CPU, settings["threads"]).metadata(),
            "largest_relative_score_difference": worst,
            "openblas_core": core,
        }

    def warm(self) -> None:
        """Ask every query once."""
        self.run(range(self.items))

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``."""
        samples = []
        for number in items:
            vectors = self._queries[number]
            start = time.perf_counter()
            assigned, (_, found) = timed(partial(self._flat.search, vectors, self._count))
            spent, (codes, words) = timed(partial(self._kernel.aggregate_image, vectors, found))
            searched, _ = timed(
                partial(self._inverted.search, codes, words, similarity_func=self._similarity, topk=self._top)
            )
            seconds = time.perf_counter() - start
            samples.append(Sample(seconds=seconds, stages={"assign": assigned, "aggregate": spent, "search": searched}))
        return samples


def score_difference(index: Index, reference: tuple[Any, Callable[..., Any]], query: Aggregated, top: int) -> float:
    """Return the largest relative difference between our scores of the best photos and those of ``asmk``.

    Raises:
        ConfigError: the difference is larger than rounding explains.
    """
    hits = Searcher(index.state).search([query], top, scoring=index.config.scoring())[0]
    packed = np.ascontiguousarray(query.codes).view(np.uint32)
    _, scores = reference[0].search(packed, query.words, similarity_func=reference[1], topk=top)
    ours, theirs = np.zeros(len(scores)), np.asarray(scores)
    ours[: len(hits)] = [hit.score for hit in hits]
    worst = float((np.abs(ours - theirs) / np.maximum(theirs, 1e-30)).max(initial=0.0))
    if worst > _TOLERANCE:
        raise ConfigError(f"the scores of asmk differ from ours by {worst:.1e}: measure with --no-peer")
    return worst


def build_reference(
    words: NDArray[np.int32], numbers: NDArray[np.int64], codes: NDArray[np.uint64], photos: int, count: int = WORDS
) -> tuple[Any, Callable[..., Any]]:
    """Return the inverted file of the package ``asmk`` of postings sorted by word, and its similarity function.

    Its own ``add`` would take an hour.
    """
    from asmk.inverted_file import IVF
    from asmk.kernel import ASMKKernel

    offsets = np.searchsorted(words, np.arange(count + 1))
    packed = np.ascontiguousarray(codes).view(np.uint32)
    spans = [slice(offsets[word], offsets[word + 1]) for word in range(count)]
    filled = [span.stop > span.start for span in spans]
    inverted = IVF(
        norm_factor=np.bincount(numbers, minlength=photos).astype(np.float64),
        n_images=photos,
        ivf_vecs=[packed[span] if full else None for span, full in zip(spans, filled, strict=True)],
        ivf_image_ids=[numbers[span] if full else None for span, full in zip(spans, filled, strict=True)],
        counts=np.diff(offsets).astype(np.int32),
        idf=np.ones(count, np.float32),
        imid_offset=0,
        use_idf=False,
    )
    kernel = ASMKKernel(None, binary=True)

    def similarity(query: Any, vectors: Any, numbers: Any) -> Any:
        return kernel.similarity(query, vectors, numbers, alpha=3.0, similarity_threshold=0.0)

    return inverted, similarity


def reference_of(index: Index) -> tuple[Any, Callable[..., Any]]:
    """Return the inverted file of ``asmk`` that holds an archive's postings; photos are numbered as in the archive."""
    snapshot = index.state
    count = len(index.codebook)
    words = np.concatenate([np.repeat(np.arange(count), np.diff(shard.word_offsets)) for shard in snapshot.shards])
    numbers: NDArray[np.int64] = np.concatenate(
        [shard.images + base for shard, base in zip(snapshot.shards, snapshot.bases[:-1], strict=True)]
    ).astype(np.int64)
    order = np.lexsort((numbers, words))
    codes = np.concatenate([shard.codes.T for shard in snapshot.shards])[order]
    return build_reference(words[order].astype(np.int32), numbers[order], codes, len(snapshot), count)
