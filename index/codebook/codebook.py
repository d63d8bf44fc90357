"""The visual words: centroids of k-means, how they were trained, and the assignment of descriptors to them."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.device import Device
from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.files import Piece, write_file
from ctxdeploy.index.codebook import training
from ctxdeploy.index.codebook.assignment import FLAT_WORDS, CellAssigner, Cells, FlatAssigner, parse_cells
from ctxdeploy.index.codebook.faiss_gpu import Holder, gpu_of
from ctxdeploy.index.codebook.gpu_assignment import GpuAssigner, assigner_of
from ctxdeploy.index.config import Progress
from ctxdeploy.index.inputs import as_vectors
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.threads import SearchThreads

FORMAT_NAME = "ctxdeploy-codebook"
# Version 2 holds which words lie in which cell. Files without cells are the same in both and stay at version 1. In
# version 3 the centroids are float16; only ``save(compact=True)`` writes it.
FORMAT_VERSION = 3
_CELLS_VERSION = 2
MAX_CODEBOOK_WORDS = 1 << 24
# Rows that are worth threads made for them: two cost 0.1 ms more than those that are there, and more cost more.
_WORTH_THREADS = 512
# Rows of one step of a check, which copies them.
_CHECKED = 4096


Assigner = FlatAssigner | CellAssigner | GpuAssigner


class Codebook:
    """W centroids of dimension D.

    Args:
        centroids: W×D float32, finite, W from 1 to 16,777,216.
        training: how they were made; empty for centroids of one's own.
        cells: the coarse partition used above 4096 words; made on first use if None.

    Attributes:
        centroids: W×D float32, read-only; mapped from its file after ``load``.
        training: words, descriptors, iterations, seed, quantisation error, recall and explanation, as trained.
        id: hex sha256 of the shape and the centroids' bytes; after ``load`` what the file says, see ``check``.

    Several threads may assign at once.
    """

    def __init__(
        self, centroids: Any, *, training: Mapping[str, Any] | None = None, cells: Cells | None = None
    ) -> None:
        array = as_vectors(centroids, None, "centroids").copy()
        if array.ndim != 2 or not _is_size(array.shape):
            raise ConfigError(f"centroids of shape {array.shape}: give W×D with at least one word and D in 1..4096")
        array.setflags(write=False)
        self._keep(array, _identity(array), training or {}, cells)

    def _keep(
        self, centroids: NDArray[np.float32], identity: str, training: Mapping[str, Any], cells: Cells | None
    ) -> None:
        self.centroids = centroids
        self.training: dict[str, Any] = dict(training)
        self.id = identity
        # What follows is made on first use, the same by whichever thread: two at once waste time, no more.
        self._cells = cells
        self._gpu: Holder | None = None
        self._assigner: Assigner | None = None
        self._exact: Assigner | None = None

    @classmethod
    def from_centroids(cls, centroids: Any) -> Self:
        """Return a codebook of one's own centroids, W×D.

        Above 4096 words nothing is known about the recall of its assignment: see ``measure_recall``.
        """
        codebook = cls(centroids)
        if len(codebook) > FLAT_WORDS:
            codebook.training["recall"] = "not measured"
        return codebook

    @classmethod
    def train(
        cls,
        vectors: Any,
        words: int | None = None,
        *,
        seed: int = 0,
        iterations: int = 20,
        progress: Progress | None = None,
        threads: int | None = None,
        device: Device | None = None,
    ) -> Self:
        """Cluster descriptors into words. The same arguments give the same bytes.

        Args:
            vectors: n×D float32 descriptors, photo after photo; of more than 64 a word, a seeded sample of 64 a word is
                used. Above 4096 words the last fiftieth is kept to measure recall on, if 8 a word are left.
            words: W, or None for the largest power of two in 16..65,536 that leaves 32 descriptors a word.
            seed: of the sample and of the first centroids.
            iterations: of k-means, at most.
            progress: called with (done, total).
            threads: None for the processors this process may use; the result is the same with any.
            device: a GPU compares descriptors and words; the result is the same on any. None: the CPU.

        Raises:
            ConfigError: not finite, fewer descriptors than words, or a setting out of range.
            BackendError, MissingExtraError: the GPU that was named cannot be used.
        """
        centroids, facts, cells = training.train(
            vectors, words, seed=seed, iterations=iterations, progress=progress, threads=threads, device=device
        )
        return cls(centroids, training=facts, cells=cells)

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.centroids.shape[1])

    @property
    def cells(self) -> Cells | None:
        """The coarse partition of the words, made here if need be; None up to 4096 words."""
        if self._cells is None or not len(self._cells.order):
            if self._cells is None:
                self._cells = training.build_cells(self.centroids)
            else:  # a file of version 1 has centres alone
                self._cells = training.fill_cells(self.centroids, self._cells.centres, self._cells.probes)
        return self._cells

    def use(self, device: Device) -> bool:
        """Have a GPU assign where it is worth it; return whether one does. The words are the same.

        Args:
            device: ``auto`` is the first GPU if there is one, with a faiss for it.

        Raises:
            BackendError, MissingExtraError: the GPU that was named cannot be used.
        """
        self._gpu = gpu_of(device)
        self._assigner = self._exact = None
        return self._gpu is not None

    def metadata(self) -> dict[str, Any]:
        """Return id, words, dimension and training, as they stand in files and in ``Index.info``."""
        return {"id": self.id, "words": len(self), "dim": self.dim, "training": self.training}

    def assign(
        self, vectors: Any, count: int = 1, *, exact: bool = False, threads: int | SearchThreads = 1
    ) -> NDArray[np.int32]:
        """Return the ``count`` nearest words of each descriptor: n×min(count, W) int32, nearest first, ties by number.

        Args:
            vectors: n×D.
            count: words a descriptor.
            exact: compare with every word. Otherwise above 4096 words only those in the nearest cells are compared;
                ``training["recall_at_1"]`` and ``["recall_at_5"]`` say how often that finds the same.
            threads: a number, or those that an archive keeps; the result is the same with any.

        A descriptor's words do not depend on what else is in the call (see ``assignment``).

        Raises:
            ConfigError: another dimension, not finite, or ``count`` below 1.
        """
        if count < 1:
            raise ConfigError(f"a descriptor needs at least one word, not {count}")
        array = as_vectors(vectors, self.dim, "assignment")
        searcher, wanted = self._searcher(exact), min(count, len(self))
        if isinstance(threads, SearchThreads):
            return searcher.search(array, wanted, threads)[0]
        number = checked_threads(threads)
        with closing(SearchThreads(number if len(array) >= _WORTH_THREADS else 1)) as helpers:
            return searcher.search(array, wanted, helpers)[0]

    def _searcher(self, exact: bool) -> Assigner:
        if exact and self.cells is not None:
            found = self._exact = self._exact or assigner_of(self.centroids, None, self._gpu)
        else:
            found = self._assigner = self._assigner or assigner_of(self.centroids, self.cells, self._gpu)
        return found

    def measure_recall(self, vectors: Any) -> dict[str, Any]:
        """Compare ``assign`` with ``assign(exact=True)`` on descriptors, and keep the result in ``training``.

        Args:
            vectors: n×D, n at least 1; such as queries hold.

        Returns:
            assignment, recall_at_1, recall_at_5, recall_sample (n) and recall_on.

        Raises:
            ConfigError: no descriptors, or not fitting.
        """
        array = as_vectors(vectors, self.dim, "measuring recall")
        if len(array) == 0:
            raise ConfigError("measuring recall needs at least one descriptor")
        facts = training.measured_recall(self.centroids, self.cells, array, on="descriptors given")
        self.training.pop("recall", None)
        self.training.update(facts)
        return facts

    def rounded(self) -> "Codebook":
        """Return the codebook of the nearest centroids that float16 holds, with another id and the same cells.

        Raises:
            ConfigError: a centroid has entries above 65,504.
        """
        with np.errstate(over="ignore"):
            centroids = self.centroids.astype(np.float16).astype(np.float32)
        return Codebook(centroids, training={**self.training, "rounded": "float16"}, cells=self.cells)

    def check(self, where: str) -> None:
        """Read all of the centroids, which ``load`` does not: 65,536 × 128 take 50 ms.

        Args:
            where: names the file in errors.

        Raises:
            ArchiveError: the id does not fit the centroids, or centroids or cells are not finite.
        """
        if _identity(self.centroids) != self.id:
            raise ArchiveError(f"{where} is damaged: id does not fit the centroids")
        arrays = {"centroids": self.centroids}
        if self._cells is not None:
            arrays["cells"] = self._cells.centres
        for name, array in arrays.items():
            for start in range(0, len(array), _CHECKED):
                try:
                    as_vectors(array[start : start + _CHECKED], None, name)
                except ConfigError as error:
                    raise ArchiveError(f"{where} is damaged: {error}") from error

    def save(self, path: str | os.PathLike[str], *, compact: bool = False) -> None:
        """Write a safetensors file: ``centroids`` W×D, and above 4096 words its cells, see ``encode``.

        Args:
            path: the file.
            compact: centroids as float16, in half the bytes; exact, so for those of ``rounded`` alone.

        Raises:
            StorageError: it cannot be written.
            ConfigError: float16 does not hold the centroids.
        """
        write_file(Path(path), self.encode(compact=compact))

    def encode(self, *, compact: bool = False) -> list[Piece]:
        """Return the pieces of the file that ``save`` writes: ``centroids`` W×D float32, or float16 if compact.

        With cells it holds ``cells`` C×D float32, ``order`` W int32 (every word once, by cell) and ``cell_offsets`` C+1
        int32 (where in ``order`` each cell begins). Metadata: format, format_version, id, probes, training (JSON).
        """
        tensors: dict[str, NDArray[Any]] = {"centroids": _halved(self.centroids) if compact else self.centroids}
        cells, version, probes = self.cells, 1, 0
        if cells is not None:
            tensors |= {"cells": cells.centres, "order": cells.order, "cell_offsets": cells.offsets}
            version, probes = _CELLS_VERSION, cells.probes
        version = FORMAT_VERSION if compact else version
        facts = {"format": FORMAT_NAME, "format_version": str(version), "id": self.id, "probes": str(probes)}
        text = json.dumps(self.training, sort_keys=True, allow_nan=False)
        return file_format.encode(tensors, {**facts, "training": text})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Codebook":
        """Open a saved codebook without reading its centroids: they stay mapped from the file, see ``check``.

        Those of a compact file are read and widened to float32.

        Raises:
            ArchiveError: missing, its header, shapes or lists of words damaged, or of a newer format.
        """
        where = str(path)
        arrays, metadata = file_format.map_file(Path(path))
        codebook = cls.__new__(cls)
        codebook._keep(*_parse(arrays, metadata, where))
        return codebook


def _is_size(shape: tuple[int, ...]) -> bool:
    return 1 <= shape[0] <= MAX_CODEBOOK_WORDS and 1 <= shape[1] <= 4096


def _parse(
    arrays: file_format.Arrays, metadata: dict[str, str], where: str
) -> tuple[NDArray[np.float32], str, dict[str, Any], Cells | None]:
    if metadata.get("format") != FORMAT_NAME:
        raise ArchiveError(f"{where} is not a codebook: its format is {metadata.get('format')!r}")
    file_format.check_version(metadata, FORMAT_NAME, (1, _CELLS_VERSION, FORMAT_VERSION), where)
    version = metadata["format_version"]
    centroids = arrays.get("centroids")
    dtype = np.dtype(np.float16 if version == str(FORMAT_VERSION) else np.float32)
    if centroids is None or centroids.dtype != dtype or centroids.ndim != 2 or not _is_size(centroids.shape):
        raise ArchiveError(f"{where} is damaged: centroids is not W×D {dtype}")
    if dtype == np.float16:
        centroids = centroids.astype(np.float32)
        centroids.setflags(write=False)
    identity = metadata.get("id", "")
    if not re.fullmatch("[0-9a-f]{64}", identity):
        raise ArchiveError(f"{where} is damaged: id is not a sha256")
    try:
        facts = json.loads(metadata["training"])
        if not isinstance(facts, dict):
            raise ValueError("training is not an object")
        probes = int(metadata["probes"])
    except (KeyError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{where} is damaged: {error!r}") from error
    return centroids, identity, facts, parse_cells(arrays, centroids, probes, version, where)


def _halved(centroids: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        halved = centroids.astype(np.float16)
    if not np.array_equal(halved, centroids):
        raise ConfigError("float16 does not hold these centroids: round them first, with  rounded()")
    return halved


def _identity(centroids: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(repr(centroids.shape).encode())
    digest.update(np.ascontiguousarray(centroids).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
