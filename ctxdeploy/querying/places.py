"""What the arguments of ``ctxdeploy query`` name: photos, places of photos, standard input."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError, CtxdeployError, PhotoError
from ctxdeploy.core.text import printable
from ctxdeploy.querying.photo import photo_source

if TYPE_CHECKING:
    from ctxdeploy.runtime import PhotoSource
    from ctxdeploy.runtime.sources import RemoteConfig, Selection


@dataclass(frozen=True, kw_only=True)
class Queries:
    """The photos that some arguments name.

    Attributes:
        photos: in the order of the arguments, those of a place by their names.
        failures: the places, and the parts of them, that could not be listed.
    """

    photos: "list[PhotoSource]"
    failures: list[CtxdeployError]


def list_queries(
    arguments: Sequence[str], *, recursive: bool = True, remote: "RemoteConfig", selection: "Selection"
) -> Queries:
    """List the photos that arguments name.

    Args:
        arguments: paths of photos; places as ``ctxdeploy index`` takes them, whose photos are named as it names them;
            URLs of photos; ``-`` for a photo whose bytes come on standard input, which is read at once.
        recursive: look into the folders below.
        remote: how servers are asked.
        selection: which photos of a place are taken.

    Raises:
        ConfigError, NoPhotosError, MissingExtraError: there is one argument alone, and it names nothing that is there;
            of several such are failures. Standard input is named twice.
    """
    from ctxdeploy.runtime.sources import STANDARD_INPUT, is_place, list_photos, remote_photo, standard_input

    if arguments.count(STANDARD_INPUT) > 1:
        raise ConfigError("standard input (-) holds one photo: name it once")
    photos: list[PhotoSource] = []
    failures: list[CtxdeployError] = []
    for argument in arguments:
        try:
            if argument == STANDARD_INPUT:
                photos.append(standard_input())
            elif not is_place(argument):
                photos.append(photo_source(Path(argument)))
            elif (photo := remote_photo(argument, remote)) is not None:
                photos.append(photo)
            else:
                listed = list_photos(argument, recursive=recursive, remote=remote, selection=selection)
                photos += listed.photos
                failures += [PhotoError(f"{printable(part.name)}: {part.reason}") for part in listed.unreadable]
        except CtxdeployError as error:
            if len(arguments) == 1:
                raise
            failures.append(error)
    return Queries(photos=photos, failures=failures)
