"""How many bytes photos will take on disk, before there are any: those of the files that would be written.

Nothing is estimated here: type and shape of every tensor are those that a shard is checked against, and the header is
the one that would be written. The counts (postings, features, bytes of names) are the caller's.
"""

from dataclasses import dataclass

import numpy as np

from ctxdeploy.index.codebook.assignment import FLAT_WORDS, WORDS_PER_CELL
from ctxdeploy.index.config import PART_WORDS, IndexConfig, global_parts
from ctxdeploy.index.maintenance.compact import MAX_BYTES
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.layout import Layout
from ctxdeploy.index.storage.vectors import tensors as vector_tensors

_GEOMETRY, _NAMES = "geometry_", ("names", "name_offsets")
# A header is 64 hex digits of a codebook, some texts and a line for each tensor.
_HASH = "0" * 64


@dataclass(frozen=True, kw_only=True)
class PhotoSizes:
    """Bytes of the files of some photos, by what a query does with them.

    Attributes:
        postings: codes and numbers of photos: a query reads those of its words.
        lists: where each word's postings begin, and the words of each photo.
        geometry: features; a query reads those of the photos that it verifies.
        names: with sizes and times of files; a query reads those of its hits.
        listed: the names once more, for ``repair``.
        vectors: global vectors, and their cells.
        headers: of all these files.
    """

    postings: int
    lists: int
    geometry: int
    names: int
    listed: int
    vectors: int
    headers: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(vars(self).values())

    @property
    def shard(self) -> int:
        """Of the shard's own file, without the list of names and global vectors."""
        return self.postings + self.lists + self.geometry + self.names

    def times(self, count: float) -> "PhotoSizes":
        """Return the bytes of so many of them."""
        return PhotoSizes(**{name: round(value * count) for name, value in vars(self).items()})


def photo_sizes(
    config: IndexConfig, *, words: int, dim: int, images: int, postings: int, features: int, name_bytes: int
) -> PhotoSizes:
    """Return the bytes of one shard of photos and of the files that belong to it.

    Args:
        config: of the archive.
        words, dim: of its codebook; both 0 without one.
        images: photos of the shard.
        postings: pairs of photo and word.
        features: of the photos.
        name_bytes: of all their names.
    """
    identity = _HASH if words else ""
    layout = Layout(words=words, dim=dim, binary=config.binary, codebook_id=identity, geometry=config.geometry)
    sizes, headers = dict.fromkeys(("postings", "lists", "geometry", "names"), 0), 0
    shard = _arrays(layout.tensors(images, postings, features), name_bytes)
    for name, array in shard.items():
        kind = "geometry" if name.startswith(_GEOMETRY) else _KINDS.get(name, "names")
        sizes[kind] += array.nbytes
    facts = {"format": "ctxdeploy-shard", "format_version": "0", **layout.metadata()}
    headers += _header(shard, facts)
    listed = {name: shard[name] for name in _NAMES}
    headers += _header(listed, {"format": "ctxdeploy-names", "format_version": "0"})
    vectors = 0
    if config.keeps_global:
        kept = _arrays(vector_tensors(config, images), name_bytes)
        facts = {"kind": config.global_vectors, "dim": str(config.global_dim), "shard": _HASH}
        facts |= {"quantiser": _HASH} if config.needs_quantiser else {}
        headers += _header(kept, {"format": "ctxdeploy-vectors", "format_version": "0", **facts})
        vectors = sum(array.nbytes for array in kept.values())
    names = sum(array.nbytes for array in listed.values())
    return PhotoSizes(**sizes, listed=names, vectors=vectors, headers=headers)


_KINDS = {"codes": "postings", "images": "postings", "word_offsets": "lists", "counts": "lists"}


def codebook_bytes(words: int, dim: int) -> int:
    """Return the bytes of a codebook's file, but for its header of 1 to 2 KB; exact if it was trained here."""
    cells = words // WORDS_PER_CELL if words > FLAT_WORDS else 0
    return 4 * words * dim + (4 * cells * dim + 4 * words + 4 * (cells + 1) if cells else 0)


def quantiser_bytes(config: IndexConfig, cells: int) -> int:
    """Return the bytes of the words of product quantisation and of the cells' centres, but for their header."""
    dim = config.global_dim
    parts = 4 * PART_WORDS * (dim // global_parts(dim)) * global_parts(dim) if config.global_vectors == "pq" else 0
    return parts + (4 * cells * dim if config.global_search == "ivf" else 0)


def statistics_bytes(words: int, images: int) -> int:
    """Return the bytes of idf's statistics, but for their header."""
    return 4 * words + 8 * images


def shard_photos(config: IndexConfig, photo_bytes: float) -> int:
    """Return the photos of a shard that ``compact`` makes, of so many bytes of the shard's file each."""
    return max(1, min(config.shard_images, int(MAX_BYTES // max(photo_bytes, 1))))


def _arrays(wanted: dict[str, file_format.Wanted], length: int) -> file_format.Arrays:
    """Return tensors of these types and shapes that take no memory; ``length`` is that of one of any length."""
    return {
        name: np.broadcast_to(np.zeros((), dtype), (length,) if shape is None else shape)
        for name, (dtype, shape) in wanted.items()
    }


def _header(arrays: file_format.Arrays, facts: dict[str, str]) -> int:
    return len(file_format.encode(arrays, facts)[0])
