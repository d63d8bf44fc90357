"""Rankings as a file, for scorers of one's own."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from ctxdeploy.core.errors import StorageError
from ctxdeploy.evaluation.dataset import Query
from ctxdeploy.evaluation.ranking import Ranked


class RankingsFile:
    """Takes rankings, one JSON object a line, to a file that exists when all of them are in it; a context manager.

    Args:
        path: the file; nothing is written if None.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> "RankingsFile":
        if self._path is not None:
            try:
                self._file = self._partial.open("w", encoding="ascii")
            except OSError as error:
                raise self._error(error) from error
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._file is None or self._path is None:
            return
        try:
            self._file.close()
            if kind is None:
                self._partial.replace(self._path)
        except OSError as failure:
            raise self._error(failure) from failure
        finally:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def write(self, query: Query, ranked: Sequence[Ranked], method: str) -> None:
        """Append a ranking."""
        if self._file is None:
            return
        photos = [[photo.name, photo.score, *(["distractor"] if photo.distractor else [])] for photo in ranked]
        try:
            self._file.write(json.dumps({"method": method, "query": query.key, "ranked": photos}) + "\n")
        except OSError as error:
            raise self._error(error) from error

    @property
    def _partial(self) -> Path:
        path = self._path or Path()
        return path.with_name(f".{path.name}.partial")

    def _error(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path} cannot be written: {error.strerror or error}; choose another --rankings")
