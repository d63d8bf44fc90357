"""A segment: finished shards of a part of the photos of an archive, made elsewhere: a folder with ``segment.json``.

It has an archive's ``shards/``, ``names/``, ``vectors/`` and failures, without a codebook, which it names. Its files
never change, and it appears under its name whole. ``segment.json`` holds an archive's manifest, and what made it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import checksum, write_file
from ctxdeploy.core.reading import read_regular
from ctxdeploy.index.storage.format import NewerFormatError, unreadable
from ctxdeploy.index.storage.manifest import Manifest, parse

FORMAT_NAME = "ctxdeploy-segment"
FORMAT_VERSION = 1
SEGMENT = "segment.json"
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """An opened segment.

    Attributes:
        path: its folder.
        id: hex sha256 of what it was made from; segments of one id hold the same photos.
        facts: what its maker says of it; any JSON.
        manifest: its shards and failures, and what they were made with.
    """

    path: Path
    id: str
    facts: Mapping[str, Any]
    manifest: Manifest


def is_segment(path: Path) -> bool:
    """Return whether a folder is (or claims to be) a segment."""
    return (path / SEGMENT).is_file()


def write_facts(folder: Path, segment: Segment) -> None:
    """Write ``segment.json`` into a folder that holds the files."""
    facts = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "id": segment.id,
        "facts": dict(segment.facts),
        "manifest": segment.manifest.metadata(),
    }
    text = json.dumps({**facts, "checksum": checksum(facts)}, indent=1, allow_nan=False) + "\n"
    write_file(folder / SEGMENT, [text.encode("ascii")])


def open_segment(path: Path) -> Segment:
    """Open a segment; no file of it but ``segment.json`` is read.

    Raises:
        ArchiveError: it is not a segment, damaged, or of a newer format.
    """
    where = path / SEGMENT
    try:
        data = json.loads(read_regular(where, _MAX_BYTES).decode("ascii"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArchiveError(f"{path} is not a segment (no {SEGMENT}): make one with  ctxdeploy extract") from error
    except OSError as error:
        raise unreadable(where, error) from error
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT_NAME:
        raise ArchiveError(f"{where}: format is not {FORMAT_NAME}")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        kind = NewerFormatError if type(version) is int and version > FORMAT_VERSION else ArchiveError
        raise kind(f"{where}: format_version {version!r}, this ctxdeploy reads {FORMAT_VERSION}: upgrade it"[:500])
    if data.get("checksum") != checksum(data):
        raise ArchiveError(f"{where} is damaged: checksum is not that of its content; delete the segment, make it anew")
    if not (isinstance(data.get("id"), str) and isinstance(data.get("facts"), dict)):
        raise ArchiveError(f"{where}: id or facts is missing")
    manifest = parse(json.dumps(data.get("manifest")).encode(), str(where))
    return Segment(path=path, id=data["id"], facts=data["facts"], manifest=manifest)
