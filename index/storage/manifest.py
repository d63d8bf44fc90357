"""The state of an archive: ``manifest-000007.json``, and ``CURRENT``, which names it and holds its sha256."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.files import Piece, checksum, make_folder, piece_bytes, write_file
from ctxdeploy.core.reading import read_regular
from ctxdeploy.index.config import DescriptorSource, IndexConfig
from ctxdeploy.index.storage.format import NewerFormatError, unreadable

FORMAT_NAME = "ctxdeploy-archive"
# 2: removed photos, lists of names, statistics, geometry, a checksum. 1 is read, and written as 2 by the next commit.
# 3: geometry with codes or descriptors. An archive that keeps neither is still written as 2. 4: global vectors.
FORMAT_VERSION = 4
_KEEPS_POSITIONS_AT_MOST = {"none": False, "positions": True}
CURRENT = "CURRENT"
SHARDS = "shards"
NAMES = "names"
TOMBSTONES = "tombstones"
VECTORS = "vectors"
# Every archive has the first three; the last one comes with the first global vectors.
FOLDERS = (SHARDS, NAMES, TOMBSTONES, VECTORS)
CODEBOOK = "codebook.safetensors"
QUANTISER = "quantiser.safetensors"
_HASH = r"[0-9a-f]{64}"
_POINTER = re.compile(rf"(manifest-\d{{6,12}}\.json) ({_HASH})\n")
_MANIFEST = re.compile(r"manifest-(\d{6,12})\.json")
_FILES = {
    "codebook": re.compile(r"codebook\.safetensors"),
    "quantiser": re.compile(r"quantiser\.safetensors"),
    SHARDS: re.compile(rf"{SHARDS}/{_HASH}\.safetensors"),
    NAMES: re.compile(rf"{NAMES}/{_HASH}\.safetensors"),
    TOMBSTONES: re.compile(rf"{TOMBSTONES}/{_HASH}\.safetensors"),
    VECTORS: re.compile(rf"{VECTORS}/{_HASH}\.safetensors"),
    "failures": re.compile(r"failures-\d{6,12}\.jsonl"),
    "statistics": re.compile(r"statistics-\d{6,12}\.safetensors"),
}


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the archive, by its path in it, with its size and hex sha256."""

    file: str
    bytes: int
    sha256: str

    def metadata(self) -> dict[str, Any]:
        """Return the entry as it stands in a manifest."""
        return {"file": self.file, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True, kw_only=True)
