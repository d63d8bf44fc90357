"""What a published archive consists of: the content of ``CURRENT``, which is JSON that checks itself."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import checksum
from ctxdeploy.core.text import printable
from ctxdeploy.index import FileEntry
from ctxdeploy.object_storage.objects import Objects

FORMAT_NAME = "ctxdeploy-published"
FORMAT_VERSION = 1
CURRENT = "CURRENT"
FILES = "files"
STATES = "states"
ORIGIN = "origin.json"
JUDGEMENT = "judgement.json"
MODEL = "model"
MAX_STATE = 16 << 20
_HASH = re.compile(r"[0-9a-f]{64}")
_MANIFEST = re.compile(r"manifest-\d{6,12}\.json")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}"
_BESIDE = re.compile(rf"origin\.json|judgement\.json|snapshots/{_PART}\.json|{MODEL}(/{_PART}){{1,4}}")


@dataclass(frozen=True, kw_only=True)
class PublishedState:
    """One committed state of a published archive.

    Attributes:
        manifest: of the state in force.
        kept: manifests of its snapshots.
        beside: what else belongs to the archive: the model, ``origin.json``, ``judgement.json``, snapshots.
        parent: id of the state before; None of the first one.
        published: UTC, ISO 8601.
        collected: when garbage was removed before this state was written anew; None of one that a publisher wrote.
    """

    manifest: FileEntry
    kept: tuple[FileEntry, ...]
    beside: tuple[FileEntry, ...]
    parent: str | None
    published: str
    collected: str | None = None

    def encode(self) -> bytes:
        """Return the JSON text."""
        facts: dict[str, Any] = {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "published": self.published,
            "collected": self.collected,
            "parent": self.parent,
            "manifest": self.manifest.metadata(),
            "kept": [entry.metadata() for entry in self.kept],
            "beside": [entry.metadata() for entry in self.beside],
        }
        return (json.dumps({**facts, "checksum": checksum(facts)}, indent=1) + "\n").encode("ascii")


def state_id(text: bytes) -> str:
    """Return the id of a state: the hex sha256 of its text."""
    return hashlib.sha256(text).hexdigest()


def file_key(entry: FileEntry) -> str:
    """Return the key of a file of an archive."""
    return f"{FILES}/{entry.sha256}"


def state_key(identity: str) -> str:
    """Return the key under which a state stays when a later one is in force."""
    return f"{STATES}/{identity}.json"


def read_state(objects: Objects, key: str = CURRENT) -> tuple[bytes, PublishedState] | None:
    """Return text and content of a state; None if it is not there.

    Raises:
        ArchiveError: it cannot be read, is damaged, of a newer format, or no published archive's.
    """
    text = objects.read(key, MAX_STATE)
    return None if text is None else (text, parse_state(text, f"{printable(objects.url)}/{key}"))


def parse_state(text: bytes, where: str) -> PublishedState:
    """Return the state in a JSON text; ``where`` names the object in errors (``ArchiveError``)."""
    if text.startswith(b"manifest-"):
        raise ArchiveError(
            f"{where} is of an archive that was copied file by file: remove it, and publish with  ctxdeploy push"
        )
    try:
        data = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{where} is damaged: it is not valid JSON") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT_NAME:
        raise ArchiveError(f"{where}: format is not {FORMAT_NAME}")
    if data.get("format_version") != FORMAT_VERSION:
        version = data.get("format_version")
        raise ArchiveError(
            f"{where}: format_version {version!r}, this ctxdeploy reads {FORMAT_VERSION}: upgrade it"[:500]
        )
    try:
        if data["checksum"] != checksum(data):
            raise ValueError("checksum is not that of its content")
        parent = data["parent"]
        if parent is not None and _HASH.fullmatch(parent) is None:
            raise ValueError("parent is not the id of a state")
        return PublishedState(
            manifest=_entry(data["manifest"], _MANIFEST),
            kept=tuple(_entry(entry, _MANIFEST) for entry in data["kept"]),
            beside=tuple(_entry(entry, _BESIDE) for entry in data["beside"]),
            parent=parent,
            published=str(data["published"])[:100],
            collected=None if data["collected"] is None else str(data["collected"])[:100],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{where} is damaged: {error}"[:500]) from error


def _entry(entry: Any, pattern: re.Pattern[str]) -> FileEntry:
    name, size, sha256 = entry["file"], entry["bytes"], entry["sha256"]
    if not isinstance(name, str) or pattern.fullmatch(name) is None:
        raise ValueError(f"it names the file {name!r}, which does not belong to an archive"[:300])
    if type(size) is not int or not 0 <= size < 1 << 62:
        raise ValueError(f"bytes of {name} is not a count")
    if not isinstance(sha256, str) or _HASH.fullmatch(sha256) is None:
        raise ValueError(f"sha256 of {name} is not 64 hex digits")
    return FileEntry(file=name, bytes=size, sha256=sha256)


def entries_of(state: PublishedState) -> Iterator[FileEntry]:
    """Yield the files that a state names itself; its manifests name the others."""
    yield from (state.manifest, *state.kept, *state.beside)
