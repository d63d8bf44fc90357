"""Photos of an archive by a list or a prefix, and the sequences that they lie in."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import counted, photo_name, printable
from ctxdeploy.pairs.config import Photos

# Unknown names that an error shows.
_SHOWN = 3
_DIGITS = re.compile(r"([0-9]+)")


def selected(flag: str, photos: Photos | None, names: Sequence[str], numbers: Mapping[str, int]) -> NDArray[np.bool_]:
    """Return which of an archive's photos are meant.

    Args:
        flag: for errors.
        photos: see ``Photos``; all if None.
        names: of the archive's photos.
        numbers: their places in ``names``.

    Raises:
        ConfigError: a file that cannot be read, a name that is not in the archive, or no photo at all.
    """
    if photos is None:
        return np.ones(len(names), np.bool_)
    chosen = np.zeros(len(names), np.bool_)
    if isinstance(photos, str) and photos.endswith(("/", "*")):
        prefix = photo_name(photos.removesuffix("*"))
        chosen[[number for number, name in enumerate(names) if name.startswith(prefix)]] = True
        if not chosen.any():
            raise ConfigError(f"{flag} {printable(photos)}: no photo of the archive begins so; see  ctxdeploy names")
        return chosen
    wanted = _listed(flag, photos, numbers) if isinstance(photos, str) else list(photos)
    unknown = [name for name in wanted if name not in numbers]
    if unknown:
        shown = ", ".join(printable(str(name)) for name in unknown[:_SHOWN]) + (", …" if len(unknown) > _SHOWN else "")
        raise ConfigError(
            f"{flag}: {counted(len(unknown), 'name')} of {len(wanted):,} not in the archive: {shown} "
            "(names are as  ctxdeploy names  prints them)"
        )
    if not wanted:
        raise ConfigError(f"{flag}: the list is empty: give at least one photo")
    chosen[[numbers[name] for name in wanted]] = True
    return chosen


def _listed(flag: str, file: str, numbers: Mapping[str, int]) -> list[str]:
    try:
        content = read_regular(Path(file))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{flag} {printable(file)} cannot be read: {reason}; give a file of names, one a line, or what the names "
            "begin with, such as day1/ or night*"
        ) from error
    lines = [line.decode("utf-8", "surrogateescape") for line in content.split(b"\n") if line.strip()]
    return [line if line in numbers else line.removesuffix("\r") for line in lines]


class Sequences:
    """Which photos follow each other: those of one folder, in natural order of their names (2 before 10).

    Args:
        names: of all photos.
    """

    def __init__(self, names: Sequence[str]) -> None:
        keys = [_natural(name) for name in names]
        order = sorted(range(len(names)), key=keys.__getitem__)
        self._folders, self._places = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
        folder = -1
        for place, number in enumerate(order):
            if place == 0 or keys[number][0] != keys[order[place - 1]][0]:
                folder += 1
            self._folders[number], self._places[number] = folder, place

    def near(self, first: NDArray[np.int32], second: NDArray[np.int32], frames: int) -> NDArray[np.bool_]:
        """Return for P pairs of photos, by number, whether they are of one sequence and nearer than ``frames``."""
        together: NDArray[np.bool_] = self._folders[first] == self._folders[second]
        together &= np.abs(self._places[first] - self._places[second]) < frames
        return together


def _natural(name: str) -> tuple[str, list[tuple[int, str]], str]:
    """Return folder, and what orders the photos of it: numbers by their value, of any length."""
    folder, _, base = name.rpartition("/")
    parts = [
        (len(part.lstrip("0")), part.lstrip("0")) if number % 2 else (0, part)
        for number, part in enumerate(_DIGITS.split(base))
    ]
    return folder, parts, name
