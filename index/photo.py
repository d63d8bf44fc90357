"""A photo as it is given to an archive."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ctxdeploy.errors import ConfigError
from ctxdeploy.index.names import encode_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """A photo to add.

    Attributes:
        name: any text.
        vectors: n×D descriptors, or anything with an attribute ``vectors``; n = 0 is indexed and never found.
        positions: n×2, x and y, only for archives that keep geometry; by default the attribute of ``vectors``.
        scales: n, as ``positions``; 1 if there are none.
        size, mtime_ns: of the photo's file, for ``known``; -1 if unknown.
    """

    name: str
    vectors: Any
    positions: Any = None
    scales: Any = None
    size: int = -1
    mtime_ns: int = -1


def as_photo(item: Photo | tuple[str, Any]) -> Photo:
    """Return a photo, of a pair of name and vectors too."""
    if isinstance(item, Photo):
        return item
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ConfigError(f"{item!r} is neither a Photo nor a pair of name and vectors"[:300])
    return Photo(name=item[0], vectors=item[1])


def check_file(name: str, size: int, mtime_ns: int) -> None:
    """Raise ``ConfigError`` unless an archive can hold the name, and size and time of change of the file."""
    encode_name(name)
    for value in (size, mtime_ns):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not -1 <= value < 1 << 63:
            raise ConfigError(f"size or mtime_ns {value!r} of {name!r} is no whole number, or outside -1..2^63")
