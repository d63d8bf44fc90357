"""Groups of photos that are one photo several times: recompressed, resized a little, cut at an edge."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.text import name_bytes
from ctxdeploy.pairs.bridges import by_name, parts_of

if TYPE_CHECKING:
    from ctxdeploy.index import Index

# Others that each photo is compared with: those that score best.
_TOP = 64


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """What counts as the same photo.

    Attributes:
        min_score: of two photos, in the search for one with the other's archived codes; a photo has 1 with itself. See
            docs/pairs.md for what planted duplicates and neighbouring frames have.
    """

    min_score: float = setting(0.15, "--min-score", "Photos that score this or more are the same.")

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 < self.min_score <= 1:
            raise ConfigError(f"--min-score {self.min_score:g} is not above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A photo of a group.

    Attributes:
        name: of the photo.
        score: its highest with another photo of the group.
        size: bytes of its file; None if they are not known.
    """

    name: str
    score: float
    size: int | None


def find_duplicates(index: "Index", config: DuplicatesConfig, display: Display) -> list[list[Duplicate]]:
    """Return groups of at least two photos, in order of their first names.

    Two photos are of one group if one can get from one to the other by pairs that score at least ``min_score``; each
    photo is compared with the 64 that score best. The first of a group is the one to keep: the largest file, of equal
    ones the first by name; the others stand by falling score.

    Args:
        index: the archive.
        config: what counts as the same.
        display: where progress goes.

    Raises:
        ArchiveError: the archive is closed.
    """
    names, numbers = by_name(index)
    first, second, best = list[int](), list[int](), defaultdict[int, float](float)
    with display.progress("duplicates", len(names)) as progress:
        for name, hits in index.search_all(_TOP):
            photo = numbers[name]
            for hit in hits:
                if hit.score < config.min_score:
                    break
                other = numbers[hit.name]
                first.append(photo)
                second.append(other)
                best[photo], best[other] = max(best[photo], hit.score), max(best[other], hit.score)
            progress.advance()
    part = parts_of(len(names), np.array(first, np.int32), np.array(second, np.int32))
    groups = defaultdict[int, list[int]](list)
    for photo in sorted(best):
        groups[int(part[photo])].append(photo)
    files = index.known() if groups else {}
    found = []
    for photos in groups.values():
        states = [files.get(names[photo]) for photo in photos]
        group = [
            Duplicate(name=names[photo], score=best[photo], size=None if state is None else state.size)
            for photo, state in zip(photos, states, strict=True)
        ]
        kept = min(group, key=lambda one: (-(one.size or 0), name_bytes(one.name)))
        rest = sorted((one for one in group if one is not kept), key=lambda one: (-one.score, name_bytes(one.name)))
        found.append([kept, *rest])
    return found
