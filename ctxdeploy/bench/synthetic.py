"""Synthetic postings and queries, and the archives and inverted files that hold them.

A photo of 1000 descriptors has about 400 words out of 65,536, popularity is skewed by 2.4 (words · Σ count² / (Σ
count)²), a posting has 128 random bits. A query of 1000 descriptors has 1933 words after assignment to 5 of them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Aggregated, Codebook, Index

WORDS, DIM, SKEW = 65536, 128, 2.4
# Distinct words of a photo for each of its descriptors: 390 of 1000 (`benchmarks/add.py`), 400 and 405 in the archives.
WORDS_PER_DESCRIPTOR = 0.405
BYTES_PER_POSTING = 18
_CHUNK = 4096


@cache
def popularity(words: int = WORDS) -> NDArray[np.float64]:
    """Return how often photos have each word, on average 1: log-normal, whose skew is exp(sigma²); always the same."""
    drawn = np.random.default_rng(2020).lognormal(sigma=np.sqrt(np.log(SKEW)), size=words)
    return np.asarray(drawn / drawn.mean())


def draw_photos(
    count: int, words_per_photo: int, rng: np.random.Generator, words: int = WORDS
) -> Iterator[list[Aggregated]]:
    """Yield chunks of aggregated photos of 128 bits a posting; a word that is drawn twice counts once."""
    ends = np.cumsum(popularity(words))
    while count > 0:
        size = min(_CHUNK, count)
        count -= size
        drawn = np.searchsorted(ends, rng.random(size * words_per_photo) * ends[-1]).clip(max=words - 1)
        owners = np.repeat(np.arange(size, dtype=np.int64), words_per_photo)
        keys = np.unique(owners << 16 | drawn)
        found = (keys & 0xFFFF).astype(np.int32)
        codes = rng.integers(0, 1 << 64, (len(keys), 2), dtype=np.uint64)
        cuts = np.searchsorted(keys >> 16, np.arange(1, size))
        yield [Aggregated(words=w, codes=c) for w, c in zip(np.split(found, cuts), np.split(codes, cuts), strict=True)]


def build_archive(
    path: Path, sizes: Sequence[int], descriptors: int, words: int, seed: int, display: Display
) -> list[str]:
    """Make an archive of synthetic photos, with a snapshot at each size; return the snapshots' names.

    Args:
        path: a new folder.
        sizes: photos, rising.
        descriptors: of a photo.
        words: of the codebook, whose centroids are normal; at most 65,536.
        seed: of everything; the same arguments give the same archive.
        display: shows progress.
    """
    if not 1 <= words <= WORDS or descriptors < 1 or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise ConfigError(
            f"sizes {list(sizes)} must rise from 1, with --words 1..{WORDS} ({words}) and --descriptors ({descriptors})"
        )
    rng = np.random.default_rng(seed)
    centroids = np.random.default_rng(seed + 1).standard_normal((words, DIM), np.float32)
    per_photo = max(1, round(WORDS_PER_DESCRIPTOR * descriptors))
    done, names = 0, []
    codebook = Codebook.from_centroids(centroids)
    with Index.create(path, codebook) as index, display.progress("building", sizes[-1]) as bar:
        for size in sizes:
            for chunk in draw_photos(size - done, per_photo, rng, words):
                for photo in chunk:
                    index.add_aggregated(f"archive/{done:07d}.jpg", photo)
                    done += 1
                bar.advance(len(chunk))
            index.commit()
            names.append(f"photos-{size}")
            index.snapshot(names[-1])
    return names


def draw_queries(index: Index, count: int, descriptors: int, seed: int) -> list[NDArray[np.float32]]:
    """Return descriptors n×D of queries that look like the archive's photos.

    A query's descriptors lie around as many words as a photo of that many descriptors has, drawn as often as the
    archive's photos have them, half a deviation of the centroids away.
    """
    rng = np.random.default_rng(seed)
    centroids = index.codebook.centroids
    counts = np.zeros(len(centroids), np.float64)
    for shard in index._snapshot.shards:
        counts += np.diff(shard.word_offsets)
    if not counts.sum():
        raise ConfigError(f"{index.path} has no postings to measure a search on: index photos first")
    shares = counts / counts.sum()
    kinds = max(1, min(round(WORDS_PER_DESCRIPTOR * descriptors), int((counts > 0).sum())))
    noise = 0.5 * np.asarray(centroids[:: max(1, len(centroids) // 4096)]).std(axis=0)
    queries = []
    for _ in range(count):
        chosen = rng.choice(len(centroids), kinds, replace=False, p=shares)
        words = chosen[np.concatenate([np.arange(kinds), rng.integers(0, kinds, max(descriptors - kinds, 0))])]
        words = words[:descriptors]
        drawn = centroids[words] + noise * rng.standard_normal((len(words), centroids.shape[1]), np.float32)
        queries.append(drawn.astype(np.float32))
    return queries


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
    snapshot = index._snapshot
    count = len(index.codebook)
    words = np.concatenate([np.repeat(np.arange(count), np.diff(shard.word_offsets)) for shard in snapshot.shards])
    numbers: NDArray[np.int64] = np.concatenate(
        [shard.images + base for shard, base in zip(snapshot.shards, snapshot.bases[:-1], strict=True)]
    ).astype(np.int64)
    order = np.lexsort((numbers, words))
    codes = np.concatenate([shard.codes.T for shard in snapshot.shards])[order]
    return build_reference(words[order].astype(np.int32), numbers[order], codes, len(snapshot), count)
