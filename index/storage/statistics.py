"""How often each word occurs in an archive, and the norms of its photos under idf.

Both depend on every photo of the archive. An archive whose setting is idf stores them with each commit
(``statistics-000007.safetensors``: ``word_counts`` uint32 W, ``norms`` float64 of every photo, shard after shard), so
that opening it needs no scan of the postings. Elsewhere they are computed when a search asks for idf: 0.2 s for a
million photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.manifest import FileEntry, Manifest, store
from ctxdeploy.index.storage.shard import PLACES, Shard

FORMAT_NAME = "ctxdeploy-statistics"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Statistics of one state.

    Attributes:
        word_counts: W int64, photos that have each word.
        norms: Σ idf over the words of each photo, float64, one array a shard; not defined for removed photos.
        weights: W float64, ln(photos / photos with the word)²; 1 for a word that no photo has, as in the reference.
    """

    word_counts: NDArray[np.int64]
    norms: tuple[NDArray[np.float64], ...]
    weights: NDArray[np.float64]


def compute(shards: Sequence[Shard], words: int) -> Statistics:
    """Return the statistics of the live photos; reads the image number of every posting."""
    photos = sum(len(shard) - len(shard.removed) for shard in shards)
    return of_counts(shards, count_words(shards, words), photos)


def count_words(shards: Sequence[Shard], words: int) -> NDArray[np.int64]:
    """Return how many live photos of these shards have each word, W int64."""
    from ctxdeploy.index.kernels import build as build_kernels

    counts = np.zeros(words, np.int64)
    for shard in shards:
        if len(shard.removed):
            counts += build_kernels.count_words(shard.word_offsets, shard.images, shard.live)
        else:
            counts += np.diff(shard.word_offsets)
    return counts


def of_counts(shards: Sequence[Shard], counts: NDArray[np.int64], photos: int) -> Statistics:
    """Return the statistics of an archive, with the norms of some of its shards.

    Args:
        shards: those whose norms are wanted.
        counts: W int64, live photos of all shards that have each word.
        photos: live ones, of all shards.
    """
    from ctxdeploy.index.kernels import scores as kernels

    weights = _weights(counts, photos)
    norms = []
    for shard in shards:
        # 65,536 places whatever the shard's length: an image number of 16 bits is never out of bounds.
        sums = np.zeros(PLACES, np.float64)
        kernels.add_weights(shard.word_offsets, shard.images, weights, sums)
        norms.append(sums[: len(shard)])
    return Statistics(word_counts=counts, norms=tuple(norms), weights=weights)


def _weights(counts: NDArray[np.int64], photos: int) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.where(counts > 0, np.log(photos / np.maximum(counts, 1)) ** 2, 1.0)


def write_statistics(folder: Path, number: int, statistics: Statistics, through: Path | None = None) -> FileEntry:
    """Write the statistics of a manifest, durably, as ``store``."""
    tensors: file_format.Arrays = {
        "word_counts": statistics.word_counts.astype(np.uint32),
        "norms": np.concatenate([np.empty(0), *statistics.norms]),
    }
    facts = {"format": FORMAT_NAME, "format_version": str(FORMAT_VERSION)}
    return store(folder, f"statistics-{number:06d}.safetensors", file_format.encode(tensors, facts), through)


def with_statistics(
    folder: Path, manifest: Manifest, shards: Sequence[Shard], through: Path | None = None
) -> tuple[Manifest, Statistics | None]:
    """Return a manifest with its statistics, written durably, and the statistics; without any if idf is not set."""
    if not manifest.config.idf:
        return manifest, None
    statistics = compute(shards, manifest.words)
    written = write_statistics(folder, manifest.number, statistics, through)
    return replace(manifest, statistics=written), statistics


def read_statistics(folder: Path, entry: FileEntry, manifest: Manifest) -> Statistics:
    """Return what ``write_statistics`` wrote.

    Raises:
        ArchiveError: missing, damaged or of a newer format; the text names the file and the field.
    """
    path = folder / entry.file
    arrays, metadata = file_format.map_file(path)
    file_format.check_version(metadata, FORMAT_NAME, (FORMAT_VERSION,), str(path))
    ends = np.cumsum([0, *(shard.images for shard in manifest.shards)], dtype=np.int64)
    wanted: dict[str, file_format.Wanted] = {
        "word_counts": ("<u4", (manifest.words,)),
        "norms": ("<f8", (int(ends[-1]),)),
    }
    file_format.check_tensors(arrays, wanted, str(path))
    counts = arrays["word_counts"].astype(np.int64)
    norms = tuple(np.split(arrays["norms"], ends[1:-1])) if len(ends) > 1 else ()
    return Statistics(word_counts=counts, norms=norms, weights=_weights(counts, manifest.images))
