"""Photos that are in no shard yet, and the tensors of the shard that they become."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.types import FileState
from ctxdeploy.index.codebook.aggregation import Aggregated, code_columns
from ctxdeploy.index.config import keeps
from ctxdeploy.index.storage.format import Arrays
from ctxdeploy.index.storage.layout import Layout
from ctxdeploy.index.storage.names import name_tensors
from ctxdeploy.index.storage.positions import PackedFeatures, feature_tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class Pending:
    """A photo that is in no shard yet.

    Attributes:
        name: of the photo.
        photo: its words and codes.
        file: state of its file; None if it is not known.
        features: what is kept of them, in an archive with geometry.
        vector: D' float32, its global vector, in an archive that keeps them.
        replaces: shard and number of the photo of the same name whose place it takes.
    """

    name: str
    photo: Aggregated
    file: FileState | None = None
    features: PackedFeatures | None = None
    vector: NDArray[np.float32] | None = None
    replaces: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory; a name counts four a letter, so that the names of a shard stay far below 4 GiB."""
        return (
            4 * len(self.name)
            + self.photo.codes.nbytes
            + self.photo.words.nbytes
            + (self.features.nbytes if self.features else 0)
            + (0 if self.vector is None else self.vector.nbytes)
        )


def shard_tensors(layout: Layout, photos: Sequence[Pending]) -> Arrays:
    """Return the tensors of a shard of these photos: a counting sort by word, stable, hence by photo in each word.

    At D = 128 a posting takes 38 bytes before and 57 more during the sort (binary), or 0.65 and 1.1 KB (float).
    """
    from ctxdeploy.index.kernels import build as build_kernels

    counts = np.array([len(pending.photo.words) for pending in photos], np.uint32)
    words = np.concatenate([np.empty(0, np.int32), *(pending.photo.words for pending in photos)])
    offsets = np.zeros(layout.words + 1, np.int64)
    np.cumsum(np.bincount(words, minlength=layout.words), out=offsets[1:])
    images = np.empty(len(words), np.uint16)
    numbers = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    places = build_kernels.place_postings(words, numbers, offsets[:-1].copy(), images)
    files = [(pending.file.size, pending.file.mtime_ns) if pending.file else (-1, -1) for pending in photos]
    sizes, mtimes = np.array(files, np.int64).reshape(len(files), 2).T.copy()
    tensors = {
        "codes": _codes(layout, places, [pending.photo.codes for pending in photos]),
        "images": images,
        "word_offsets": offsets.astype(np.uint32),
        "counts": counts,
        "sizes": sizes,
        "mtimes": mtimes,
        **name_tensors(pending.name for pending in photos),
    }
    if keeps(layout.geometry, "positions"):
        tensors |= feature_tensors((pending.features for pending in photos), layout.geometry, layout.dim)
    return tensors


def _codes(layout: Layout, places: NDArray[np.int64], parts: list[Any]) -> NDArray[Any]:
    if not layout.binary:
        floats = np.empty((len(places), layout.dim), np.float32)
        floats[places] = np.concatenate([floats[:0], *parts])
        return floats
    columns = np.empty((code_columns(layout.dim), len(places)), np.uint64)
    columns[:, places] = np.concatenate([columns.T[:0], *parts]).T
    return columns
