"""Names of photos as bytes, the file that lists a shard's, and where a name is among millions.

A shard holds its photos' names, and ``names/<sha256>.safetensors`` holds them once more (0.5 % of the archive), so that
``repair`` can say which photos went with a damaged or missing shard. Tensors: ``names`` uint8, ``name_offsets`` uint32
n+1.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.manifest import NAMES, FileEntry, store

FORMAT_NAME = "ctxdeploy-names"
FORMAT_VERSION = 1
_RECENT_SHARDS = 256
_RECENT_NAMES = 1 << 20


def encode_name(name: str) -> bytes:
    """Return a name's bytes: UTF-8, with the bytes that ``os.fsdecode`` could not decode as they were.

    Raises:
        ConfigError: it is not a text, or it would come back as another name.
    """
    if not isinstance(name, str):
        raise ConfigError(f"the name {name!r} is not a text")
    try:
        data = name.encode("utf-8", "surrogateescape")
        same = decode_name(data) == name
    except UnicodeEncodeError:
        same = False
    if not same:
        raise ConfigError(f"the name {name!r} holds surrogates that do not stand for bytes: rename the photo")
    return data


def decode_name(data: bytes) -> str:
    """Undo ``encode_name``; never fails."""
    return data.decode("utf-8", "surrogateescape")


def name_tensors(names: Iterable[str]) -> file_format.Arrays:
    """Return ``names`` and ``name_offsets`` as they stand in files."""
    encoded = [encode_name(name) for name in names]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    if ends[-1] >= 1 << 32:
        raise ConfigError(f"{ends[-1]} bytes of names in one shard: give a lower shard_images, or shorter names")
    return {"names": np.frombuffer(b"".join(encoded), np.uint8), "name_offsets": ends.astype(np.uint32)}


def split_names(names: NDArray[np.uint8], offsets: NDArray[np.uint32]) -> list[str]:
    """Return the names in two such tensors, whose offsets have been checked."""
    data = names.tobytes()
    return [decode_name(data[begin:end]) for begin, end in pairwise(offsets.tolist())]


def write_names(folder: Path, tensors: file_format.Arrays) -> FileEntry:
    """Write the list of a shard's names, durably."""
    kept = {key: tensors[key] for key in ("names", "name_offsets")}
    facts = {"format": FORMAT_NAME, "format_version": str(FORMAT_VERSION)}
    return store(folder, f"{NAMES}/{{}}.safetensors", file_format.encode(kept, facts))


def read_names(folder: Path, entry: FileEntry, images: int) -> list[str]:
    """Return the names that ``write_names`` wrote.

    Raises:
        ArchiveError: missing, damaged (its sha256 is checked), of a newer format, or not ``images`` names.
    """
    path = folder / entry.file
    arrays, metadata = file_format.map_file(path)
    file_format.check_version(metadata, FORMAT_NAME, (FORMAT_VERSION,), str(path))
    file_format.check_hash(path, entry.sha256)
    wanted: dict[str, file_format.Wanted] = {"names": ("|u1", None), "name_offsets": ("<u4", (images + 1,))}
    file_format.check_tensors(arrays, wanted, str(path))
    file_format.check_offsets(arrays["name_offsets"], len(arrays["names"]), f"{path}: name_offsets")
    return split_names(arrays["names"], arrays["name_offsets"])


class Named(Protocol):
    """What a table of names needs of a shard."""

    @property
    def names(self) -> NDArray[np.uint8]: ...
    @property
    def name_offsets(self) -> NDArray[np.uint32]: ...
    @property
    def live(self) -> NDArray[np.bool_]: ...
    def __len__(self) -> int: ...
    def name(self, number: int) -> str: ...


