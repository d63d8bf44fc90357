"""What can be done with the folder of an archive that is not open, and perhaps cannot be opened."""

import os
from pathlib import Path

from ctxdeploy.index.maintenance.repair import Repaired, repair
from ctxdeploy.index.maintenance.verify import verify
from ctxdeploy.index.storage.names import encode_name
from ctxdeploy.index.storage.state import check_free

PathLike = str | os.PathLike[str]


class ArchiveFolder:
    """Functions of ``Index`` that take a folder."""

    @staticmethod
    def check_free(path: PathLike) -> None:
        """Raise ``ArchiveError`` or ``StorageError`` unless ``create`` can make an archive at ``path``."""
        check_free(Path(path))

    @staticmethod
    def check_name(name: str) -> None:
        """Raise ``ConfigError`` unless an archive can hold a photo of this name."""
        encode_name(name)

    @staticmethod
    def problems(path: PathLike) -> list[str]:
        """Read every byte of the state in force and of the snapshots; return one line for each problem.

        Unlike ``verify`` it needs no archive that can be opened.
        """
        return verify(Path(path))

    @staticmethod
    def repair(path: PathLike) -> Repaired:
        """Make a damaged archive whole: drop what is damaged, and say which photos went with it.

        A damaged or missing shard is dropped. A damaged list of names is written again from its shard, damaged
        statistics from the postings. If tombstones are damaged, photos that were removed return, unless a newer photo
        has their name. If ``CURRENT`` or the manifest it names is damaged, the newest sound manifest takes its place.

        Raises:
            ArchiveError: not an archive, being written, no sound manifest left, or the codebook is damaged.
            StorageError: the folder cannot be written.
        """
        return repair(Path(path))
