"""Revisited Oxford and Paris (Radenović et al., CVPR 2018), in the folders that its authors' scripts make.

roxford5k/gnd_roxford5k.pkl     imlist, qimlist: names without .jpg; gnd: for each query bbx, easy, hard, junk
roxford5k/jpg/*.jpg             photos and queries
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import Relevance
from ctxdeploy.evaluation.dataset import DataSet, Kind, Query, Task

if TYPE_CHECKING:
    from ctxdeploy.runtime import Box

PATTERN = "gnd_*.pkl"
# What is right and what is junk in each setup; the other lists are wrong. The worst queries are those of the first.
SETUPS = {
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
    "easy": (("easy",), ("junk", "hard")),
}
RULE = (
    "mean over the queries that have positives; junk is taken out of the ranking; query photos are not in the database"
)


def read(place: Path) -> DataSet:
    """Read a folder with ``gnd_*.pkl`` and ``jpg/``.

    Raises:
        ConfigError: several ground truths or none, or one that is not of this form, or that would run code.
    """
    from ctxdeploy.core.plain_pickle import load_plain

    paths = sorted(place.glob(PATTERN))
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise ConfigError(f"{place} must hold one {PATTERN}, it has {names}")
    try:
        return _data_set(load_plain(paths[0]), place, paths[0].stem.removeprefix("gnd_"))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{paths[0]} is not a ground truth of Revisited Oxford or Paris ({error!r})") from error


def _data_set(content: Any, place: Path, name: str) -> DataSet:
    photos = [_file(entry) for entry in content["imlist"]]
    asked = [_file(entry) for entry in content["qimlist"]]
    truths = list(content["gnd"])
    if len(truths) != len(asked):
        raise ValueError(f"{len(asked)} queries, but ground truth of {len(truths)}")
    seen: dict[str, int] = {}
    queries = []
    for file, truth in zip(asked, truths, strict=True):
        seen[file] = seen.get(file, 0) + 1
        queries.append(Query(name=file, box=_box(truth["bbx"]), number=seen[file] - 1))
    tasks = []
    for setup, (positives, junk) in SETUPS.items():
        relevance = {
            query.key: Relevance(
                positives=tuple(_names(truth, positives, photos)), junk=frozenset(_names(truth, junk, photos))
            )
            for query, truth in zip(queries, truths, strict=True)
        }
        tasks.append(Task(name=setup, relevance=relevance))
    return DataSet(
        kind=KIND.name,
        name=name,
        folder=place / "jpg",
        database=tuple(sorted(photos)),
        queries=tuple(queries),
        tasks=tuple(tasks),
        rule=RULE,
    )


def _names(truth: Mapping[str, Any], lists: Sequence[str], photos: Sequence[str]) -> list[str]:
    """Return the photos that some lists of a query's ground truth name by their numbers, from 0."""
    names = []
    for key in lists:
        for number in truth[key]:
            place = int(number)
            if place != number or not 0 <= place < len(photos):
                raise ValueError(f"{key} names photo {number!r} of {len(photos)}")
            names.append(photos[place])
    return names


def _file(entry: Any) -> str:
    name = str(entry) if isinstance(entry, str) else ""
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a photo")
    return f"{name}.jpg"


def _box(edges: Any) -> "Box":
    from ctxdeploy.runtime import Box

    x0, y0, x1, y1 = (float(edge) for edge in edges)
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


def _fits(place: Path) -> bool:
    return any(place.glob(PATTERN))


KIND = Kind(name="revisited", what=f"a folder with {PATTERN} and jpg/ (Revisited Oxford, Paris)", fits=_fits, read=read)
