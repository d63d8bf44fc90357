"""Which kind of place an argument means; a new kind is a module beside this one and a line in ``list_photos``."""

from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import is_url, is_web, without_secrets
from ctxdeploy.runtime.config import RemoteConfig
from ctxdeploy.runtime.sources.base import PhotoList
from ctxdeploy.runtime.sources.folder import list_folder
from ctxdeploy.runtime.sources.lists import READERS, list_file, list_remote_file
from ctxdeploy.runtime.sources.packed import has_pattern
from ctxdeploy.runtime.sources.remote import list_remote
from ctxdeploy.runtime.sources.selection import ALL, Selection
from ctxdeploy.runtime.sources.tar import COMPRESSED, list_tars
from ctxdeploy.runtime.sources.zip import list_zips

LISTS = tuple(READERS)


def list_photos(
    place: str, *, recursive: bool = True, remote: RemoteConfig | None = None, selection: Selection | None = None
) -> PhotoList:
    """List the photos of a place; ``docs/places.md`` says what each kind means.

    Args:
        place: a folder; a list (``.txt``, ``.lst``, ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``); a ``.tar``, a
            ``.zip``, or a pattern that names some; or the URL of a folder or a list.
        recursive: look into the folders below.
        remote: how servers are asked.
        selection: which photos are taken; all that are not hidden or of a system if None.

    Raises:
        ConfigError: there is no such place, or it cannot be listed.
        NoPhotosError: it holds no photos.
        MissingExtraError: what reads its URL is not installed.
    """
    config, selection, ending = remote or RemoteConfig(), selection or ALL, place.lower()
    try:
        if is_url(place):
            return _list_url(place, recursive, config, selection)
        if Path(place).is_dir():
            return list_folder(Path(place), recursive=recursive, selection=selection)
        if ending.endswith(LISTS):
            return list_file(place, config, selection)
        if ending.endswith(".tar"):
            return list_tars(place, selection)
        if ending.endswith(".zip"):
            return list_zips(place, selection)
        raise ConfigError(_why_not(place))
    except OSError as error:  # a folder above that may not be entered, a name that is too long
        raise ConfigError(f"{printable(place)} cannot be read ({error.strerror or error})") from error


def is_place(text: str) -> bool:
    """Return whether a text looks like a place of photos; everything else is the path of a photo."""
    try:
        if is_url(text) or Path(text).is_dir():
            return True
    except (OSError, ValueError):  # too long for a path, a zero byte: who reads it says so
        return False
    return text.lower().endswith((*LISTS, ".tar", ".zip", *COMPRESSED))


def _list_url(url: str, recursive: bool, config: RemoteConfig, selection: Selection) -> PhotoList:
    path = (url.partition("#")[0].partition("?")[0] if is_web(url) else url).lower()
    if path.endswith(LISTS):
        return list_remote_file(url, config, selection)
    if path.endswith((".tar", ".zip", *COMPRESSED)):
        shown = printable(without_secrets(url))
        raise ConfigError(f"{shown}: tar and zip files are not read from servers: copy it here")
    return list_remote(url, recursive=recursive, config=config, selection=selection)


def _why_not(place: str) -> str:
    """Return why an argument is not a place of photos, and what to give."""
    if place.lower().endswith(COMPRESSED):
        return (
            f"{printable(place)} is compressed, so that no photo in it can be found without unpacking all "
            "before it: decompress it to a plain .tar, which is hardly larger, for photos are compressed"
        )
    path = Path(place)
    if has_pattern(place) and not path.exists():
        return f"{printable(place)}: only patterns that end with .tar or .zip are taken; put them in quotes"
    shown = printable(without_secrets(place) if "://" in place else place)  # a chain of fsspec: a::http://user:…
    return (
        f"{shown} is not a folder{'' if path.exists() else ', there is no such place'}: give a folder with "
        f"photos, a list ({' '.join(LISTS)}), a .tar, a .zip, or a URL such as s3://bucket/photos"
    )
