"""What is measured on: photos, an archive made of them, and synthetic archives with their queries.

Synthetic: a photo of 1000 descriptors has about 400 words out of 65,536, popularity is skewed by 2.4
(words · Σ count² / (Σ count)²), a posting has 128 random bits. A query of 1000 descriptors has 1933 words after
assignment to 5 of them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.core.files import file_sha256
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Aggregated, Codebook, Index

if TYPE_CHECKING:
    from ctxdeploy.bench.cases import BundleEngine

_QUALITY = 92
WORDS, DIM, SKEW = 65536, 128, 2.4
# Distinct words of a photo for each of its descriptors: 390 of 1000 (`benchmarks/index.py add`), 405 in the archives.
WORDS_PER_DESCRIPTOR = 0.405
BYTES_PER_POSTING = 18
_CHUNK = 4096


def photo_files(place: Path | None, count: int, work: Path) -> list[Path]:
    """Return at most ``count`` photos, spread over a folder; without one the sample photos, written to ``work``.

    Raises:
        MissingExtraError: no folder is given, and scikit-image, which holds the samples, is not installed.
        ConfigError, NoPhotosError: it is not a folder, or holds no photos.
        StorageError: ``work`` cannot be written.
    """
    if count < 1:
        raise ConfigError(f"{count} photos: give --count of at least 1")
    if place is None:
        return _samples(count, work / "samples")
    from ctxdeploy.runtime import find_photos

    found = [photo.path for photo in find_photos(place) if photo.path is not None]
    return [found[i * len(found) // count] for i in range(count)] if len(found) > count else found


def photos_hash(photos: Sequence[Path]) -> str:
    """Return the hex sha256 of the photos' bytes, in their order."""
    return hashlib.sha256(" ".join(file_sha256(photo) for photo in photos).encode()).hexdigest()


def _samples(count: int, folder: Path) -> list[Path]:
    from PIL import Image

    from ctxdeploy.core.samples import NAMES, sample_photo

    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES[:count]:
            paths.append(folder / f"{name}.jpg")
            Image.fromarray(sample_photo(name)).save(paths[-1], quality=_QUALITY)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another --work") from error
    return paths


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Where it is.

    Attributes:
        folder: of links to the photos.
        codebook: trained on them.
        archive: of them.
        work: where more archives may be made.
    """

    folder: Path
    codebook: Path
    archive: Path
    work: Path

    def identity(self) -> dict[str, str]:
        """Return what of it decides the figures."""
        return {"codebook": Codebook.load(self.codebook).id}


def prepare(
    engine: "BundleEngine", photos: Sequence[Path], words: int | None, work: Path, display: Display
) -> Prepared:
    """Index the photos once; the same photos, model and engine give the same codebook.

    Raises:
        NoPhotosError, ConfigError: as ``PhotoIndex.add``.
        StorageError: ``work`` cannot be written.
    """
    from ctxdeploy.indexing.config import IndexingConfig
    from ctxdeploy.photo_index import PhotoIndex

    folder, archive, codebook = work / "photos", work / "photos.ctxindex", work / "codebook.safetensors"
    try:
        folder.mkdir()
        for number, photo in enumerate(photos):
            (folder / f"{number:05d}{photo.suffix}").symlink_to(photo.resolve())
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another --work") from error
    config = IndexingConfig(words=words)
    with PhotoIndex.create(archive, model=engine.bundle.path, config=config, backend=engine.config()) as made:
        made.add(folder, display=display)
    with Index.open(archive) as index:
        index.codebook.save(codebook)
    return Prepared(folder=folder, codebook=codebook, archive=archive, work=work)


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
    for shard in index.state.shards:
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


def draw_aggregated(count: int, words: int, rng: np.random.Generator) -> list[Aggregated]:
    """Return queries of so many of 65,536 words each, drawn as often as photos have them, with random codes."""
    shares, queries = popularity() / WORDS, []
    for _ in range(count):
        chosen = np.sort(rng.choice(WORDS, words, replace=False, p=shares)).astype(np.int32)
        queries.append(Aggregated(words=chosen, codes=rng.integers(0, 1 << 64, (words, 2), dtype=np.uint64)))
    return queries
