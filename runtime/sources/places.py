"""Which kind of place an argument means."""

from collections.abc import Callable
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.runtime.config import RemoteConfig
from ctxdeploy.runtime.sources.base import PhotoList
from ctxdeploy.runtime.sources.folder import list_folder
from ctxdeploy.runtime.sources.lists import READERS, list_file, list_remote_file
from ctxdeploy.runtime.sources.remote import list_remote
from ctxdeploy.runtime.sources.tar import COMPRESSED, has_pattern, list_tars, refuse_compressed
from ctxdeploy.runtime.sources.urls import is_url, is_web, without_secrets

LISTS = tuple(READERS)


def list_photos(place: str, *, recursive: bool = True, remote: RemoteConfig | None = None) -> PhotoList:
    """List the photos of a place; ``docs/places.md`` says what each kind means.

    Args:
        place: a folder; a list (``.txt``, ``.lst``, ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``); a ``.tar``, or a
            pattern that names some; or the URL of a folder or a list.
        recursive: look into the folders below.
        remote: how servers are asked.

    Raises:
        ConfigError: there is no such place, or it cannot be listed.
        NoPhotosError: it holds no photos.
        MissingExtraError: what reads its URL is not installed.
    """
    config = remote or RemoteConfig()
    kinds: tuple[tuple[Callable[[str], bool], Callable[[], PhotoList]], ...] = (
        (_is_remote_list, lambda: list_remote_file(place, config)),
        (_is_remote_tar, lambda: _refuse_remote_tar(place)),
        (is_url, lambda: list_remote(place, recursive=recursive, config=config)),
        (_is_folder, lambda: list_folder(Path(place), recursive=recursive)),
        (_ends_with(*LISTS), lambda: list_file(place, config)),
        (_ends_with(".tar"), lambda: list_tars(place)),
        (_ends_with(*COMPRESSED), lambda: refuse_compressed(place)),
        (_always, lambda: _refuse(place)),
    )
    try:
        return next(listed for is_kind, listed in kinds if is_kind(place))()
    except OSError as error:  # a folder above that may not be entered, a name that is too long
        raise ConfigError(f"{printable(place)} cannot be read ({error.strerror or error})") from error


def _ends_with(*suffixes: str) -> Callable[[str], bool]:
    return lambda place: place.lower().endswith(suffixes)


def _is_folder(place: str) -> bool:
    return Path(place).is_dir()


def _is_remote_list(place: str) -> bool:
    return is_url(place) and _path(place).endswith(LISTS)


def _is_remote_tar(place: str) -> bool:
    return is_url(place) and _path(place).endswith((".tar", *COMPRESSED))


def _path(url: str) -> str:
    return (url.partition("#")[0].partition("?")[0] if is_web(url) else url).lower()


def _always(place: str) -> bool:
    return True


def _refuse_remote_tar(place: str) -> PhotoList:
    raise ConfigError(f"{printable(without_secrets(place))}: tar files are not read from servers: copy it here")


def _refuse(place: str) -> PhotoList:
    path = Path(place)
    if has_pattern(place) and not path.exists():
        raise ConfigError(f"{printable(place)}: only patterns that end with .tar are taken; put them in quotes")
    shown = printable(without_secrets(place) if "://" in place else place)  # a chain of fsspec: a::http://user:…
    raise ConfigError(
        f"{shown} is not a folder{'' if path.exists() else ', there is no such place'}: give a folder with "
        f"photos, a list ({' '.join(LISTS)}), a .tar, or a URL such as s3://bucket/photos"
    )
