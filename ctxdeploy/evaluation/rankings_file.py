"""Rankings as a file, for scorers of one's own."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ctxdeploy.core.files import replacing
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
        self._stack = ExitStack()

    def __enter__(self) -> "RankingsFile":
        if self._path is not None:
            with ExitStack() as stack:
                partial = stack.enter_context(replacing(self._path, advice="choose another --rankings"))
                self._file = stack.enter_context(partial.open("w", encoding="ascii"))
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, query: Query, ranked: Sequence[Ranked], method: str) -> None:
        """Append a ranking."""
        if self._file is None:
            return
        photos = [[photo.name, photo.score, *(["distractor"] if photo.distractor else [])] for photo in ranked]
        self._file.write(json.dumps({"method": method, "query": query.key, "ranked": photos}) + "\n")
