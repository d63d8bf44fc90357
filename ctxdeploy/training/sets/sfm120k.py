"""SfM-120k as cirtorch stores it, which HOW and FIRe were trained on.

    train/retrieval-SfM-120k/retrieval-SfM-120k.pkl     {"train": {...}, "val": {...}}
    train/retrieval-SfM-120k/ims/<cid[-2:]>/<cid[-4:-2]>/<cid[-6:-4]>/<cid>

Each half of the pickle has ``cids``, the names of n photos; ``cluster``, n numbers of the 3-D models that they are in;
``qidxs`` and ``pidxs``, P numbers of photos: queries and their positives. Other keys, boxes too, are left out.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.plain_pickle import load_plain
from ctxdeploy.core.text import printable
from ctxdeploy.training.sets.photo_set import PhotoSet, check_files

NAME = "retrieval-SfM-120k"
SPLITS = ("train", "val")
_KEYS = ("cids", "cluster", "qidxs", "pidxs")
# Up to here a float holds every whole number.
_MOST_NUMBER = 1 << 53
# Three folders of two letters each are made of the end of a photo's name.
_MIN_NAME = 6


def read_sfm120k(place: Path, split: str = "train") -> PhotoSet:
    """Return one half of SfM-120k; the cluster of a photo is its class.

    Args:
        place: the folder with ``retrieval-SfM-120k.pkl`` and ``ims``, or one that holds it as ``retrieval-SfM-120k`` or
            ``train/retrieval-SfM-120k``; or the pickle, under any name, beside ``ims``.
        split: ``train`` or ``val``.

    Raises:
        ConfigError: there is no such file, it is not of that form or not plain data, or photos are missing.
    """
    if split not in SPLITS:
        raise ConfigError(f"SfM-120k has no half {split!r}: it is one of {', '.join(SPLITS)}")
    file = _find(place)
    shown = f"{printable(str(file))}, {split}"
    half = _half(load_plain(file), split, printable(str(file)))
    cids = _cids(half["cids"], shown)
    cluster = _numbers(half["cluster"], f"{shown}: cluster", len(cids))
    pairs = _pairs(half, shown, len(cids))
    folder = file.parent.absolute() / "ims"
    if not folder.is_dir():
        raise ConfigError(f"{printable(str(folder))} is not a folder: unpack the photos of SfM-120k (ims.tar.gz) there")
    paths = tuple(folder / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid for cid in cids)
    check_files(paths, shown, "unpack all of ims.tar.gz")
    return PhotoSet(name=f"{file.stem} {split}", paths=paths, classes=np.maximum(cluster, -1), pairs=pairs)


def _find(place: Path) -> Path:
    """Return the pickle of a place."""
    if not place.is_dir():
        if place.is_file():
            return place
        raise ConfigError(f"{printable(str(place))}: there is no such place")
    tried = [place / below / f"{NAME}.pkl" for below in (".", NAME, f"train/{NAME}")]
    for file in tried:
        if file.is_file():
            return file
    raise ConfigError(f"{printable(str(place))} holds no {NAME}.pkl, neither itself nor as {NAME} or train/{NAME}")


def _half(content: Any, split: str, shown: str) -> dict[str, Any]:
    half = content.get(split) if isinstance(content, dict) else None
    if not isinstance(half, dict):
        raise ConfigError(f"{shown} has no part {split!r}: it is not SfM-120k in cirtorch's form")
    missing = [key for key in _KEYS if key not in half]
    if missing:
        raise ConfigError(
            f"{shown}, {split}: there is no {' and no '.join(missing)}, as SfM-120k in cirtorch's form has"
        )
    for key in _KEYS:
        if not isinstance(half[key], list | tuple | np.ndarray) or getattr(half[key], "ndim", 1) != 1:
            raise ConfigError(f"{shown}, {split}: {key} is not a list")
    return half


def _cids(values: Any, shown: str) -> list[str]:
    """Return the names of the photos, none of which leads out of their folder."""
    cids = [os.fsdecode(value) if isinstance(value, str | bytes) else "" for value in values]
    for number, cid in enumerate(cids):
        if len(cid) < _MIN_NAME or not set(cid).isdisjoint("/\\\0") or ".." in cid:
            raise ConfigError(
                f"{shown}: cids[{number}], {printable(repr(values[number]))[:60]}, is not the name of a photo"
            )
    return cids


def _pairs(half: dict[str, Any], shown: str, photos: int) -> NDArray[np.int64]:
    """Return queries and positives, P×2."""
    queries, positives = len(half["qidxs"]), len(half["pidxs"])
    if queries != positives:
        raise ConfigError(f"{shown}: {queries} qidxs for {positives} pidxs")
    columns = []
    for key in ("qidxs", "pidxs"):
        numbers = _numbers(half[key], f"{shown}: {key}", queries)
        outside = np.flatnonzero((numbers < 0) | (numbers >= photos))
        if len(outside):
            raise ConfigError(f"{shown}: {key}[{outside[0]}] is {numbers[outside[0]]}, of {photos} photos")
        columns.append(numbers)
    return np.stack(columns, axis=1)


def _numbers(values: Any, what: str, count: int) -> NDArray[np.int64]:
    """Return ``count`` whole numbers; MATLAB's come as floats."""
    array = np.empty(count, object)
    # Numbers alone: a list of lists that hold each other twice would become an array without end.
    if isinstance(values, np.ndarray) or all(isinstance(value, int | float | np.number) for value in values):
        with suppress(OverflowError):
            array = np.asarray(values if len(values) else np.empty(0, np.int64))
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and bool((array == np.rint(array)).all()))
    if array.shape != (count,) or not whole or (count and abs(array).max() > _MOST_NUMBER):
        raise ConfigError(f"{what} is not a list of {count} whole numbers")
    return array.astype(np.int64)
