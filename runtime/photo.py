"""A photo on its way into an extraction, and what is known of one that failed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Box, FileState


class PhotoReader(Protocol):
    """Where the bytes of a photo are that is no file of its own: in a tar file, on a server."""

    def read(self) -> bytes:
        """Return the bytes; ``PhotoError`` with the bare reason if that fails. Called from any thread."""

    def state(self) -> FileState | None:
        """Return size and time of change as they were when the photos were listed; no request is made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSource:
    """A photo to extract.

    Attributes:
        name: its stable identity; in a folder the path relative to it, with ``/``.
        path: the file,
        data: or the file's bytes,
        reader: or what reads them; exactly one of the three is given.
        box: the part to extract; the whole photo if None.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    reader: PhotoReader | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.path, self.data, self.reader)) != 1:
            raise ConfigError(f"photo {self.name!r}: give either its path or its data or a reader")

    def state(self) -> FileState | None:
        """Return the state of its file; None for a photo from memory, and where it cannot be told."""
        if self.reader is not None:
            return self.reader.state()
        if self.path is None:
            return None
        try:
            found = self.path.stat()
        except (OSError, ValueError):  # reading it will say why
            return None
        return FileState(size=found.st_size, mtime_ns=found.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class PhotoFailure:
    """A photo without descriptors.

    Attributes:
        name: as in its ``PhotoSource``.
        reason: one line, without the name.
        stage: ``list`` (a folder, its name ends with ``/``), ``read``, ``memory`` (too little to decode it), ``decode``
            or ``network``.
        file: state of the file before it was read; None if there is none.
        seconds: spent on it.
    """

    name: str
    reason: str
    stage: str
    file: FileState | None
    seconds: float = 0.0
