"""Codebooks that the package ``asmk`` pickled, such as those of HOW's evaluation code and of mast3r, read as data."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.plain_pickle import load_plain
from ctxdeploy.core.text import printable
from ctxdeploy.index.codebook.codebook import Codebook

_SIZE = re.compile("([0-9]{1,8})([kM]?)")
_UNITS = {"": 1, "k": 1024, "M": 1024**2}


def open_codebook(path: Path | str) -> Codebook:
    """Return the codebook in a file: one of ``Codebook.save``, or a ``codebook.pkl`` of the package ``asmk``.

    Of a pickle only containers, numbers and numpy arrays are read; a file that asks for anything else is refused, and
    nothing in it is run. It does not say which photos trained it. Above 4096 words nothing is known about the recall of
    its assignment: see ``Codebook.measure_recall``.

    Raises:
        ArchiveError: it cannot be read, is damaged or of another form, or asks for what is not plain data.
    """
    if not is_pickled(Path(path)):
        return Codebook.load(path)
    content = load_plain(Path(path), ArchiveError)
    try:
        return Codebook.from_centroids(_centroids(content))
    except ValueError as error:  # those of Codebook too
        raise ArchiveError(
            f"{printable(str(path))} is not a codebook of the package asmk ({printable(str(error))[:200]}): give a "
            "codebook.pkl that it wrote, or a codebook of  ctxdeploy index"
        ) from error


def is_pickled(path: Path) -> bool:
    """Return whether a file is a pickle by its first bytes; one of ``Codebook.save`` is JSON from the ninth byte on."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:  # loading says why
        return False
    return head[8:] != b"{" and (head[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle"))


def _centroids(content: Any) -> Any:
    """Return W×D floats from what ``asmk`` keeps: ``type``, ``params`` with ``size``, ``state`` with ``centroids``."""
    state = content.get("state") if isinstance(content, dict) else None
    centroids = state.get("centroids") if isinstance(state, dict) else None
    if not isinstance(centroids, np.ndarray) or centroids.ndim != 2 or centroids.dtype.kind != "f":
        raise ValueError("it has no state with an array of centroids")
    params = content.get("params")
    size = params.get("size") if isinstance(params, dict) else None
    if size is not None and _words(size) != len(centroids):
        raise ValueError(f"it holds {len(centroids)} words, and says another number")
    return np.asarray(centroids)


def _words(size: Any) -> float:
    """Return the number of words of a size as ``asmk`` writes it, such as 20000 or "64k"; NaN for anything else."""
    if isinstance(size, int | np.integer):
        return int(size)
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    return math.nan if found is None else int(found[1]) * _UNITS[found[2]]
