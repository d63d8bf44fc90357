"""A consistent state of an archive, opened for reading: it stays as it is while others write."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ArchiveError
from ctxdeploy.index.codebook import Codebook
from ctxdeploy.index.failures import Failures, read_failures
from ctxdeploy.index.manifest import Manifest, read_current
from ctxdeploy.index.shard import Shard, open_shard

# A writer may collect garbage between our reading of CURRENT and of the files it leads to.
_ATTEMPTS = 5


class Snapshot:
    """Manifest, codebook and mapped shards, and what a search derives from them once.

    Attributes:
        manifest: the state.
        codebook: its words.
        shards: in order; the number of a photo counts through them.
        failures: photos that could not be read, by name.
    """

    def __init__(
        self, manifest: Manifest, codebook: Codebook, shards: tuple[Shard, ...], failures: Failures | None = None
    ) -> None:
        self.manifest = manifest
        self.codebook = codebook
        self.shards = shards
        self.failures = failures or {}
        self._factors: dict[bool, tuple[NDArray[np.float64], ...]] = {}

    def __len__(self) -> int:
        return self.manifest.images

    @cached_property
    def bases(self) -> NDArray[np.int64]:
        """Number of the first photo of each shard, and the number of photos."""
        return np.cumsum([0, *map(len, self.shards)], dtype=np.int64)

    def name(self, number: int) -> str:
        """Return the name of a photo by its number in the archive."""
        shard = int(np.searchsorted(self.bases, number, side="right")) - 1
        return self.shards[shard].name(number - int(self.bases[shard]))

    def names(self) -> Iterator[str]:
        """Yield all names, in order of addition."""
        for shard in self.shards:
            yield from shard.all_names()

    def known(self) -> dict[str, tuple[int, int]]:
        """Return size and time of change (ns) of every photo's file by its name; -1 if unknown."""
        result: dict[str, tuple[int, int]] = {}
        for shard in self.shards:
            facts = zip(shard.sizes.tolist(), shard.mtimes.tolist(), strict=True)
            result.update(zip(shard.all_names(), facts, strict=True))
        return result

    @cached_property
    def idf(self) -> NDArray[np.float64]:
        """W weights ln(images / photos with the word)². A word that no photo has weighs 1, as in the reference."""
        counts = np.zeros(self.manifest.words, np.int64)
        for shard in self.shards:
            counts += np.diff(shard.word_offsets)
        with np.errstate(divide="ignore"):
            return np.where(counts > 0, np.log(len(self) / np.maximum(counts, 1)) ** 2, 1.0)

    def weights(self, words: NDArray[np.int32], idf: bool) -> NDArray[np.float32]:
        """Return the weights of words in the score."""
        return self.idf[words].astype(np.float32) if idf else np.ones(len(words), np.float32)

    def factors(self, idf: bool) -> tuple[NDArray[np.float64], ...]:
        """Return 1 / sqrt(norm) of each photo, shard by shard; 0 for a norm of 0. Reads all image numbers for idf."""
        if idf not in self._factors:
            self._factors[idf] = tuple(_factors(shard, self.idf if idf else None) for shard in self.shards)
        return self._factors[idf]

    def extended(self, manifest: Manifest, shards: tuple[Shard, ...], failures: Failures) -> "Snapshot":
        """Return the state after a commit that added ``shards`` and left ``failures``."""
        return Snapshot(manifest, self.codebook, (*self.shards, *shards), failures)


def _factors(shard: Shard, idf: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if idf is None:
        norms = shard.counts.astype(np.float64)
    else:
        from ctxdeploy.index import kernels

        # 65,536 places whatever the shard's length: an image number of 16 bits is never out of bounds.
        sums = np.zeros(1 << 16, np.float64)
        kernels.add_weights(shard.word_offsets, shard.images, idf, sums)
        norms = sums[: len(shard)]
    return np.divide(1.0, np.sqrt(norms), out=np.zeros(len(norms)), where=norms > 0)


def open_snapshot(folder: Path) -> Snapshot:
    """Open the state in force: the manifest, the codebook, and every shard's header and offsets.

    Raises:
        ArchiveError: no archive, damaged, or of a newer format.
    """
    manifest = read_current(folder)
    for _ in range(_ATTEMPTS):
        try:
            codebook = read_codebook(folder, manifest)
            shards = tuple(open_shard(folder, entry, manifest) for entry in manifest.shards)
            return Snapshot(manifest, codebook, shards, read_failures(folder, manifest.failures))
        except ArchiveError:
            newer = read_current(folder)
            if newer.number == manifest.number:
                raise
            manifest = newer
    raise ArchiveError(f"{folder} changes faster than it can be opened: try again")


def read_codebook(folder: Path, manifest: Manifest) -> Codebook:
    """Open the archive's codebook and check it against the manifest (33 MB at 65,536 words: 40 ms)."""
    path = folder / manifest.codebook.file
    codebook = Codebook.load(path)
    if (codebook.id, len(codebook), codebook.dim) != (manifest.codebook_id, manifest.words, manifest.dim):
        raise ArchiveError(f"{path} is damaged: codebook_id, words or dim is not that of the manifest")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest.codebook.sha256:
            raise ArchiveError(f"{path} is damaged: its sha256 is not that of the manifest")
    return codebook
