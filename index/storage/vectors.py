"""The global vectors of a shard's photos: ``vectors/<sha256>.safetensors``, beside the shard and in its order.

Tensors, for n photos (removed ones too) and D dimensions:

    vectors  float32, float16 or int8 n×D
    steps    float32 n    of int8: what 1 stands for, a 127th of the vector's largest number; 0 of a vector of zeros

The header says what they are (``kind``, ``dim``) and whose (``shard``, its sha256). Like a shard the file never
changes; which photos are removed stands in the shard's tombstones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index.config import IndexConfig
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.manifest import VECTORS, FileEntry, store

FORMAT_NAME = "ctxdeploy-vectors"
FORMAT_VERSION = 1
_DTYPES = {"fp32": "<f4", "fp16": "<f2", "int8": "|i1"}


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalVectors:
    """The global vectors of n photos as they are kept.

    Attributes:
        vectors: n×D float32, float16 or int8.
        steps: n float32, of int8.
    """

    vectors: NDArray[Any]
    steps: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def rows(self, numbers: NDArray[np.int64] | slice) -> "GlobalVectors":
        """Return those of some photos, by number."""
        return GlobalVectors(vectors=self.vectors[numbers], steps=None if self.steps is None else self.steps[numbers])

    def widened(self) -> NDArray[np.float32]:
        """Return n×D float32: what the kept numbers stand for."""
        wide: NDArray[np.float32] = self.vectors.astype(np.float32)
        if self.steps is not None:
            wide *= self.steps[:, None]
        return wide

    def arrays(self) -> file_format.Arrays:
        """Return the tensors of the file."""
        steps = {} if self.steps is None else {"steps": self.steps}
        return {"vectors": self.vectors, **steps}


def narrowed(vectors: NDArray[np.float32], config: IndexConfig) -> GlobalVectors:
    """Return n×D float32 vectors as an archive keeps them."""
    if config.global_vectors != "int8":
        return GlobalVectors(vectors=vectors.astype(_DTYPES[config.global_vectors]))
    steps = (np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
    # A vector of subnormal numbers may have a step that rounds to 0: it counts as one of zeros.
    scaled = np.divide(vectors, steps[:, None], out=np.zeros_like(vectors), where=steps[:, None] > 0)
    return GlobalVectors(vectors=np.clip(np.rint(scaled), -127, 127).astype(np.int8), steps=steps)


def joined(parts: Sequence[GlobalVectors], config: IndexConfig) -> GlobalVectors:
    """Return several as one, in order."""
    empty = narrowed(np.empty((0, config.global_dim), np.float32), config)
    vectors = np.concatenate([empty.vectors, *(part.vectors for part in parts)])
    if empty.steps is None:
        return GlobalVectors(vectors=vectors)
    steps = [part.steps for part in parts if part.steps is not None]
    return GlobalVectors(vectors=vectors, steps=np.concatenate([empty.steps, *steps]))


def write_vectors(folder: Path, shard: str, vectors: GlobalVectors, config: IndexConfig) -> FileEntry:
    """Write the vectors of a shard (its sha256), durably. The same vectors give the same bytes."""
    facts = {"format": FORMAT_NAME, "format_version": str(FORMAT_VERSION), **_facts(shard, config)}
    return store(folder, f"{VECTORS}/{{}}.safetensors", file_format.encode(vectors.arrays(), facts))


def open_vectors(folder: Path, entry: FileEntry, shard: str, images: int, config: IndexConfig) -> GlobalVectors:
    """Map the vectors of a shard of ``images`` photos; none is read.

    Raises:
        ArchiveError: missing, damaged, of another shard or of a newer format; the text names the file and the field.
    """
    path = folder / entry.file
    arrays, metadata = file_format.map_file(path)
    file_format.check_version(metadata, FORMAT_NAME, (FORMAT_VERSION,), str(path))
    for name, value in _facts(shard, config).items():
        if metadata.get(name) != value:
            raise ArchiveError(f"{path} is damaged: {name} is {metadata.get(name)!r}, not {value!r}"[:500])
    wanted: dict[str, file_format.Wanted] = {"vectors": (_DTYPES[config.global_vectors], (images, config.global_dim))}
    if config.global_vectors == "int8":
        wanted["steps"] = ("<f4", (images,))
    file_format.check_tensors(arrays, wanted, str(path))
    return GlobalVectors(**arrays)


def vector_problems(vectors: GlobalVectors) -> list[str]:
    """Return what is wrong with the content of a file, whatever its hash."""
    kept = vectors.vectors
    if kept.dtype.kind == "f" and not all(np.isfinite(kept[at : at + 4096]).all() for at in range(0, len(kept), 4096)):
        return ["vectors hold NaN or infinity"]
    steps = vectors.steps
    if steps is not None and not (np.isfinite(steps) & (steps >= 0)).all():
        return ["steps hold NaN, infinity or a number below 0"]
    return []


def _facts(shard: str, config: IndexConfig) -> dict[str, str]:
    return {"kind": config.global_vectors, "dim": str(config.global_dim), "shard": shard}
