"""What the benchmarks share: synthetic postings and queries, both indexes, bandwidth, times, provenance.

Synthetic: about 400 words a photo out of 65,536, popularity skewed by 2.4 (words · Σ count² / (Σ count)²), 128 random
bits a posting, queries of 1933 words (what 1000 descriptors have after assignment to 5 words), each query other words.
"""

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench.inputs import BYTES_PER_POSTING as BYTES_PER_POSTING
from ctxdeploy.bench.inputs import DIM, WORDS, popularity
from ctxdeploy.bench.inputs import SKEW as SKEW
from ctxdeploy.bench.machine import peak_memory
from ctxdeploy.bench.machine import provenance as provenance
from ctxdeploy.bench.peers import build_reference as build_reference
from ctxdeploy.bench.roofline import bandwidth as bandwidth
from ctxdeploy.bench.statistics import timed as timed
from ctxdeploy.index import Aggregated, Codebook, Index, IndexConfig
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.storage.state import Snapshot

TOP = 10
SCORING = IndexConfig().scoring()


@dataclass(frozen=True, kw_only=True, eq=False)
class Postings:
    """P postings sorted by word, then photo: words int32, photos int64, codes P×2 uint64."""

    words: NDArray[np.int32]
    photos: NDArray[np.int64]
    codes: NDArray[np.uint64]

    def counts(self) -> NDArray[np.int64]:
        """Return the postings of each word."""
        return np.bincount(self.words, minlength=WORDS)


def make_postings(photos: int, words_per_photo: int, rng: np.random.Generator) -> Postings:
    """Draw the postings of one shard."""
    expected = popularity() * (words_per_photo * photos / WORDS)
    counts = np.minimum(rng.poisson(expected), photos // 2)
    words = np.repeat(np.arange(WORDS, dtype=np.int64), counts)
    keys = np.unique(words << 16 | rng.integers(0, photos, len(words)))
    codes = rng.integers(0, 1 << 64, (len(keys), 2), dtype=np.uint64)
    return Postings(words=(keys >> 16).astype(np.int32), photos=keys & 0xFFFF, codes=codes)


def make_query(postings: Postings, words: int, rng: np.random.Generator) -> Aggregated:
    """Draw words as often as photos have them, with codes of which about a quarter of the bits fit a posting's."""
    offsets = np.searchsorted(postings.words, np.arange(WORDS + 1))
    chosen = np.unique(postings.words[rng.integers(0, len(postings.words), 2 * words)])
    chosen = np.sort(rng.permutation(chosen)[:words])
    noise = rng.integers(0, 1 << 64, (2, len(chosen), 2), dtype=np.uint64)
    return Aggregated(words=chosen, codes=postings.codes[offsets[chosen]] ^ (noise[0] & noise[1]))


def random_query(words: int, rng: np.random.Generator) -> Aggregated:
    """Draw words as often as photos have them, with random codes."""
    chosen = rng.choice(WORDS, words, replace=False, p=popularity() / WORDS)
    codes = rng.integers(0, 1 << 64, (words, 2), dtype=np.uint64)
    return Aggregated(words=np.sort(chosen).astype(np.int32), codes=codes)


def build_ours(postings: Postings, photos: int, folder: Path) -> Index:
    """Write the postings to an archive of one shard and open it."""
    order = np.argsort(postings.photos, kind="stable")
    words, codes = postings.words[order], postings.codes[order]
    ends = np.searchsorted(postings.photos[order], np.arange(photos + 1))
    codebook = Codebook.from_centroids(np.random.default_rng(0).normal(size=(WORDS, DIM)).astype(np.float32))
    with Index.create(folder, codebook, config=IndexConfig(shard_images=65536)) as index:
        for photo in range(photos):
            part = slice(ends[photo], ends[photo + 1])
            index.add_aggregated(f"{photo:06d}.jpg", Aggregated(words=words[part], codes=codes[part]))
    return Index.open(folder)


def check_equal(snapshot: Snapshot, reference: tuple[Any, Callable[..., Any]], queries: list[Aggregated]) -> float:
    """Return the largest relative difference of any photo's score; raise if the photos that are found differ.

    Names of photos must hold their numbers.
    """
    inverted, similarity = reference
    worst = 0.0
    for query in queries:
        photos = len(snapshot)
        hits = Searcher(snapshot).search([query], photos, scoring=SCORING)[0]
        ours, theirs = np.zeros(photos), np.zeros(photos)
        ours[[int("".join(filter(str.isdigit, hit.name))) for hit in hits]] = [hit.score for hit in hits]
        packed = np.ascontiguousarray(query.codes).view(np.uint32)
        ranks, scores = inverted.search(packed, query.words, similarity_func=similarity, topk=photos)
        theirs[ranks] = scores
        if not np.array_equal(ours > 0, theirs > 0):
            raise SystemExit("our search and the reference find different photos")
        worst = max(worst, float((np.abs(ours - theirs) / np.maximum(theirs, 1e-30)).max()))
    return worst


def memory_mb() -> int:
    """Return the most memory that this process has had, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def own_memory_mb() -> int:
    """Return the most memory that this process itself has had; ``memory_mb`` of a child begins at its parent's."""
    return (peak_memory() or 0) >> 20


def publish(result: dict[str, Any], output: Path, plot: Callable[[dict[str, Any], Path], None]) -> None:
    """Write a result as JSON, and its plot beside it where matplotlib is installed; print it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    try:
        plot(result, output.with_suffix(".svg"))
    except ImportError as error:
        print(f"no plot: {error}", file=sys.stderr)
    print(json.dumps(result, indent=2))