class ShardEntry(FileEntry):
    """A shard file.

    Attributes:
        images: photos in the file.
        postings: pairs of photo and word in the file.
        removed: photos of the file that are no longer in the archive; fewer than ``images``.
        names: the list of the photos' names; None in archives of format 1.
        tombstones: the file that says which photos are removed; None if none is.
        vectors: the global vectors of all its photos, in their order; None in an archive without.
    """

    images: int
    postings: int
    removed: int = 0
    names: FileEntry | None = None
    tombstones: FileEntry | None = None
    vectors: FileEntry | None = None

    @property
    def live(self) -> int:
        """Photos of the file that are in the archive."""
        return self.images - self.removed

    def metadata(self) -> dict[str, Any]:
        """Return the entry as it stands in a manifest."""
        facts: dict[str, Any] = {"images": self.images, "postings": self.postings, "removed": self.removed}
        facts |= {"names": _metadata(self.names), "tombstones": _metadata(self.tombstones)}
        vectors = {} if self.vectors is None else {"vectors": self.vectors.metadata()}
        return {**super().metadata(), **facts, **vectors}

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The shard file and those that belong to it."""
        return (self, *(entry for entry in (self.names, self.tombstones, self.vectors) if entry is not None))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One committed state.

    Attributes:
        number: rises with each commit.
        config: how the archive aggregates and compares.
        source: where its descriptors came from, if known.
        codebook: the file; None in an archive of global vectors alone.
        codebook_id: id of the codebook in it; empty without one.
        words: W; 0 without a codebook.
        dim: D; 0 without a codebook.
        shards: in order of addition.
        failures: the file, or None if every photo could be read.
        quantiser: the file of the quantiser of global vectors, only where ``config`` needs one.
        statistics: the file of idf's statistics, only where ``config.idf`` is set.
    """

    number: int
    config: IndexConfig
    source: DescriptorSource | None
    codebook: FileEntry | None
    codebook_id: str
    words: int
    dim: int
    shards: tuple[ShardEntry, ...] = ()
    failures: FileEntry | None = None
    statistics: FileEntry | None = None
    quantiser: FileEntry | None = None

    @property
    def images(self) -> int:
        """Photos in the archive."""
        return sum(entry.live for entry in self.shards)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file that belongs to this state, but the manifest."""
        optional = (self.codebook, self.failures, self.statistics, self.quantiser)
        single = tuple(entry for entry in optional if entry is not None)
        return (*single, *(file for entry in self.shards for file in entry.files))

    @property
    def format_version(self) -> int:
        """The format in which it is written."""
        if self.config.keeps_global or self.config.aggregation != "plain":
            return 4
        return 3 if self.config.keeps("codes") else 2

    def metadata(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        config = self.config.metadata()
        if not self.config.keeps_global:
            config = {key: value for key, value in config.items() if not key.startswith("global_")}
        if self.config.aggregation == "plain":
            del config["aggregation"]
        config["geometry"] = _KEEPS_POSITIONS_AT_MOST.get(self.config.geometry, self.config.geometry)
        facts = {
            "format": FORMAT_NAME,
            "format_version": self.format_version,
            "number": self.number,
            "images": self.images,
            "words": self.words,
            "dim": self.dim,
            "config": config,
            "source": None if self.source is None else self.source.metadata(),
            "codebook": _metadata(self.codebook),
            "codebook_id": self.codebook_id,
            "shards": [entry.metadata() for entry in self.shards],
            "failures": _metadata(self.failures),
            "statistics": _metadata(self.statistics),
        }
        if self.quantiser is not None:
            facts["quantiser"] = self.quantiser.metadata()
        return {**facts, "checksum": checksum(facts)}

    def encode(self) -> bytes:
        """Return the bytes of the JSON file: a line for each fact, and for each shard.

        json's own indentation is written in Python: 10 µs a shard instead of 7, with every commit.
        """
        facts = self.metadata()
        texts = {key: json.dumps(value, allow_nan=False) for key, value in facts.items() if key != "shards"}
        shards = ",\n".join(json.dumps(entry, allow_nan=False) for entry in facts["shards"])
        texts["shards"] = f"[\n{shards}\n]"
        return ("{\n" + ",\n".join(f'"{key}": {texts[key]}' for key in facts) + "\n}\n").encode()


def _metadata(entry: FileEntry | None) -> dict[str, Any] | None:
    return None if entry is None else entry.metadata()


def store(folder: Path, file: str, pieces: Sequence[Piece], through: Path | None = None) -> FileEntry:
    """Write a file of the archive, durably; ``{}`` in its name stands for the sha256 of its content.

    One that has no such name is written ``through`` the folder of the writer's lease.

    Raises:
        StorageError: it cannot be written.
    """
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece_bytes(piece))
    sha256 = digest.hexdigest()
    path = folder / file.format(sha256)
    make_folder(path.parent)
    return FileEntry(file=file.format(sha256), bytes=write_file(path, pieces, through=through), sha256=sha256)


def manifest_name(number: int) -> str:
    """Return the file name of a manifest."""
    return f"manifest-{number:06d}.json"


def manifest_numbers(folder: Path) -> list[int]:
    """Return the numbers of the manifests in an archive's folder, rising."""
    matches = (_MANIFEST.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match.group(1)) for match in matches if match is not None)


def pointer_text(name: str, text: bytes) -> bytes:
    """Return what ``CURRENT`` holds when the manifest ``name`` with the content ``text`` is in force."""
    return f"{name} {hashlib.sha256(text).hexdigest()}\n".encode()


def publish(folder: Path, manifest: Manifest, through: Path | None = None, tried: set[str] | None = None) -> None:
    """Write a manifest, then make it the state in force by replacing ``CURRENT``.

    Args:
        folder: the archive, whose lease the caller holds.
        manifest: of a number that no manifest has.
        through: the folder of that lease: whoever takes the lease keeps both files from appearing.
        tried: takes the text that ``CURRENT`` will have, before anything is written.

    Raises:
        StorageError: it cannot be written. The state before stays in force, unless only the last sync of the folder
            failed: then the new one is, and a power cut decides.
    """
    text = manifest.encode()
    name = manifest_name(manifest.number)
    pointer = pointer_text(name, text)
    if tried is not None:
        tried.add(pointer.decode())
    write_file(folder / name, [text], through=through)
    write_file(folder / CURRENT, [pointer], through=through)


def read_pointer(folder: Path) -> str:
    """Return the text of ``CURRENT``.

    Raises:
        ArchiveError: the folder is not an archive, or the file cannot be read.
    """
    path = folder / CURRENT
    try:
        return read_regular(path).decode("ascii")
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder.is_dir() and any(manifest_numbers(folder)):  # the first, 0, alone is left by a creation
            raise ArchiveError(f"{path} is missing: run  ctxdeploy repair {folder}") from error
        raise ArchiveError(f"{folder} is not an archive (no {CURRENT}): make one with  ctxdeploy index") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def parse_pointer(text: str, where: str) -> tuple[str, str]:
    """Return the manifest's file name and sha256 in the text of ``CURRENT``; ``ArchiveError`` if it is damaged."""
    match = _POINTER.fullmatch(text)
    if match is None:
        raise ArchiveError(f"{where} is damaged: it does not name a manifest and its sha256")
    return match.group(1), match.group(2)


