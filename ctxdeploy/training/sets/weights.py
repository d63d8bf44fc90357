"""How often each landmark is drawn: a CSV with a line ``name,factor`` a landmark; 0 leaves its photos out."""

import csv
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.training.sets.photo_set import PhotoSet


def read_weights(path: Path) -> dict[str, float]:
    """Return the factor of each landmark that a file names.

    Raises:
        ConfigError: it cannot be read, or a line is not a name and a factor of 0 or more.
    """
    shown = printable(str(path))
    weights: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{shown} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line:
            factor = _factor(line)
            if factor is None:
                raise ConfigError(
                    f"{shown}, line {number}: {','.join(line)!r} is not a landmark and a factor, as red,0.4"
                )
            if line[0] in weights:
                raise ConfigError(f"{shown}, line {number}: {line[0]!r} is there twice")
            weights[line[0]] = factor
    return weights


def _factor(line: list[str]) -> float | None:
    try:
        name, text = line
        factor = float(text)
    except ValueError:
        return None
    return factor if name and math.isfinite(factor) and factor >= 0 else None


def weighted(photo_set: PhotoSet, weights: Mapping[str, float]) -> PhotoSet:
    """Return a set with the factors of its landmarks, without the photos of those whose factor is 0.

    A landmark bears the name of the folder that its photos lie in, the innermost one that is named.

    Raises:
        ConfigError: a name is that of no landmark, the set names its pairs itself, or nothing is left.
    """
    if photo_set.pairs is not None:
        raise ConfigError(f"{photo_set.name} names its pairs: its landmarks take no weights")
    names = [_landmark(path, weights) for path in photo_set.paths]
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise ConfigError(f"weights: {unknown[0]!r} is not the folder of a landmark in {photo_set.name}")
    factors = np.array([1.0 if name is None else weights[name] for name in names])
    kept = np.flatnonzero(factors > 0)
    if not len(kept):
        raise ConfigError(f"weights: every landmark of {photo_set.name} has the factor 0")
    return replace(
        photo_set,
        paths=tuple(photo_set.paths[i] for i in kept),
        classes=photo_set.classes[kept],
        factors=factors[kept],
    )


def _landmark(path: Path, weights: Mapping[str, float]) -> str | None:
    return next((folder.name for folder in path.parents if folder.name in weights), None)
