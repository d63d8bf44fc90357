"""Which folders of this machine stand for a URL: light, since every archive that is opened is asked."""

import json
import os
from pathlib import Path
from typing import Any

from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.urls import is_url, url_of, without_secrets

PLACE = "place.json"
FORMAT = "ctxdeploy-mirror"
_MAX_PLACE = 1 << 16


def given_url(path: str | os.PathLike[str]) -> str | None:
    """Return the URL that a path is, or was meant to be; None for a path of this machine."""
    text = os.fspath(path)
    return text if is_url(text) else url_of(text)


def mirrored_url(folder: Path) -> str | None:
    """Return the URL whose archive is read in a folder; None if it is an archive of this machine."""
    place = read_place(folder)
    return None if place is None else str(place["url"])


def shown_place(path: Path) -> str:
    """Return what people call an archive: its URL, without secrets, where it is on object storage; else its path."""
    url = given_url(path) or mirrored_url(path)
    return str(path) if url is None else without_secrets(url)


def read_place(folder: Path) -> dict[str, Any] | None:
    """Return what stands beside a folder that stands for a URL: ``url``, and ``bytes`` of the cache; None else."""
    try:
        place = json.loads(read_regular(folder.with_name(PLACE), _MAX_PLACE))
    except (OSError, ValueError):
        return None
    if not isinstance(place, dict) or place.get("format") != FORMAT:
        return None
    return place if isinstance(place.get("url"), str) and isinstance(place.get("bytes"), int) else None
