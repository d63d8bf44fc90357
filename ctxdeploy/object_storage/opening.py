"""Opening what may be an archive on object storage: its files come first."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ctxdeploy.object_storage.place import mirrored_url

if TYPE_CHECKING:
    from ctxdeploy.index import ShardEntry

_Opened = TypeVar("_Opened")


def no_shards(shards: "Sequence[ShardEntry]") -> "Sequence[ShardEntry]":
    """Return none of the shards: what asks the servers of shards needs."""
    return shards[:0]


def open_here(
    folder: Path,
    opening: Callable[[], _Opened],
    chosen: "Callable[[Sequence[ShardEntry]], Sequence[ShardEntry]]",
) -> _Opened:
    """Return what ``opening`` returns, which opens some shards of the state in force of an archive.

    Of an archive on object storage the files of the newest state, and of these shards alone, are brought here before.

    Args:
        folder: of the archive.
        opening: opens it; called anew where a file turned out to be damaged here, and was fetched again.
        chosen: the shards that are opened, of all those of a manifest; their lists of names are not.

    Raises:
        ArchiveError: as ``opening``, or the state cannot be read there.
        ConfigError: it does not fit into the cache.
        StorageError: the cache cannot be written.
    """
    if mirrored_url(folder) is None:
        return opening()
    from ctxdeploy.object_storage.mirror import Mirror

    return Mirror(folder).open_with(lambda number: opening(), chosen=chosen)
