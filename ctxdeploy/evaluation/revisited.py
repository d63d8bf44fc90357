"""Revisited Oxford and Paris (Radenović et al., CVPR 2018), in the folders that its authors' scripts make.

roxford5k/gnd_roxford5k.pkl     imlist, qimlist: names without .jpg; gnd: for each query bbx, easy, hard, junk
roxford5k/jpg/*.jpg             photos and queries

Oxford and Paris as they were before have ``ok`` in place of easy and hard, and sets of others no ``bbx``.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import Relevance
from ctxdeploy.core.text import printable, short
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
# Of Oxford and Paris as they were before, and of other sets in their form: one list of right photos, which holds good
# and ok ones, and perhaps one of junk.
OLD_SETUPS = {"ok": (("ok",), ("junk",))}
OLD_RULE = (
    "mean over the queries that have positives; junk is taken out of the ranking; a query's own photo counts as right "
    "where its list names it"
)
# Names stand without .jpg; in sets that others made they may stand with what ends them.
WITH_SUFFIX = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
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
        raise ConfigError(f"{printable(str(place))} must hold one {PATTERN}, it has {printable(names)}")
    try:
        return _data_set(load_plain(paths[0]), place, paths[0].stem.removeprefix("gnd_"))
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{printable(str(paths[0]))} is not a ground truth of Revisited Oxford or Paris, or of a set in their form "
            f"({printable(why)[:300]})"
        ) from error


def _data_set(content: Any, place: Path, name: str) -> DataSet:
    if not isinstance(content, dict):
        raise ValueError(f"it is {_kind(content)}, not a dictionary with imlist, qimlist and gnd")
    photos = [_file(entry) for entry in _sequence(content["imlist"], "imlist")]
    asked = [_file(entry) for entry in _sequence(content["qimlist"], "qimlist")]
    truths = _sequence(content["gnd"], "gnd")
    if len(truths) != len(asked):
        raise ValueError(f"{len(asked)} queries, but ground truth of {len(truths)}")
    seen: dict[str, int] = {}
    queries, lists = [], []
    setups = _setups(truths)
    used = sorted({key for positives, junk in setups.values() for key in (*positives, *junk)})
    for number, (file, truth) in enumerate(zip(asked, truths, strict=True)):
        seen[file] = seen.get(file, 0) + 1
        queries.append(Query(name=file, box=_box(truth.get("bbx"), f"gnd[{number}]"), number=seen[file] - 1))
        lists.append(_lists(truth, used, photos, f"gnd[{number}]"))
    tasks = []
    for setup, (positives, junk) in setups.items():
        relevance = {
            query.key: Relevance(
                positives=tuple(photo for key in positives for photo in named[key]),
                junk=frozenset(photo for key in junk for photo in named[key]),
            )
            for query, named in zip(queries, lists, strict=True)
        }
        tasks.append(Task(name=setup, relevance=relevance))
    return DataSet(
        kind=KIND.name,
        name=name,
        folder=place / "jpg",
        database=tuple(sorted(photos)),
        queries=tuple(queries),
        tasks=tuple(tasks),
        rule=OLD_RULE if setups is OLD_SETUPS else RULE,
    )


def _setups(truths: Sequence[Any]) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return what is right and what is junk in each setup, by the lists that the queries have."""
    for number, truth in enumerate(truths):
        if not isinstance(truth, dict):
            raise ValueError(f"gnd[{number}] is {_kind(truth)}, not a dictionary")
    if truths and all("ok" in truth and not truth.keys() & {"easy", "hard"} for truth in truths):
        return OLD_SETUPS
    return SETUPS


def _lists(truth: Mapping[str, Any], keys: Sequence[str], photos: Sequence[str], where: str) -> dict[str, list[str]]:
    """Return the photos that each list of a query's ground truth names by their numbers, from 0."""
    named: dict[str, list[str]] = {}
    seen: dict[int, str] = {}
    for key in keys:
        if key not in truth and not (key == "junk" and "ok" in truth):
            raise ValueError(f"{where} has no {key!r}; every query has easy, hard and junk, or ok and junk")
        named[key] = []
        for number in _sequence(truth.get(key, ()), f"{key} of {where}"):
            place = _place(number, len(photos), f"{key} of {where}")
            if place in seen:
                both = f"in {seen[place]} and in {key}" if seen[place] != key else f"twice in {key}"
                raise ValueError(f"{where} names photo {place} {both}")
            seen[place] = key
            named[key].append(photos[place])
    return named


def _place(number: Any, count: int, where: str) -> int:
    if not isinstance(number, int | float | np.integer | np.floating) or isinstance(number, bool):
        raise ValueError(f"{where} holds {_kind(number)}, not the number of a photo")
    if not math.isfinite(number) or int(number) != number or not 0 <= number < count:
        raise ValueError(f"{where} names photo {float(number):.15g} of {count}")
    return int(number)


def _sequence(value: Any, what: str) -> Sequence[Any]:
    """Return a list, a tuple, or an array of one dimension."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return list(value)
    raise ValueError(f"{what} is {_kind(value)}, not a list")


def _kind(value: Any) -> str:
    """Return what a value is, in words: its text may be endless."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.ndim} dimensions"
    words = {type(None): "None", str: "text", bytes: "bytes", int: "a number", float: "a number", bool: "true or false"}
    return words.get(type(value), f"a {type(value).__name__}")


def _file(entry: Any) -> str:
    name = str(entry) if isinstance(entry, str) else ""
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
        what = short(name) if isinstance(entry, str) else _kind(entry)
        raise ValueError(f"{what} is not the name of a photo")
    return name if name.lower().endswith(WITH_SUFFIX) else f"{name}.jpg"


def _box(edges: Any, where: str) -> "Box | None":
    """Return the box of a query; None, the whole photo, where the ground truth gives none."""
    from ctxdeploy.runtime import Box

    if edges is None:
        return None
    numbers = [_edge(edge, where) for edge in _sequence(edges, f"bbx of {where}")]
    if len(numbers) != 4:
        raise ValueError(f"bbx of {where} has {len(numbers)} numbers, not four")
    x0, y0, x1, y1 = numbers
    try:
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)
    except ConfigError as error:
        raise ValueError(f"bbx of {where}: {error}") from error


def _edge(edge: Any, where: str) -> float:
    if not isinstance(edge, int | float | np.integer | np.floating) or isinstance(edge, bool):
        raise ValueError(f"bbx of {where} holds {_kind(edge)}, not a number")
    return float(edge)


def _fits(place: Path) -> bool:
    return any(place.glob(PATTERN))


KIND = Kind(name="revisited", what=f"a folder with {PATTERN} and jpg/ (Revisited Oxford, Paris)", fits=_fits, read=read)
