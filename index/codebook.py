"""The visual words: centroids of k-means, how they were trained, and the assignment of descriptors to them."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ArchiveError, ConfigError
from ctxdeploy.index import format as file_format
from ctxdeploy.index.assignment import CellAssigner, Cells, FlatAssigner
from ctxdeploy.index.storage import Piece, write_file
from ctxdeploy.index.vectors import as_vectors

FORMAT_NAME = "ctxdeploy-codebook"
FORMAT_VERSION = 1


class Codebook:
    """W centroids of dimension D.

    Args:
        centroids: W×D float32, finite, W from 1 to 16,777,216.
        training: how they were made; empty for centroids of one's own.
        cells: the coarse partition used above 4096 words; made on first use if None.

    Attributes:
        centroids: W×D float32, read-only.
        training: words, descriptors, iterations, seed, quantisation error, recall and explanation, as trained.
        id: hex sha256 of the shape and the centroids' bytes.
    """

    def __init__(
        self, centroids: Any, *, training: Mapping[str, Any] | None = None, cells: Cells | None = None
    ) -> None:
        array = as_vectors(centroids, None, "centroids").copy()
        if array.ndim != 2 or not 1 <= len(array) <= 1 << 24 or not 1 <= array.shape[1] <= 4096:
            raise ConfigError(f"centroids of shape {array.shape}: give W×D with at least one word and D in 1..4096")
        array.setflags(write=False)
        self.centroids: NDArray[np.float32] = array
        self.training: dict[str, Any] = dict(training or {})
        self.id = _identity(array)
        self._cells = cells
        self._assigner: FlatAssigner | CellAssigner | None = None
        self._exact: FlatAssigner | None = None

    @classmethod
    def from_centroids(cls, centroids: Any) -> Self:
        """Return a codebook of one's own centroids, W×D."""
        return cls(centroids)

    @classmethod
    def train(
        cls, vectors: Any, words: int | None = None, *, seed: int = 0, iterations: int = 20, progress: Any = None
    ) -> "Codebook":
        """Cluster descriptors into words. The same arguments give the same bytes.

        Args:
            vectors: n×D float32 descriptors; of more than 64 a word, a seeded sample of 64 a word is used.
            words: W, or None for the largest power of two in 16..65,536 that leaves 32 descriptors a word.
            seed: of the sample and of the first centroids.
            iterations: of k-means, at most.
            progress: called with (done, total).

        Raises:
            ConfigError: not finite, fewer descriptors than words, or a setting out of range.
        """
        from ctxdeploy.index.training import train

        return train(vectors, words, seed=seed, iterations=iterations, progress=progress)

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.centroids.shape[1])

    @property
    def cells(self) -> Cells | None:
        """The coarse partition of the words, made here if need be; None up to 4096 words."""
        if self._cells is None:
            from ctxdeploy.index.kmeans import build_cells

            self._cells = build_cells(self.centroids)
        return self._cells

    def metadata(self) -> dict[str, Any]:
        """Return id, words, dimension and training, as they stand in files and in ``Index.info``."""
        return {"id": self.id, "words": len(self), "dim": self.dim, "training": self.training}

    def assign(self, vectors: Any, count: int = 1, *, exact: bool = False) -> NDArray[np.int32]:
        """Return the ``count`` nearest words of each descriptor: n×min(count, W) int32, nearest first, ties by number.

        Args:
            vectors: n×D.
            count: words a descriptor.
            exact: compare with every word. Otherwise above 4096 words only those in the nearest cells are compared;
                ``training["recall_at_1"]`` and ``["recall_at_5"]`` say how often that finds the same.

        A descriptor's words do not depend on what else is in the call (see ``assignment``).

        Raises:
            ConfigError: another dimension, not finite, or ``count`` below 1.
        """
        if count < 1:
            raise ConfigError(f"a descriptor needs at least one word, not {count}")
        array = as_vectors(vectors, self.dim, "assignment")
        return self._searcher(exact).search(array, min(count, len(self)))[0]

    def _searcher(self, exact: bool) -> FlatAssigner | CellAssigner:
        if self._assigner is None:
            cells = self.cells
            self._assigner = FlatAssigner(self.centroids) if cells is None else CellAssigner(self.centroids, cells)
        if not exact or isinstance(self._assigner, FlatAssigner):
            return self._assigner
        if self._exact is None:
            self._exact = FlatAssigner(self.centroids)
        return self._exact

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: ``centroids`` W×D, above 4096 words ``cells`` C×D, the rest in the metadata.

        Raises:
            StorageError: it cannot be written.
        """
        write_file(Path(path), self.encode())

    def encode(self) -> list[Piece]:
        """Return the pieces of the file that ``save`` writes."""
        tensors: dict[str, NDArray[Any]] = {"centroids": self.centroids}
        probes = 0
        if self.cells is not None:
            tensors["cells"] = self.cells.centres
            probes = self.cells.probes
        facts = {"format": FORMAT_NAME, "format_version": str(FORMAT_VERSION), "id": self.id, "probes": str(probes)}
        training = json.dumps(self.training, sort_keys=True, allow_nan=False)
        return file_format.encode(tensors, {**facts, "training": training})

    def check(self, where: str) -> None:
        """Raise ``ArchiveError``, naming ``where``, unless the id fits the centroids and these are finite."""
        if not np.isfinite(self.centroids).all() or _identity(self.centroids) != self.id:
            raise ArchiveError(f"{where} is damaged: id does not fit the centroids")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Codebook":
        """Open a saved codebook.

        Raises:
            ArchiveError: missing, damaged (its id does not fit its centroids), or of a newer format.
        """
        where = str(path)
        arrays, metadata = file_format.map_file(Path(path))
        return _parse(arrays, metadata, where)


def _parse(arrays: file_format.Arrays, metadata: dict[str, str], where: str) -> Codebook:
    if metadata.get("format") != FORMAT_NAME:
        raise ArchiveError(f"{where} is not a codebook: its format is {metadata.get('format')!r}")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        version = metadata.get("format_version")
        raise ArchiveError(f"{where}: format_version {version!r}, this ctxdeploy reads {FORMAT_VERSION}: upgrade it")
    centroids, centres = arrays.get("centroids"), arrays.get("cells")
    for name, array in (("centroids", centroids), ("cells", centres)):
        wrong = array is None if name == "centroids" else False
        if wrong or (array is not None and (array.dtype != np.float32 or array.ndim != 2 or array.size == 0)):
            raise ArchiveError(f"{where} is damaged: {name} is not W×D float32")
    if centres is not None and centroids is not None and centres.shape[1] != centroids.shape[1]:
        raise ArchiveError(f"{where} is damaged: cells and centroids have different dimensions")
    try:
        training = json.loads(metadata["training"])
        probes = int(metadata["probes"])
        cells = None if centres is None else Cells(centres=as_vectors(centres, None, "cells"), probes=max(1, probes))
        codebook = Codebook(centroids, training=training, cells=cells)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ArchiveError(f"{where} is damaged: {error}") from error
    if metadata.get("id") != codebook.id:
        raise ArchiveError(f"{where} is damaged: id does not fit the centroids")
    return codebook


def _identity(centroids: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(repr(centroids.shape).encode())
    digest.update(np.ascontiguousarray(centroids).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
