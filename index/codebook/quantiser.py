"""What global vectors are coded with and found by: the words of product quantisation, and cells.

A quantiser is trained before an archive is made, as a codebook is, because files that are written never change: each
photo's code and cell stand beside its shard from the beginning. Product quantisation (Jégou et al., PAMI 2011) cuts a
vector into M parts and keeps the nearest of 256 words for each, a byte. Cells partition the vectors, so that a search
need not compare all of them.
"""

import hashlib
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.device import Device
from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.files import Piece
from ctxdeploy.index.codebook.assignment import FlatAssigner
from ctxdeploy.index.codebook.faiss_gpu import gpu_of
from ctxdeploy.index.codebook.training import cluster
from ctxdeploy.index.config import MAX_CELLS, PART_WORDS, IndexConfig, Progress, global_parts
from ctxdeploy.index.inputs import as_global
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.threads import ALONE, SearchThreads

FORMAT_NAME = "ctxdeploy-quantiser"
FORMAT_VERSION = 1
# Of a cell, at least; more of them would hold too few photos each.
_PER_CELL = 32
_ITERATIONS = 20
# More vectors a word or cell are left out of a sample.
_MAX_PER_WORD = 64
# One cell of so many is searched where nothing else is asked for.
_PROBED = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalQuantiser:
    """Words and cells of global vectors of dimension D.

    Attributes:
        parts: M×256×(D/M) float32, the words of each part; None where vectors are kept as numbers.
        cells: C×D float32, the centres of the cells; None where every search compares all photos.
    """

    parts: NDArray[np.float32] | None = None
    cells: NDArray[np.float32] | None = None

    @classmethod
    def train(
        cls,
        vectors: Any,
        config: IndexConfig,
        *,
        cells: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        threads: int | None = None,
        device: Device | None = None,
    ) -> "GlobalQuantiser":
        """Learn what an archive of this configuration needs. The same arguments give the same numbers.

        Args:
            vectors: n×D global vectors of photos like those to come; at least 256 for "pq", 32 a cell for "ivf".
            config: what ``global_vectors`` and ``global_search`` are.
            cells: C for "ivf"; None for the largest power of two up to 4096 that leaves 32 vectors a cell.
            seed: of the samples and of the first words.
            progress: called with (done, total).
            threads: None for the processors this process may use; the result is the same with any.
            device: a GPU compares vectors with words and cells; the result is the same. None: the CPU.

        Raises:
            ConfigError: too few vectors, or such as ``Index.add`` would refuse; or the configuration needs none.
        """
        if not config.needs_quantiser:
            raise ConfigError("an archive needs a quantiser for global_vectors 'pq' or global_search 'ivf' alone")
        rows = as_global(vectors, config, "the sample of global vectors")
        count = _checked_cells(cells, len(rows)) if config.global_search == "ivf" else 0
        if config.global_vectors == "pq" and len(rows) < PART_WORDS:
            raise ConfigError(f"{len(rows)} global vectors are too few for 'pq': give a sample of {PART_WORDS} or more")
        parts = global_parts(config.global_dim) if config.global_vectors == "pq" else 0
        total, gpu = (parts + (1 if count else 0)) or 1, gpu_of(device)
        with closing(SearchThreads(checked_threads(threads))) as helpers:
            words = []
            few = _draw(rows, PART_WORDS * _MAX_PER_WORD, seed)
            for part in range(parts):
                size = config.global_dim // parts
                column = np.ascontiguousarray(few[:, part * size : (part + 1) * size])
                found = cluster(column, PART_WORDS, seed=seed, iterations=_ITERATIONS, threads=helpers, device=gpu)
                words.append(found.centroids)
                if progress is not None:
                    progress(part + 1, total)
            centres = None
            if count:
                sample = _draw(rows, count * _MAX_PER_WORD, seed)
                centres = cluster(
                    sample, count, seed=seed, iterations=_ITERATIONS, threads=helpers, device=gpu
                ).centroids
                if progress is not None:
                    progress(total, total)
        return cls(parts=np.stack(words) if words else None, cells=centres)

    @property
    def probes(self) -> int:
        """Cells that a search looks into: a sixteenth of them, at least 8."""
        return 0 if self.cells is None else min(len(self.cells), max(8, len(self.cells) // _PROBED))

    @cached_property
    def longest(self) -> float:
        """No vector is longer that the words can stand for; 0 without words."""
        if self.parts is None:
            return 0.0
        lengths = np.linalg.norm(self.parts.astype(np.float64), axis=2).max(axis=1)
        return float(np.linalg.norm(lengths))

    def codes(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the nearest word of each part, n×M."""
        found = np.empty((len(vectors), len(self._assigners)), np.uint8)
        size = vectors.shape[1] // max(len(self._assigners), 1)
        for part, assigner in enumerate(self._assigners):
            column = np.ascontiguousarray(vectors[:, part * size : (part + 1) * size])
            found[:, part] = assigner.search(column, 1, ALONE)[0][:, 0]
        return found

    def decoded(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the vectors that codes stand for, n×D float32."""
        if self.parts is None:
            raise ConfigError("a quantiser without words decodes nothing")
        return self.parts[np.arange(codes.shape[1]), codes].reshape(len(codes), -1)

    def cells_of(self, vectors: NDArray[np.float32], count: int = 1) -> NDArray[np.int32]:
        """Return the ``count`` nearest cells of each vector, nearest first, n×count."""
        if self._cell_assigner is None:
            raise ConfigError("a quantiser without cells partitions nothing")
        return self._cell_assigner.search(vectors, count, ALONE)[0]

    @cached_property
    def _assigners(self) -> list[FlatAssigner]:
        return [] if self.parts is None else [FlatAssigner(words) for words in self.parts]

    @cached_property
    def _cell_assigner(self) -> FlatAssigner | None:
        return None if self.cells is None else FlatAssigner(self.cells)

    def encode(self) -> list[Piece]:
        """Return the pieces of the file: ``parts`` and ``cells``, float32, as far as there are any."""
        return file_format.encode(self._tensors(), {"format": FORMAT_NAME, "format_version": str(FORMAT_VERSION)})

    @property
    def id(self) -> str:
        """Hex sha256 of shapes and numbers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name} {tensor.shape}".encode() + np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    def _tensors(self) -> file_format.Arrays:
        given = {"parts": self.parts, "cells": self.cells}
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    def problem(self, config: IndexConfig) -> str | None:
        """Return why it is not one for an archive of this configuration; None if it is."""
        dim = config.global_dim
        parts = global_parts(dim)
        wanted = (parts, PART_WORDS, dim // parts) if config.global_vectors == "pq" else None
        found = None if self.parts is None else self.parts.shape
        if found != wanted:
            return f"its words have the shape {found}, but {wanted} is needed"
        if (self.cells is not None) != (config.global_search == "ivf"):
            return f"global_search is {config.global_search!r}, and its cells contradict it"
        if self.cells is not None and (self.cells.shape[1:] != (dim,) or not 1 <= len(self.cells) <= MAX_CELLS):
            return f"its cells have the shape {self.cells.shape}, but 1..{MAX_CELLS} of {dim} numbers are needed"
        return None

    @classmethod
    def load(cls, path: Path, config: IndexConfig) -> "GlobalQuantiser":
        """Map the file of an archive.

        Raises:
            ArchiveError: missing, damaged, of a newer format, or not one for this configuration.
        """
        arrays, metadata = file_format.map_file(path)
        file_format.check_version(metadata, FORMAT_NAME, (FORMAT_VERSION,), str(path))
        if not set(arrays) <= {"parts", "cells"} or any(array.dtype != np.float32 for array in arrays.values()):
            raise ArchiveError(f"{path} is damaged: its tensors are not parts and cells of float32")
        quantiser = cls(**arrays)
        problem = quantiser.problem(config)
        if problem is not None:
            raise ArchiveError(f"{path} is damaged: {problem}")
        return quantiser


def _checked_cells(cells: Any, sample: int) -> int:
    if cells is None:
        fitting = sample // _PER_CELL
        if fitting < 1:
            raise ConfigError(f"{sample} global vectors are too few for 'ivf': give a sample of {_PER_CELL} or more")
        return int(min(MAX_CELLS, 1 << (fitting.bit_length() - 1)))
    if isinstance(cells, bool) or not isinstance(cells, int) or not 1 <= cells <= min(MAX_CELLS, sample):
        raise ConfigError(f"{cells!r} cells of {sample} global vectors: give a whole number in 1..{MAX_CELLS}")
    return cells


def _draw(rows: NDArray[np.float32], limit: int, seed: int) -> NDArray[np.float32]:
    if len(rows) <= limit:
        return rows
    return rows[np.sort(np.random.default_rng([seed, 2]).choice(len(rows), limit, replace=False))]