def parse(text: bytes, where: str) -> Manifest:
    """Return the manifest in a JSON text; ``where`` names the file in errors (``ArchiveError``)."""
    try:
        data = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT_NAME:
        raise ArchiveError(f"{where}: format is not {FORMAT_NAME}")
    version = data.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        kind = NewerFormatError if type(version) is int and version > FORMAT_VERSION else ArchiveError
        readable = f"versions up to {FORMAT_VERSION}"
        raise kind(f"{where}: format_version {version!r}, this ctxdeploy reads {readable}: upgrade it"[:500])
    try:
        if version > 1 and data["checksum"] != checksum(data):
            raise ValueError("checksum is not that of its content")
        manifest = _build(data)
    except KeyError as error:
        raise ArchiveError(f"{where}: {error} is missing") from error
    except (TypeError, ValueError, RecursionError, ConfigError) as error:
        raise ArchiveError(f"{where}: {error}") from error
    problem = _contradiction(manifest, data["format_version"])
    if problem is not None:
        raise ArchiveError(f"{where}: {problem}")
    if manifest.images != data.get("images"):
        raise ArchiveError(f"{where}: images {data.get('images')!r} is not the sum over the shards")
    return manifest


def _build(data: dict[str, Any]) -> Manifest:
    return Manifest(
        number=_count(data, "number"),
        config=_config(data),
        source=None if data["source"] is None else DescriptorSource(**data["source"]),
        codebook=_optional(data, "codebook") if data["format_version"] >= 4 else _file(data["codebook"], "codebook"),
        codebook_id=str(data["codebook_id"]),
        words=_count(data, "words"),
        dim=_count(data, "dim"),
        shards=tuple(_shard(entry) for entry in data["shards"]),
        failures=_optional(data, "failures"),
        statistics=_optional(data, "statistics"),
        quantiser=_optional(data, "quantiser"),
    )


def _config(data: dict[str, Any]) -> IndexConfig:
    facts = {**data["config"]}
    geometry = facts.get("geometry", False)
    if isinstance(geometry, bool):
        facts["geometry"] = "positions" if geometry else "none"
    config = IndexConfig(**facts)
    if config.keeps("codes") and data["format_version"] < 3:
        raise ValueError(f"geometry {geometry!r} belongs to format_version 3")
    return config


def _contradiction(manifest: Manifest, version: int) -> str | None:
    """Return what of a manifest does not belong together; None if all does."""
    config = manifest.config
    if config.keeps_global and version < 4:
        return f"global_vectors {config.global_vectors!r} belongs to format_version 4"
    if config.aggregation != "plain" and version < 4:
        return f"aggregation {config.aggregation!r} belongs to format_version 4"
    if (manifest.quantiser is not None) != config.needs_quantiser:
        return "global_vectors and global_search contradict quantiser"
    if manifest.codebook is None:
        if not config.keeps_global or config.keeps("positions"):
            return "without a codebook there are global vectors and nothing else"
        if manifest.words or manifest.dim or manifest.codebook_id:
            return "words, dim or codebook_id without a codebook"
    for entry in manifest.shards:
        if (entry.vectors is not None) != config.keeps_global:
            return f"global_vectors is {config.global_vectors!r}, and vectors of {entry.file} contradict it"
    return None


def _shard(entry: Any) -> ShardEntry:
    file = _file(entry, SHARDS)
    shard = ShardEntry(
        **file.metadata(),
        images=_count(entry, "images"),
        postings=_count(entry, "postings"),
        removed=_count({"removed": 0, **entry}, "removed"),
        names=_optional(entry, NAMES),
        tombstones=_optional(entry, TOMBSTONES),
        vectors=_optional(entry, VECTORS),
    )
    if not 0 <= shard.removed < shard.images:
        raise ValueError(f"removed {shard.removed} of {file.file} is not below its images {shard.images}")
    if (shard.removed > 0) != (shard.tombstones is not None):
        raise ValueError(f"removed {shard.removed} and tombstones of {file.file} contradict each other")
    return shard


def _optional(data: dict[str, Any], field: str) -> FileEntry | None:
    return None if data.get(field) is None else _file(data[field], field)


def _file(entry: Any, field: str) -> FileEntry:
    if not isinstance(entry, dict):
        raise ValueError(f"{field} is not an entry of file, bytes and sha256")
    name, sha256 = entry["file"], entry["sha256"]
    if not isinstance(name, str) or _FILES[field].fullmatch(name) is None:
        raise ValueError(f"{field} names the file {name!r}, which does not belong to an archive"[:300])
    if not isinstance(sha256, str) or re.fullmatch(_HASH, sha256) is None:
        raise ValueError(f"sha256 of {name} is not 64 hex digits")
    return FileEntry(file=name, bytes=_count(entry, "bytes"), sha256=sha256)


def _count(entry: dict[str, Any], field: str) -> int:
    value = entry[field]
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{field} {value!r} is not a count"[:300])
    return value