class NameIndex:
    """Finds the shard and number of a name: sorted 64-bit hashes, 16 bytes a photo, 0.1 s to make for a million.

    A hash only proposes; names are compared. A shard that is written later is appended with a dictionary of its names.

    Args:
        shards: those of the archive when the table is made.
    """

    def __init__(self, shards: Sequence[Named]) -> None:
        from ctxdeploy.index.kernels import build as build_kernels

        self._shards = list(shards)
        self._bases = np.cumsum([0, *map(len, shards)], dtype=np.int64)
        hashes = [build_kernels.hash_names(shard.names, shard.name_offsets) for shard in shards]
        joined = np.concatenate([np.empty(0, np.uint64), *hashes])
        self._places = np.argsort(joined, kind="stable")
        self._hashes = joined[self._places]
        self._recent: dict[int, dict[str, int]] = {}

    def append(self, shard: int, numbers: dict[str, int]) -> None:
        """Take the names of a new shard; the same shard again replaces what was said of it."""
        self._recent[shard] = numbers

    @property
    def is_stale(self) -> bool:
        """Whether so much was appended that a new table is smaller (a dictionary takes 170 bytes a name) or faster."""
        return len(self._recent) > _RECENT_SHARDS or sum(map(len, self._recent.values())) > _RECENT_NAMES

    def suspects(self, shard: Named) -> NDArray[np.int64]:
        """Return the numbers of another shard's photos whose names are probably here; appended shards are not seen."""
        from ctxdeploy.index.kernels import build as build_kernels

        hashes = build_kernels.hash_names(shard.names, shard.name_offsets)
        places = np.minimum(np.searchsorted(self._hashes, hashes), max(len(self._hashes) - 1, 0))
        return np.flatnonzero(self._hashes[places] == hashes) if len(self._hashes) else np.empty(0, np.int64)

    def likely_doubled(self) -> NDArray[np.int64]:
        """Return the places (numbers through all shards) of photos whose hash another one has."""
        same = self._hashes[1:] == self._hashes[:-1]
        both = np.concatenate([same, [False]]) | np.concatenate([[False], same])
        return np.sort(self._places[both]) if len(self._hashes) else np.empty(0, np.int64)

    def find(self, name: str) -> Iterator[tuple[int, int]]:
        """Yield shard and number of every photo of that name, removed ones too."""
        from ctxdeploy.index.kernels import build as build_kernels

        try:
            data = encode_name(name)
        except ConfigError:  # a name that no archive can hold
            return
        key = build_kernels.hash_names(np.frombuffer(data, np.uint8), np.array([0, len(data)], np.uint32))[0]
        begin = int(np.searchsorted(self._hashes, key))
        while begin < len(self._hashes) and self._hashes[begin] == key:
            place = int(self._places[begin])
            number = int(np.searchsorted(self._bases, place, side="right")) - 1
            shard, inside = self._shards[number], place - int(self._bases[number])
            if shard.names[shard.name_offsets[inside] : shard.name_offsets[inside + 1]].tobytes() == data:
                yield number, inside
            begin += 1
        for number, names in self._recent.items():
            if name in names:
                yield number, names[name]

    def find_all(self, names: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], int, NDArray[np.int64]]]:
        """Yield places of names, a shard, and the numbers in it of photos called so, removed ones too.

        A yield has each name once at most. Appended shards are not seen.
        """
        from ctxdeploy.index.kernels import build as build_kernels

        rows, data, ends = _held(names)
        hashes = build_kernels.hash_names(data, ends)
        at = np.searchsorted(self._hashes, hashes)
        owners = np.arange(len(rows))
        while len(at):
            same = at < len(self._hashes)
            same[same] = self._hashes[at[same]] == hashes[owners[same]]
            at, owners = at[same], owners[same]
            places = self._places[at]
            shards = np.searchsorted(self._bases, places, side="right") - 1
            for number in np.unique(shards).tolist():
                here = shards == number
                inside, asked = places[here] - self._bases[number], owners[here]
                equal = self._are_equal(number, inside, data, ends, asked)
                yield rows[asked[equal]], number, inside[equal]
            at = at + 1

    def _are_equal(
        self,
        shard: int,
        numbers: NDArray[np.int64],
        data: NDArray[np.uint8],
        ends: NDArray[np.uint32],
        rows: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        from ctxdeploy.index.kernels import names as name_kernels

        named = self._shards[shard]
        return np.asarray(name_kernels.are_equal(named.names, named.name_offsets, numbers, data, ends, rows))


def _held(names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint32]]:
    """Return the places of those names that an archive can hold, their bytes one behind the other, and the offsets."""
    rows, encoded = [], []
    for row, name in enumerate(names):
        try:
            encoded.append(encode_name(name) if not (isinstance(name, str) and name.isascii()) else name.encode())
        except ConfigError:
            continue
        rows.append(row)
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    if ends[-1] >= 1 << 32:
        raise ConfigError(f"{ends[-1]:,} bytes of names are too many to be looked up at once: give fewer")
    return np.array(rows, np.int64), np.frombuffer(b"".join(encoded), np.uint8), ends.astype(np.uint32)


def doubled_names(shards: Sequence[Named]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return shard and number of two photos of one name that are both in the archive, neighbours in order; there should
    be none. Memory: 16 bytes a photo, not all names at once."""
    bases = np.cumsum([0, *map(len, shards)], dtype=np.int64)
    seen: dict[str, tuple[int, int]] = {}
    doubled = []
    for place in NameIndex(shards).likely_doubled().tolist():
        shard = int(np.searchsorted(bases, place, side="right")) - 1
        number = place - int(bases[shard])
        if shards[shard].live[number]:
            name = shards[shard].name(number)
            if name in seen:
                doubled.append((seen[name], (shard, number)))
            seen[name] = (shard, number)
    return doubled
