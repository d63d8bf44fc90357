"""The global vectors of a shard's photos: ``vectors/<sha256>.safetensors``, beside the shard and in its order.

Tensors, for n photos (removed ones too) and D dimensions:

    vectors  float32, float16 or int8 n×D
    steps    float32 n    of int8: what 1 stands for, a 127th of the vector's largest number; 0 of a vector of zeros
    cells    uint16 n     where ``global_search`` is "ivf": the nearest cell of the archive's quantiser

or, of "pq", in place of ``vectors``:

    codes    uint8 n×M    the nearest of 256 words of the archive's quantiser, for each part of the vector

The header says what they are (``kind``, ``dim``, ``quantiser``, the sha256 of its file) and whose (``shard``, its
sha256). Like a shard the file never changes; which photos are removed stands in the shard's tombstones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index.codebook.quantiser import GlobalQuantiser
from ctxdeploy.index.config import IndexConfig, global_parts
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.manifest import VECTORS, FileEntry, Manifest, store

FORMAT_NAME = "ctxdeploy-vectors"
FORMAT_VERSION = 1
_DTYPES = {"fp32": "<f4", "fp16": "<f2", "int8": "|i1"}
_CHECKED = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalVectors:
    """The global vectors of n photos as they are kept.

    Attributes:
        vectors: n×D float32, float16 or int8; None of "pq".
        codes: n×M uint8, of "pq".
        steps: n float32, of int8.
        cells: n uint16, where a search looks into cells.
    """

    vectors: NDArray[Any] | None = None
    codes: NDArray[np.uint8] | None = None
    steps: NDArray[np.float32] | None = None
    cells: NDArray[np.uint16] | None = None

    def rows(self, numbers: NDArray[np.int64] | slice) -> "GlobalVectors":
        """Return those of some photos, by number."""
        return GlobalVectors(**{name: array[numbers] for name, array in self.arrays().items()})

    def widened(self, quantiser: GlobalQuantiser | None) -> NDArray[np.float32]:
        """Return n×D float32: what is kept stands for; the map itself of fp32."""
        if self.codes is not None and quantiser is not None:
            return quantiser.decoded(self.codes)
        wide: NDArray[np.float32] = np.asarray(self.vectors).astype(np.float32, copy=False)
        return wide if self.steps is None else wide * self.steps[:, None]

    def arrays(self) -> file_format.Arrays:
        """Return the tensors of the file."""
        given = {"vectors": self.vectors, "codes": self.codes, "steps": self.steps, "cells": self.cells}
        return {name: array for name, array in given.items() if array is not None}

    @cached_property
    def by_cell(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of the photos, cell by cell, and where each of 65,536 cells begins."""
        if self.cells is None:
            raise ValueError("these vectors have no cells")
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.cells, minlength=1 << 16))])
        return np.argsort(self.cells, kind="stable"), starts


def tensors(config: IndexConfig, images: int) -> dict[str, file_format.Wanted]:
    """Return type and shape of every tensor of a file for so many photos."""
    dim, kind = config.global_dim, config.global_vectors
    wanted: dict[str, file_format.Wanted]
    if kind == "pq":
        wanted = {"codes": ("|u1", (images, global_parts(dim)))}
    else:
        wanted = {"vectors": (_DTYPES[kind], (images, dim))}
    if kind == "int8":
        wanted["steps"] = ("<f4", (images,))
    if config.global_search == "ivf":
        wanted["cells"] = ("<u2", (images,))
    return wanted


def narrowed(
    vectors: NDArray[np.float32], config: IndexConfig, quantiser: GlobalQuantiser | None = None
) -> GlobalVectors:
    """Return n×D float32 vectors as an archive keeps them, whose quantiser this is if it needs one."""
    cells = None
    if quantiser is not None and config.global_search == "ivf":
        cells = quantiser.cells_of(vectors)[:, 0].astype(np.uint16)
    if quantiser is not None and config.global_vectors == "pq":
        return GlobalVectors(codes=quantiser.codes(vectors), cells=cells)
    if config.global_vectors != "int8":
        return GlobalVectors(vectors=vectors.astype(_DTYPES[config.global_vectors]), cells=cells)
    steps = (np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
    # A vector of subnormal numbers may have a step that rounds to 0: it counts as one of zeros.
    scaled = np.divide(vectors, steps[:, None], out=np.zeros_like(vectors), where=steps[:, None] > 0)
    return GlobalVectors(vectors=np.clip(np.rint(scaled), -127, 127).astype(np.int8), steps=steps, cells=cells)


def joined(parts: Sequence[GlobalVectors], config: IndexConfig) -> GlobalVectors:
    """Return several as one, in order."""
    found: file_format.Arrays = {}
    for name, (dtype, shape) in tensors(config, 0).items():
        found[name] = np.concatenate([np.empty(shape or 0, dtype), *(part.arrays()[name] for part in parts)])
    return GlobalVectors(**found)


def write_vectors(folder: Path, shard: str, vectors: GlobalVectors, manifest: Manifest) -> FileEntry:
    """Write the vectors of a shard (its sha256), durably. The same vectors give the same bytes."""
    facts = {"format": FORMAT_NAME, "format_version": str(FORMAT_VERSION), **_facts(shard, manifest)}
    return store(folder, f"{VECTORS}/{{}}.safetensors", file_format.encode(vectors.arrays(), facts))


def open_vectors(folder: Path, entry: FileEntry, shard: str, images: int, manifest: Manifest) -> GlobalVectors:
    """Map the vectors of a shard of ``images`` photos; none is read.

    Raises:
        ArchiveError: missing, damaged, of another shard or of a newer format; the text names the file and the field.
    """
    path = folder / entry.file
    arrays, metadata = file_format.map_file(path)
    file_format.check_version(metadata, FORMAT_NAME, (FORMAT_VERSION,), str(path))
    for name, value in _facts(shard, manifest).items():
        if metadata.get(name) != value:
            raise ArchiveError(f"{path} is damaged: {name} is {metadata.get(name)!r}, not {value!r}"[:500])
    file_format.check_tensors(arrays, tensors(manifest.config, images), str(path))
    return GlobalVectors(**arrays)


def vector_problems(vectors: GlobalVectors) -> list[str]:
    """Return what is wrong with the content of a file, whatever its hash."""
    kept, steps = vectors.vectors, vectors.steps
    if kept is not None and kept.dtype.kind == "f":
        blocks = (kept[start : start + _CHECKED] for start in range(0, len(kept), _CHECKED))
        if not all(np.isfinite(block).all() for block in blocks):
            return ["vectors hold NaN or infinity"]
    if steps is not None and not (np.isfinite(steps) & (steps >= 0)).all():
        return ["steps hold NaN, infinity or a number below 0"]
    return []


def _facts(shard: str, manifest: Manifest) -> dict[str, str]:
    config = manifest.config
    facts = {"kind": config.global_vectors, "dim": str(config.global_dim), "shard": shard}
    return facts if manifest.quantiser is None else {**facts, "quantiser": manifest.quantiser.sha256}
