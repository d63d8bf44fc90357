"""Codebooks: of a file, of a bundle, or trained on a sample of the photos that are to be indexed."""

import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import CODEBOOK, Bundle, CodebookFile
from ctxdeploy.core.device import Device
from ctxdeploy.core.errors import BundleError, ConfigError, CtxdeployError, NoPhotosError
from ctxdeploy.core.files import copy_file, file_sha256
from ctxdeploy.core.progress import Display
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import name_bytes
from ctxdeploy.indexing.config import FailureLimit
from ctxdeploy.indexing.descriptor_cache import DescriptorCache
from ctxdeploy.indexing.given_codebook import open_given, own_file
from ctxdeploy.indexing.report import StageTimes

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook
    from ctxdeploy.runtime import Extractor, PhotoFailure, PhotoSource


# If all photos of a benchmark were trained on, its smallest marks are found with certainty; if a share of the training
# photos is the benchmark's, it is missed with a chance of (1 - share)^64: one in 27 for a twentieth.
KEPT = 64
_HEAD = 1 << 16


def read_codebook(file: Path, dim: int) -> "Codebook":
    """Read every byte of a codebook's file and return it.

    Args:
        file: what ``open_given`` takes.
        dim: of the descriptors that it is for.

    Raises:
        ConfigError: it has another dimension; see also ``open_given``.
        ArchiveError: the file is not a codebook, or damaged.
    """
    codebook = open_given(file)
    codebook.check(str(file))
    if codebook.dim != dim:
        raise ConfigError(
            f"codebook {file} has dimension {codebook.dim}, the model {dim}: give the codebook of this model, or none"
        )
    return codebook


def codebook_of(bundle: Bundle) -> "Codebook | None":
    """Return the codebook that a bundle carries, or None.

    Raises:
        BundleError: it is damaged, or not the one that the bundle describes.
    """
    from ctxdeploy.index import Codebook

    entry = bundle.codebook
    if entry is None:
        return None
    try:
        codebook = Codebook.load(bundle.file(entry))
    except CtxdeployError as error:
        raise BundleError(f"{error}: export the bundle anew") from error
    if (codebook.id, len(codebook), codebook.dim) != (entry.id, entry.words, bundle.extraction.dim):
        raise BundleError(f"{bundle.file(entry)} is not the codebook that its bundle describes: export the bundle anew")
    return codebook


def add_codebook(bundle: Bundle, file: Path) -> Bundle:
    """Put a codebook into a bundle, in place of the one it has; return the bundle with it.

    Raises:
        ConfigError: its dimension is not that of the descriptors.
        ArchiveError: the file is not a codebook, or damaged.
        StorageError: the bundle cannot be written.
    """
    codebook = read_codebook(file, bundle.extraction.dim)
    target = bundle.path / CODEBOOK
    own = own_file(file)
    if own is None:
        codebook.save(target)
    else:
        copy_file(own, target)
    entry = CodebookFile(
        file=CODEBOOK,
        sha256=file_sha256(target),
        bytes=target.stat().st_size,
        words=len(codebook),
        id=codebook.id,
    )
    carrying = replace(bundle, codebook=entry)
    carrying.write_manifest()
    return carrying


def fingerprint(photos: Iterable["PhotoSource"]) -> dict[str, Any]:
    """Return the number of different photos and the smallest ``KEPT`` of their marks, for a codebook's ``training``."""
    marks = marks_of(photos)
    return {"count": len(marks), "least_marks": sorted(marks)[:KEPT]}


def marks_of(photos: Iterable["PhotoSource"]) -> set[str]:
    """Return 16 hex digits for each photo: of a file its size and first 64 KiB, of all others their name and size."""
    return {_mark(photo) for photo in photos}


