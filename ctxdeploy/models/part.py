"""The part of a file that has arrived, and what it is a part of."""

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.files import move, write_json


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said about a file.

    Attributes:
        url: that was asked for.
        final_url: that answered, after redirections.
        etag: names this version of the file; None if the server gives none.
        last_modified: the same, to the second.
        total: bytes of the whole file; None if the server does not say.
    """

    url: str
    final_url: str
    etag: str | None
    last_modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """What a later request names this version by; a weak etag does not promise equal bytes (RFC 9110, 13.1.5)."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


class Part:
    """``FILE.part`` and ``FILE.part.json``.

    Args:
        target: the whole file that it will be.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._data = target.with_name(f"{target.name}.part")
        self._facts = target.with_name(f"{target.name}.part.json")

    def answer(self, url: str) -> Answer | None:
        """Return what the part is a part of; None if there is none of this address."""
        try:
            found = Answer(**json.loads(self._facts.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.url == url and self._data.exists() else None

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        try:
            return self._data.stat().st_size
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def writing(self, answer: Answer, offset: int) -> Iterator[BinaryIO]:
        """Open the part for what follows its first ``offset`` bytes; those behind them are cut off.

        Raises:
            StorageError: it cannot be written, or the disk is full; what has arrived stays.
        """
        try:
            if offset == 0:
                # First the data goes: facts of one version must never stand beside the data of another.
                self._data.unlink(missing_ok=True)
            write_json(self._facts, asdict(answer))
            with self._data.open("r+b" if offset else "wb") as file:
                file.truncate(offset)
                file.seek(offset)
                yield file
        except OSError as error:
            raise self._storage(error) from error

    def finish(self) -> None:
        """Give the part its name: it is whole."""
        move(self._data, self.target)
        self._facts.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what has arrived."""
        for path in (self._data, self._facts):
            path.unlink(missing_ok=True)

    def check_room(self, missing: int) -> None:
        """Raise ``StorageError`` if the disk has no room for so many more bytes."""
        try:
            free = shutil.disk_usage(self._data.parent).free
        except OSError as error:
            raise self._storage(error) from error
        if missing > free:
            raise StorageError(
                f"{self._data.parent} has room for {free / 1e6:.0f} MB, {missing / 1e6:.0f} MB are needed: make room, "
                "or name another folder with --to or CTXDEPLOY_HOME"
            )

    def _storage(self, error: OSError) -> StorageError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; make room and run the same command again: it goes on where it was" if full else ""
        return StorageError(f"{self._data} cannot be written: {error.strerror or error}{advice}")
