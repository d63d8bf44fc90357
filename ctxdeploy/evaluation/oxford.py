"""Oxford and Paris as their authors published them first (Philbin et al., CVPR 2007 and 2008): lists in text files.

all_souls_1_query.txt           a photo without its suffix (in Oxford's behind oxc1_) and the edges of its box
all_souls_1_good.txt, …_ok.txt  photos that show the same, a name a line
all_souls_1_junk.txt            photos that show less than a quarter of it

Photos and lists may lie at any depth of the folder.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.scoring import Relevance
from ctxdeploy.core.text import printable, short
from ctxdeploy.evaluation.dataset import DataSet, Kind, Query, Task

if TYPE_CHECKING:
    from ctxdeploy.runtime import Box

QUERY = "_query.txt"
RIGHT, JUNK = ("good", "ok"), "junk"
PREFIX = "oxc1_"
RULE = (
    "mean over the queries that have positives; junk is taken out of the ranking; a query's own photo counts as right "
    "where its lists name it"
)
_MAX_BYTES = 16 << 20


def read(place: Path) -> DataSet:
    """Read a folder with ``*_query.txt``, ``*_good.txt``, ``*_ok.txt`` and ``*_junk.txt``, and photos.

    Raises:
        ConfigError: a list is missing, of another form, or names a photo that is not there, or one twice.
        NoPhotosError: there are no photos.
    """
    from ctxdeploy.runtime import find_photos

    photos = tuple(photo.name for photo in find_photos(place))
    by_stem: dict[str, list[str]] = {}
    for photo in photos:
        by_stem.setdefault(PurePosixPath(photo).stem, []).append(photo)
    queries, relevance, seen = [], {}, dict[str, int]()
    for path in sorted(_query_files(place)):
        name, box = _query(path, by_stem)
        query = Query(name=name, box=box, number=seen.get(name, 0))
        seen[name] = query.number + 1
        queries.append(query)
        lists = {kind: _listed(path, kind, by_stem) for kind in (*RIGHT, JUNK)}
        relevance[query.key] = Relevance(
            positives=tuple(photo for kind in RIGHT for photo in lists[kind]), junk=frozenset(lists[JUNK])
        )
    return DataSet(
        kind=KIND.name,
        name=place.resolve().name,
        folder=place,
        database=tuple(sorted(photos)),
        queries=tuple(queries),
        tasks=(Task(name="ok", relevance=relevance),),
        rule=RULE,
    )


def _query_files(place: Path) -> Iterator[Path]:
    for below in ("*", "*/*"):
        yield from place.glob(f"{below}{QUERY}")


def _query(path: Path, by_stem: Mapping[str, list[str]]) -> tuple[str, "Box"]:
    from ctxdeploy.runtime import Box

    lines = _lines(path)
    words = lines[0].split() if len(lines) == 1 else []
    try:
        x0, y0, x1, y1 = map(float, words[1:])
        return _photo(words[0], by_stem, path), Box(x0=x0, y0=y0, x1=x1, y1=y1)
    except (ValueError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise ConfigError(f"{printable(str(path))}: {error}") from error
        raise ConfigError(f"{printable(str(path))} must be one line: a photo, and four edges of its box") from error


def _listed(query: Path, kind: str, by_stem: Mapping[str, list[str]]) -> list[str]:
    path = query.with_name(f"{query.name.removesuffix(QUERY)}_{kind}.txt")
    return [_photo(line, by_stem, path) for line in _lines(path)]


def _photo(name: str, by_stem: Mapping[str, list[str]], path: Path) -> str:
    found = by_stem.get(name) or by_stem.get(name.removeprefix(PREFIX)) or []
    if len(found) != 1:
        why = f"is the name of {len(found)} photos" if found else "is not among the photos: complete the data set"
        raise ConfigError(f"{printable(str(path))}: {short(name)} {why}")
    return found[0]


def _lines(path: Path) -> list[str]:
    """Return the lines of a list that hold something."""
    try:
        lines = read_regular(path, _MAX_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{printable(str(path))} cannot be read: {printable(why)}") from error
    return [line.strip() for line in lines if line.strip()]


def _fits(place: Path) -> bool:
    return any(_query_files(place))


KIND = Kind(name="oxford", what="photos and *_query.txt, *_good.txt, *_ok.txt, *_junk.txt", fits=_fits, read=read)
