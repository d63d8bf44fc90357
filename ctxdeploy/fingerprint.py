"""Which photos trained a codebook, in a kilobyte: later it can be told whether they are those of a benchmark."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.runtime import PhotoSource

# If all photos of a benchmark were trained on, its smallest marks are found with certainty; if a share of the training
# photos is the benchmark's, it is missed with a chance of (1 - share)^64: one in 27 for a twentieth.
KEPT = 64
_HEAD = 1 << 16


def fingerprint(photos: Iterable["PhotoSource"]) -> dict[str, Any]:
    """Return the number of different photos and the smallest ``KEPT`` of their marks, for a codebook's ``training``."""
    marks = marks_of(photos)
    return {"count": len(marks), "least_marks": sorted(marks)[:KEPT]}


def marks_of(photos: Iterable["PhotoSource"]) -> set[str]:
    """Return 16 hex digits for each photo: of a file its size and first 64 KiB, else (tar, server) name and size."""
    return {_mark(photo) for photo in photos}


def share_in(trained: Any, marks: set[str]) -> float | None:
    """Return which share of a codebook's training photos is among those with ``marks``, 0 to 1, as 64 of them tell.

    Args:
        trained: what ``fingerprint`` returned; anything else has no photos that are known: None is returned.
        marks: of a data set.
    """
    least = trained.get("least_marks") if isinstance(trained, dict) else None
    if not isinstance(least, list) or not least:
        return None
    return sum(isinstance(mark, str) and mark in marks for mark in least) / len(least)


def _mark(photo: "PhotoSource") -> str:
    state = photo.state()
    size = -1 if state is None else state.size
    content = None if photo.path is None else _head(photo.path)
    if content is None:
        content = os.fsencode(PurePosixPath(photo.name).name)
    return hashlib.sha256(b"%d\0%b" % (size, content)).hexdigest()[:16]


def _head(path: Path) -> bytes | None:
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError):  # extraction says why it cannot be read
        return None
