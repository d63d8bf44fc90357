"""INRIA Holidays (Jégou et al., ECCV 2008), and what is named like it: the file names are the ground truth.

A name is a number. Photos whose numbers agree but for the last two digits form a group; the one that ends with 00 is
its query, the others are its answers.
"""

import re
from pathlib import Path, PurePosixPath

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.scoring import Relevance
from ctxdeploy.core.text import printable
from ctxdeploy.evaluation.dataset import DataSet, Kind, Query, Task

GROUP = 100
RULE = "mean over the queries, the photos whose numbers end with 00; the query itself is taken out of the ranking"
_NUMBER = re.compile("[0-9]{3,18}", re.ASCII)


def read(place: Path) -> DataSet:
    """Read a folder; its photos may lie below (``jpg/``).

    Raises:
        ConfigError: a photo's name is not a number, or no query has an answer.
        NoPhotosError: there are none.
    """
    from ctxdeploy.runtime import find_photos

    names = [photo.name for photo in find_photos(place)]
    groups: dict[int, list[str]] = {}
    queries: dict[int, str] = {}
    for name in names:
        number = _number(name)
        if number is None:
            raise ConfigError(f"{printable(str(place / name))} is not named by a number, as the photos of Holidays are")
        groups.setdefault(number // GROUP, []).append(name)
        if number % GROUP == 0:
            former = queries.setdefault(number // GROUP, name)
            if former != name:
                raise ConfigError(f"{place}: {printable(former)} and {printable(name)} have the same number")
    relevance = {
        query: Relevance(positives=tuple(n for n in groups[group] if n != query), junk=frozenset({query}))
        for group, query in sorted(queries.items())
    }
    if not any(relevant.positives for relevant in relevance.values()):
        raise ConfigError(f"{place} has no photo whose number ends with 00 and another of its group")
    return DataSet(
        kind=KIND.name,
        name=place.resolve().name,
        folder=place,
        database=tuple(names),
        queries=tuple(Query(name=name) for name in relevance),
        tasks=(Task(name="all", relevance=relevance),),
        rule=RULE,
    )


def _number(name: str) -> int | None:
    stem = PurePosixPath(name).stem
    return int(stem) if _NUMBER.fullmatch(stem) else None


def _fits(place: Path) -> bool:
    from ctxdeploy.runtime import find_photos

    try:
        numbers = [_number(photo.name) for photo in find_photos(place)]
    except (NoPhotosError, ConfigError):
        return False
    return None not in numbers and any(number is not None and number % GROUP == 0 for number in numbers)


KIND = Kind(name="holidays", what="photos named as in INRIA Holidays, 100000.jpg, 100001.jpg …", fits=_fits, read=read)
