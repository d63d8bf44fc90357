"""The state of an archive: ``manifest-000007.json``, and ``CURRENT``, which names it and holds its sha256."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.errors import ArchiveError, ConfigError
from ctxdeploy.index.config import DescriptorSource, IndexConfig
from ctxdeploy.index.storage import write_file

FORMAT_NAME = "ctxdeploy-archive"
FORMAT_VERSION = 1
CURRENT = "CURRENT"
SHARDS = "shards"
CODEBOOK = "codebook.safetensors"
_HASH = r"[0-9a-f]{64}"
_POINTER = re.compile(rf"(manifest-\d{{6,12}}\.json) ({_HASH})\n")
_FILES = {
    "codebook": re.compile(r"codebook\.safetensors"),
    "shards": re.compile(rf"shards/{_HASH}\.safetensors"),
    "failures": re.compile(r"failures-\d{6,12}\.jsonl"),
}

# A writer may collect garbage between our reading of CURRENT and of the manifest.
_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the archive, by its path in it, with its size and hex sha256."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry(FileEntry):
    """A shard file, and how many photos and postings (photo, word) it holds."""

    images: int
    postings: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One committed state.

    Attributes:
        number: rises by one with each commit.
        config: how the archive aggregates and compares.
        source: where its descriptors came from, if known.
        codebook: the file.
        codebook_id: id of the codebook in it.
        words: W.
        dim: D.
        shards: in order of addition.
        failures: the file, or None if every photo could be read.
    """

    number: int
    config: IndexConfig
    source: DescriptorSource | None
    codebook: FileEntry
    codebook_id: str
    words: int
    dim: int
    shards: tuple[ShardEntry, ...] = ()
    failures: FileEntry | None = None

    @property
    def images(self) -> int:
        """Photos in all shards."""
        return sum(entry.images for entry in self.shards)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file that belongs to this state, but the manifest."""
        failures = () if self.failures is None else (self.failures,)
        return (self.codebook, *self.shards, *failures)

    def metadata(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        return {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "number": self.number,
            "images": self.images,
            "words": self.words,
            "dim": self.dim,
            "config": self.config.metadata(),
            "source": None if self.source is None else self.source.metadata(),
            "codebook": asdict(self.codebook),
            "codebook_id": self.codebook_id,
            "shards": [asdict(entry) for entry in self.shards],
            "failures": None if self.failures is None else asdict(self.failures),
        }


def manifest_name(number: int) -> str:
    """Return the file name of a manifest."""
    return f"manifest-{number:06d}.json"


def publish(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, then make it the state in force by replacing ``CURRENT``.

    Raises:
        StorageError: it cannot be written. The state before stays in force, unless only the last sync of the folder
            failed: then the new one is, and a power cut decides.
    """
    text = (json.dumps(manifest.metadata(), indent=1, allow_nan=False) + "\n").encode()
    name = manifest_name(manifest.number)
    write_file(folder / name, [text])
    write_file(folder / CURRENT, [f"{name} {hashlib.sha256(text).hexdigest()}\n".encode()])


def read_current(folder: Path) -> Manifest:
    """Return the state in force. A manifest that a writer removed after ``CURRENT`` was read leads to the next one.

    Raises:
        ArchiveError: no archive, damaged, or of a newer format; the text names the file and the field.
    """
    for _ in range(_ATTEMPTS):
        pointer = _read_pointer(folder)
        try:
            return _read_manifest(folder, pointer)
        except ArchiveError:
            if _read_pointer(folder) == pointer:
                raise
    raise ArchiveError(f"{folder} changes faster than it can be opened: try again")


def _read_pointer(folder: Path) -> str:
    path = folder / CURRENT
    try:
        return path.read_bytes().decode("ascii")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArchiveError(f"{folder} is not an archive (no {CURRENT}): make one with  ctxdeploy index") from error
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def _read_manifest(folder: Path, pointer: str) -> Manifest:
    path = folder / CURRENT
    match = _POINTER.fullmatch(pointer)
    if match is None:
        raise ArchiveError(f"{path} is damaged: it does not name a manifest and its sha256")
    name, sha256 = match.groups()
    try:
        text = (folder / name).read_bytes()
    except OSError as error:
        raise ArchiveError(f"{folder / name} cannot be read, but {CURRENT} names it: {error}") from error
    if hashlib.sha256(text).hexdigest() != sha256:
        raise ArchiveError(f"{folder / name} is damaged: its sha256 is not the one in {CURRENT}")
    return parse(text, str(folder / name))


def parse(text: bytes, where: str) -> Manifest:
    """Return the manifest in a JSON text; ``where`` names the file in errors (``ArchiveError``)."""
    try:
        data = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT_NAME:
        raise ArchiveError(f"{where}: format is not {FORMAT_NAME}")
    version = data.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ArchiveError(f"{where}: format_version {version!r}, this ctxdeploy reads {FORMAT_VERSION}: upgrade it")
    try:
        manifest = _build(data)
    except KeyError as error:
        raise ArchiveError(f"{where}: {error} is missing") from error
    except (TypeError, ValueError, ConfigError) as error:
        raise ArchiveError(f"{where}: {error}") from error
    if manifest.images != data.get("images"):
        raise ArchiveError(f"{where}: images {data.get('images')!r} is not the sum over the shards")
    return manifest


def _build(data: dict[str, Any]) -> Manifest:
    return Manifest(
        number=_count(data, "number"),
        config=IndexConfig(**data["config"]),
        source=None if data["source"] is None else DescriptorSource(**data["source"]),
        codebook=FileEntry(**_file(data["codebook"], "codebook")),
        codebook_id=str(data["codebook_id"]),
        words=_count(data, "words"),
        dim=_count(data, "dim"),
        shards=tuple(_shard(entry) for entry in data["shards"]),
        failures=None if data["failures"] is None else FileEntry(**_file(data["failures"], "failures")),
    )


def _shard(entry: Any) -> ShardEntry:
    facts = _file(entry, "shards")
    return ShardEntry(**facts, images=_count(entry, "images"), postings=_count(entry, "postings"))


def _file(entry: Any, field: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"{field} is not an entry of file, bytes and sha256")
    name, sha256 = entry["file"], entry["sha256"]
    if not isinstance(name, str) or _FILES[field].fullmatch(name) is None:
        raise ValueError(f"{field} names the file {name!r}, which does not belong to an archive")
    if not isinstance(sha256, str) or re.fullmatch(_HASH, sha256) is None:
        raise ValueError(f"sha256 of {name} is not 64 hex digits")
    return {"file": name, "bytes": _count(entry, "bytes"), "sha256": sha256}


def _count(entry: dict[str, Any], field: str) -> int:
    value = entry[field]
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{field} {value!r} is not a count")
    return value
