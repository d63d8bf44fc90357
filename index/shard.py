"""A shard: the postings of at most 65,536 photos in one immutable safetensors file.

Tensors (W words, D dimensions, n photos, P postings = pairs of photo and word, C = ceil(D / 64)):

    codes         binary: uint64 C×P, column by column; else float32 P×D; word after word, in a word photo after photo
    images        uint16 P          photo of each posting, its number in this shard
    word_offsets  uint32 W+1        postings of word w are word_offsets[w] .. word_offsets[w + 1]
    counts        uint32 n          words of each photo (its norm)
    names         uint8             names of the photos, UTF-8 with surrogateescape, one after another
    name_offsets  uint32 n+1
    sizes, mtimes int64 n           size in bytes and time of change in ns of each photo's file, -1 if unknown
"""

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ArchiveError, ConfigError
from ctxdeploy.index import format as file_format
from ctxdeploy.index.aggregate import Aggregated, code_columns
from ctxdeploy.index.config import MAX_SHARD_IMAGES
from ctxdeploy.index.manifest import SHARDS, Manifest, ShardEntry
from ctxdeploy.index.storage import Piece, piece_bytes, write_file

FORMAT_NAME = "ctxdeploy-shard"
FORMAT_VERSION = 1
_MAX_POSTINGS = (1 << 32) - 1


def encode_name(name: str) -> bytes:
    """Return a name's bytes: UTF-8, with the bytes that ``os.fsdecode`` could not decode as they were.

    Raises:
        ConfigError: the name would come back as another one.
    """
    try:
        data = name.encode("utf-8", "surrogateescape")
        same = decode_name(data) == name
    except UnicodeEncodeError:
        same = False
    if not same:
        raise ConfigError(f"the name {name!r} holds surrogates that are no undecodable bytes: rename the photo")
    return data


def decode_name(data: bytes) -> str:
    """Undo ``encode_name``; never fails."""
    return data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """An opened shard; the arrays are those of the file, mapped and read-only."""

    path: Path
    codes: NDArray[Any]
    images: NDArray[np.uint16]
    word_offsets: NDArray[np.uint32]
    counts: NDArray[np.uint32]
    names: NDArray[np.uint8]
    name_offsets: NDArray[np.uint32]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.counts)

    def name(self, number: int) -> str:
        """Return the name of a photo by its number in this shard."""
        return decode_name(self.names[self.name_offsets[number] : self.name_offsets[number + 1]].tobytes())

    def all_names(self) -> list[str]:
        """Return the names of all photos, in order."""
        data, ends = self.names.tobytes(), self.name_offsets.tolist()
        return [decode_name(data[begin:end]) for begin, end in pairwise(ends)]


class _Pending(NamedTuple):
    name: str
    photo: Aggregated
    size: int
    mtime_ns: int


@dataclass(kw_only=True)
class ShardBuilder:
    """Photos that are not yet in a file.

    At D = 128 a posting takes 38 bytes in memory and 57 more while it is written (binary), or 0.65 and 1.1 KB (float).
    """

    words: int
    dim: int
    binary: bool
    codebook_id: str
    entries: list[_Pending] = field(default_factory=list)
    pending_bytes: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, name: str, photo: Aggregated, size: int, mtime_ns: int) -> None:
        """Append a photo; its number is the number of those before it."""
        # One append: an interrupt finds the photo whole or not at all.
        self.entries.append(_Pending(name, photo, size, mtime_ns))
        self.pending_bytes += photo.codes.nbytes + photo.words.nbytes

    def tensors(self) -> file_format.Arrays:
        """Return the tensors of the file: a counting sort by word, stable, hence by photo in each word."""
        from ctxdeploy.index import build_kernels

        counts = np.array([len(entry.photo.words) for entry in self.entries], np.uint32)
        postings = int(counts.sum(dtype=np.int64))
        if postings > _MAX_POSTINGS:
            raise ConfigError(f"{postings} postings in one shard are above {_MAX_POSTINGS}: give a lower shard_images")
        words = _joined([entry.photo.words for entry in self.entries], np.empty(0, np.int32))
        offsets = np.zeros(self.words + 1, np.int64)
        np.cumsum(np.bincount(words, minlength=self.words), out=offsets[1:])
        images = np.empty(postings, np.uint16)
        numbers = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
        places = build_kernels.place_postings(words, numbers, offsets[:-1].copy(), images)
        encoded = [encode_name(entry.name) for entry in self.entries]
        ends = np.cumsum([0, *map(len, encoded)])
        return {
            "codes": self._codes(places),
            "images": images,
            "word_offsets": offsets.astype(np.uint32),
            "counts": counts,
            "names": np.frombuffer(b"".join(encoded), np.uint8),
            "name_offsets": ends.astype(np.uint32),
            "sizes": np.array([entry.size for entry in self.entries], np.int64),
            "mtimes": np.array([entry.mtime_ns for entry in self.entries], np.int64),
        }

    def _codes(self, places: NDArray[np.int64]) -> NDArray[Any]:
        parts = [entry.photo.codes for entry in self.entries]
        if not self.binary:
            floats = np.empty((len(places), self.dim), np.float32)
            floats[places] = _joined(parts, floats[:0])
            return floats
        columns = np.empty((code_columns(self.dim), len(places)), np.uint64)
        columns[:, places] = _joined(parts, columns.T[:0]).T
        return columns

    def pieces(self) -> list[Piece]:
        """Return the pieces of the file. The same photos in the same order give the same bytes."""
        metadata = {
            "format": FORMAT_NAME,
            "format_version": str(FORMAT_VERSION),
            "kind": "binary" if self.binary else "float",
            "words": str(self.words),
            "dim": str(self.dim),
            "codebook_id": self.codebook_id,
        }
        return file_format.encode(self.tensors(), metadata)

    def write(self, folder: Path) -> ShardEntry:
        """Write ``shards/<sha256>.safetensors``, durably, and return its entry for the manifest."""
        pieces = self.pieces()
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece_bytes(piece))
        file = f"{SHARDS}/{digest.hexdigest()}.safetensors"
        size = write_file(folder / file, pieces)
        postings = sum(len(entry.photo.words) for entry in self.entries)
        return ShardEntry(file=file, bytes=size, sha256=digest.hexdigest(), images=len(self), postings=postings)


