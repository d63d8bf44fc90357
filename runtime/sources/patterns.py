"""Patterns of file names: ``shards-{000..127}.tar``, ``*.tar``."""

import os
import re
from glob import glob, has_magic
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable

MAX_NAMES = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)", re.ASCII)


def has_pattern(text: str) -> bool:
    """Return whether a text names more than one file."""
    return has_magic(text) or any("," in part or _RANGE.fullmatch(part) for part in _BRACES.findall(text))


def pattern_folder(pattern: str) -> Path:
    """Return the folder above the first sign of a pattern."""
    return Path(os.path.dirname(re.split(r"[*?\[{]", pattern, maxsplit=1)[0]))  # noqa: PTH120 (Path drops a last slash)


def expand(pattern: str) -> list[str]:
    """Return the files that a pattern names, each once; those of braces alone need not exist.

    ``{000..127}`` counts, up or down, with the zeros of its first number; ``{a,b}`` is either; ``*``, ``?``, ``[…]``
    and ``**`` match what is there.

    Raises:
        ConfigError: it names more than a million files.
    """
    names: dict[str, None] = {}
    for text in _expand_braces(pattern):
        found = sorted(glob(text, recursive=True)) if has_magic(text) else [text]  # noqa: PTH207 (absolute ones too)
        names |= dict.fromkeys(found)
    return list(names)


def _expand_braces(pattern: str) -> list[str]:
    texts = [""]
    for number, part in enumerate(_BRACES.split(pattern)):
        choices = [part] if number % 2 == 0 else _choices(part)
        if len(texts) * len(choices) > MAX_NAMES:
            raise ConfigError(f"{printable(pattern)} names more than {MAX_NAMES:,} files")
        texts = [text + choice for text in texts for choice in choices]
    return texts


def _choices(inside: str) -> list[str]:
    counted = _RANGE.fullmatch(inside)
    if not counted:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = int(counted[1]), int(counted[2])
    step = 1 if first <= last else -1
    width = len(counted[1])
    if abs(last - first) >= MAX_NAMES:
        raise ConfigError(f"{{{inside}}} names more than {MAX_NAMES:,} files")
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]
