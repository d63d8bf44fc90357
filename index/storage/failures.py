"""Photos that could not be read: ``failures-000007.jsonl``, one JSON object a line, as of one manifest."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.index.storage.format import unreadable
from ctxdeploy.index.storage.manifest import FileEntry, store

_TEXTS = ("name", "reason", "stage")
# Kept where they are given: seconds spent on the photo; size in bytes and time of change of its file.
_NUMBERS = {"seconds": (int, float), "size": (int,), "mtime_ns": (int,)}
Failures = dict[str, dict[str, Any]]


def normalised(records: Iterable[Mapping[str, Any]]) -> Failures:
    """Return records by name.

    Raises:
        ConfigError: name or reason (stage may be missing) is not a text, or seconds, size or mtime_ns is not a number.
    """
    result: Failures = {}
    for record in records:
        facts = {field: record.get(field, "" if field == "stage" else None) for field in _TEXTS}
        if not all(isinstance(value, str) for value in facts.values()):
            raise ConfigError(f"a failed photo needs texts for name, reason and stage, not {dict(record)!r}"[:300])
        for field, types in _NUMBERS.items():
            if field in record:
                facts[field] = record[field]
                if type(facts[field]) not in types or not math.isfinite(facts[field]):
                    raise ConfigError(f"{field} of a failed photo is not a number: {dict(record)!r}"[:300])
        result[facts["name"]] = facts
    return result


def write_failures(folder: Path, number: int, failures: Failures, through: Path | None = None) -> FileEntry | None:
    """Write the file of a manifest, durably, as ``store``; None and no file if there is no failure."""
    if not failures:
        return None
    text = "".join(json.dumps(facts) + "\n" for facts in failures.values()).encode()
    return store(folder, f"failures-{number:06d}.jsonl", [text], through)


def read_failures(folder: Path, entry: FileEntry | None) -> Failures:
    """Return the failures by name.

    Raises:
        ArchiveError: the file is missing or damaged.
    """
    if entry is None:
        return {}
    path = folder / entry.file
    try:
        text = read_regular(path, 2 << 30)
    except OSError as error:
        raise unreadable(path, error) from error
    if hashlib.sha256(text).hexdigest() != entry.sha256:
        raise ArchiveError(f"{path} is damaged: its sha256 is not that of the manifest")
    try:
        return normalised(json.loads(line) for line in text.decode("ascii").splitlines())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{path} is not a list of failures: {error}") from error