def _joined(parts: list[Any], nothing: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([nothing, *parts])


def open_shard(folder: Path, entry: ShardEntry, manifest: Manifest) -> Shard:
    """Map a shard and check every length and offset in it; the postings themselves are not read.

    Raises:
        ArchiveError: missing, damaged or of a newer format; the text names the file and the field.
    """
    path = folder / entry.file
    arrays, metadata = file_format.map_file(path)
    where = str(path)
    expected = {
        "format": FORMAT_NAME,
        "format_version": str(FORMAT_VERSION),
        "kind": "binary" if manifest.config.binary else "float",
        "words": str(manifest.words),
        "dim": str(manifest.dim),
        "codebook_id": manifest.codebook_id,
    }
    for name, value in expected.items():
        if metadata.get(name) != value:
            advice = ": upgrade ctxdeploy" if name == "format_version" else ""
            raise ArchiveError(f"{where}: {name} is {metadata.get(name)!r}, but {value!r} is needed{advice}")
    _check_shapes(arrays, entry, manifest, where)
    check_offsets(arrays["word_offsets"], entry.postings, f"{where}: word_offsets")
    check_offsets(arrays["name_offsets"], len(arrays["names"]), f"{where}: name_offsets")
    return Shard(path=path, **arrays)


def _check_shapes(arrays: file_format.Arrays, entry: ShardEntry, manifest: Manifest, where: str) -> None:
    n, postings = entry.images, entry.postings
    if not 1 <= n <= MAX_SHARD_IMAGES:
        raise ArchiveError(f"{where}: {n} images, but a shard holds 1..{MAX_SHARD_IMAGES}")
    columns = code_columns(manifest.dim)
    codes = ("<u8", (columns, postings)) if manifest.config.binary else ("<f4", (postings, manifest.dim))
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "codes": codes,
        "images": ("<u2", (postings,)),
        "word_offsets": ("<u4", (manifest.words + 1,)),
        "counts": ("<u4", (n,)),
        "name_offsets": ("<u4", (n + 1,)),
        "sizes": ("<i8", (n,)),
        "mtimes": ("<i8", (n,)),
    }
    if set(arrays) != {*expected, "names"}:
        raise ArchiveError(f"{where} is damaged: its tensors are {sorted(arrays)}"[:300])
    for name, (dtype, shape) in {**expected, "names": ("|u1", (arrays["names"].size,))}.items():
        if arrays[name].dtype != np.dtype(dtype) or arrays[name].shape != shape:
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise ArchiveError(f"{where} is damaged: {name} is {found}, but {np.dtype(dtype)} {shape} is needed")


def check_offsets(offsets: NDArray[np.uint32], end: int, where: str) -> None:
    """Raise ``ArchiveError`` unless ``offsets`` begin at 0, never fall, and end at ``end``."""
    if offsets[0] != 0 or offsets[-1] != end or bool((offsets[1:] < offsets[:-1]).any()):
        raise ArchiveError(f"{where} is damaged: not rising from 0 to {end}")
