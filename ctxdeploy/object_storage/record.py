"""What an archive remembers of the URLs that it was published at, or fetched from: ``published-at.json``.

Who publishes must have seen what is in force there: else a commit of another machine would be lost.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.files import write_file
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.urls import without_secrets

RECORD = "published-at.json"
_FORMAT = "ctxdeploy-published-at"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one URL, by the sha256 of manifests.

    Attributes:
        committed: of the state that this archive was last known to be in force as; None if it never was.
        begun: of one whose commit was begun and may be in force; None if all is known.
    """

    committed: str | None = None
    begun: str | None = None

    def knows(self, sha256: str) -> bool:
        """Return whether a state is, or may be, of this archive."""
        return sha256 in (self.committed, self.begun)


def read_record(archive: Path, url: str) -> Record:
    """Return what an archive knows of a URL; nothing if the file is not there, or damaged."""
    found = _read(archive).get(_address(url), {})
    values = {name: found.get(name) for name in ("committed", "begun")}
    return Record(**{name: value if isinstance(value, str) else None for name, value in values.items()})


def write_record(archive: Path, url: str, *, committed: str | None, begun: str | None = None) -> None:
    """Remember which state of an archive is, or may be, in force at a URL.

    Raises:
        StorageError: it cannot be written.
    """
    places = {**_read(archive), _address(url): {"committed": committed, "begun": begun}}
    text = json.dumps({"format": _FORMAT, "format_version": 1, "places": places}, indent=1) + "\n"
    write_file(archive / RECORD, [text.encode("ascii")])


def _read(archive: Path) -> dict[str, dict[str, Any]]:
    try:
        data = json.loads(read_regular(archive / RECORD, _MAX_BYTES))
    except (OSError, ValueError):
        return {}
    places = data.get("places") if isinstance(data, dict) and data.get("format") == _FORMAT else None
    return {str(url): facts for url, facts in places.items() if isinstance(facts, dict)} if places else {}


def _address(url: str) -> str:
    return without_secrets(url).rstrip("/")