def share_in(trained: Any, marks: set[str]) -> float | None:
    """Return which share of a codebook's training photos is among those with ``marks``, 0 to 1, as 64 of them tell.

    Args:
        trained: what ``fingerprint`` returned; anything else has no photos that are known: None is returned.
        marks: of a data set.
    """
    least = trained.get("least_marks") if isinstance(trained, dict) else None
    if not isinstance(least, list) or not least:
        return None
    return sum(isinstance(mark, str) and mark in marks for mark in least) / len(least)


def _mark(photo: "PhotoSource") -> str:
    state = photo.state()
    size = -1 if state is None else state.size
    content = None if photo.path is None else _head(photo.path)
    if content is None:
        content = name_bytes(PurePosixPath(photo.name).name)
    return hashlib.sha256(b"%d\0%b" % (size, content)).hexdigest()[:16]


def _head(path: Path) -> bytes | None:
    try:
        with open_regular(path) as file:
            return file.read(_HEAD)
    except (OSError, ValueError):  # extraction says why it cannot be read
        return None


# Of k-means; it ends earlier when no descriptor changes its word.
ITERATIONS = 20
_NOTHING = StageTimes()
# |ln scale| below this counts as scale 1.
_NEAR_ONE = 0.2


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a codebook is trained.

    Attributes:
        words: its size; chosen from the number of descriptors if None.
        max_photos: size of the sample at most.
        seed: of the sample and of k-means.
    """

    words: int | None
    max_photos: int
    seed: int


class CodebookTrainer:
    """Extracts a sample of photos and trains a codebook from it; the descriptors stay in the cache.

    Args:
        extractor: the model.
        cache: where the descriptors go; it must be locked while ``train`` runs.
        failure_limit: how many photos may fail.
        display: where progress and remarks go.

    Attributes:
        failed: photos that could not be read.
        times: of extraction and clustering.
    """

    def __init__(
        self, extractor: "Extractor", cache: DescriptorCache, failure_limit: FailureLimit, display: Display
    ) -> None:
        self._extractor, self._cache = extractor, cache
        self._failure_limit, self._display = failure_limit, display
        self.failed: list[PhotoFailure] = []
        self.times = StageTimes()

    def train(self, photos: Sequence["PhotoSource"], config: TrainingConfig) -> "Codebook":
        """Train a codebook from a sample of photos.

        Descriptors found at scale 1 train it, as in HOW; where they are fewer than a tenth of all (a network without
        such a scale, small photos), all do. At most 64 a word are held in memory.

        Raises:
            NoPhotosError: no photo gave descriptors.
            ConfigError: there are fewer descriptors than words.
            TooManyFailuresError: more photos failed than is allowed.
        """
        sample = self.sample(photos, config)
        limit, dim = self._extractor.config.memory_limit, self._extractor.bundle.extraction.dim
        failed = {failure.name for failure in self.failed}
        start = time.perf_counter()
        device, display = self._extractor.device, self._display
        codebook = train_codebook(
            self._cache, sample, failed, config, display, memory_limit=limit, dim=dim, device=device
        )
        self.times.clustering = time.perf_counter() - start
        return codebook

    def sample(self, photos: Sequence["PhotoSource"], config: TrainingConfig) -> list["PhotoSource"]:
        """Draw a sample of photos, always the same, and extract those of it that the cache lacks.

        Raises:
            TooManyFailuresError: more photos failed than is allowed.
        """
        sample = draw_sample(photos, config)
        tried = {failure.name for failure in self.failed}
        missing = [
            photo for photo in sample if photo.name not in tried and not self._cache.has(photo.name, photo.state())
        ]
        if missing:
            self._extract(missing, len(sample) - len(missing))
        return sample

    def _extract(self, photos: list["PhotoSource"], tried_before: int) -> None:
        from ctxdeploy.runtime import PhotoFailure

        reasons: Counter[str] = Counter()
        with (
            closing(self._extractor.extract(photos)) as results,
            self._display.progress("extracting for the codebook", len(photos)) as bar,
        ):
            for tried, result in enumerate(results, tried_before + 1):
                is_failure = isinstance(result, PhotoFailure)
                if isinstance(result, PhotoFailure):
                    self.failed.append(result)
                    reasons[result.reason] += 1
                    self._failure_limit.check(reasons, tried)
                else:
                    self._cache.put(result)
                self.times.take(self._extractor.statistics, _NOTHING)
                bar.limited_by(self.times.limit)
                bar.advance(failed=int(is_failure))


def draw_sample(photos: Sequence["PhotoSource"], config: TrainingConfig) -> list["PhotoSource"]:
    """Return the photos that train a codebook, always the same ones."""
    if len(photos) <= config.max_photos:
        return list(photos)
    return random.Random(config.seed).sample(photos, config.max_photos)


def train_codebook(
    cache: DescriptorCache,
    sample: list["PhotoSource"],
    failed: Set[str],
    config: TrainingConfig,
    display: Display,
    *,
    memory_limit: int | None,
    dim: int,
    device: Device,
) -> "Codebook":
    """Train a codebook from the descriptors that the cache has of a sample.

    Args:
        cache: has them.
        sample: of the photos.
        failed: names in it that could not be read.
        config: size and seed.
        display: where progress and remarks go.
        memory_limit: bytes of the command; half of them may be the descriptors that are clustered.
        dim: of the descriptors.
        device: that clusters; the codebook is the same on any.

    Raises:
        NoPhotosError: the cache has no descriptors.
        ConfigError: there are fewer descriptors than words.
        BackendError, MissingExtraError: the GPU that was named cannot be used.
    """
    from ctxdeploy.index import Codebook
    from ctxdeploy.index.codebook import gpu_of

    max_vectors = None if memory_limit is None else memory_limit // (2 * 4 * dim)
    vectors, used = _training_vectors(cache, sorted(photo.name for photo in sample), config, max_vectors)
    if not len(vectors):
        raise NoPhotosError(f"none of {len(sample)} photos gave descriptors, so that no codebook can be trained")
    gpu = gpu_of(device)
    where = "" if gpu is None else f" on cuda:{gpu.number}"
    display.say(f"training a codebook from {len(vectors):,} descriptors of {used:,} photos{where}")
    with display.progress("clustering", ITERATIONS, "iterations") as bar:
        codebook = Codebook.train(
            vectors,
            config.words,
            seed=config.seed,
            iterations=ITERATIONS,
            progress=lambda done, total: bar.advance(),
            device=device,
        )
    codebook.training["photos"] = fingerprint(photo for photo in sample if photo.name not in failed)
    display.say(codebook.metadata()["training"]["explanation"])
    return codebook


def _training_vectors(
    cache: DescriptorCache, names: list[str], config: TrainingConfig, max_vectors: int | None
) -> tuple[NDArray[np.float32], int]:
    """Return descriptors of the named photos, and of how many photos: those of scale 1, or all; no more than are used,
    and about ``max_vectors``."""
    from ctxdeploy.index.codebook import MAX_PER_WORD, choose_words

    wanted = set(names)
    near = every = 0
    for scales in cache.scales(wanted):
        every += len(scales)
        near += int((np.abs(np.log(scales)) <= _NEAR_ONE).sum())
    if not every:
        return np.empty((0, 0), np.float32), 0
    only_near = near * 10 >= every
    total = near if only_near else every
    words, _ = choose_words(total, config.words)
    share = min(1.0, words * MAX_PER_WORD / total)
    if max_vectors is not None:
        share = min(share, max_vectors / total)
    generator = np.random.default_rng(config.seed)
    parts = []
    for photo in cache.photos(wanted):
        descriptors = photo.descriptors
        chosen = np.abs(np.log(descriptors.scales)) <= _NEAR_ONE if only_near else np.ones(len(descriptors), bool)
        if share < 1:
            chosen &= generator.random(len(descriptors)) < share
        parts.append(descriptors.vectors[chosen])
    return np.concatenate(parts), len(parts)
