"""A photo on its way: where it is, what has become of it so far, and why it failed.

``PhotoSource`` → ``Pixels`` → ``GraphOutputs`` → ``PhotoDescriptors``: these four carry a photo through this room.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Box, FileState, StageSeconds

if TYPE_CHECKING:
    from ctxdeploy.runtime.decode.decode import Pixels


class PhotoReader(Protocol):
    """Reads a photo that is not a file of its own: a member of a tar or zip file, a photo of a server."""

    def read(self) -> bytes:
        """Return the bytes; ``PhotoError`` with the bare reason if that fails. Called from any thread."""

    def state(self) -> FileState | None:
        """Return size and time of change as they were when the photos were listed; no request is made."""


@runtime_checkable
class BoundedReader(PhotoReader, Protocol):
    """A ``PhotoReader`` that does not know how many bytes there are before it reads them."""

    def read_at_most(self, limit: int) -> bytes:
        """As ``PhotoReader.read``; ``TooLargeError`` if there are more bytes than ``limit``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSource:
    """A photo to extract. Exactly one of ``path``, ``data`` and ``reader`` is given.

    Attributes:
        name: its stable identity; in a folder the path relative to it, with ``/``.
        path: its file.
        data: the bytes of its file.
        reader: reads its bytes.
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
        stage: ``list`` (a folder that cannot be listed; its name ends with ``/``), ``read``, ``memory`` (not enough to
            decode it), ``decode``, ``network``, or ``index`` (nothing that an archive can hold).
        file: state of the file before it was read; None if there is none.
        seconds: spent on it.
    """

    name: str
    reason: str
    stage: str
    file: FileState | None
    seconds: float = 0.0


@dataclass(kw_only=True, eq=False, slots=True)
class WorkItem:
    """A photo while threads of this room work on it; it never leaves the room.

    Attributes:
        source: the photo.
        content: the bytes that its reader returned, until they are decoded.
        room: bytes that it holds of the ``ReadingRoom``.
        file: state of its file before it was read.
        seconds: spent on it so far.
        result: its pixels, or why there are none; any other exception ends the run. None while it is on its way.
    """

    source: PhotoSource
    content: bytes | None = None
    room: int = 0
    file: FileState | None = None
    seconds: StageSeconds = field(default_factory=StageSeconds)
    result: "Pixels | PhotoFailure | BaseException | None" = None

    @property
    def pixels(self) -> "Pixels":
        """The pixels of a photo that has been decoded."""
        if self.result is None or isinstance(self.result, PhotoFailure | BaseException):
            raise RuntimeError(f"photo {self.source.name!r} has not been decoded")
        return self.result

    def fail(self, reason: str, stage: str) -> PhotoFailure:
        """Set, and return, the failure of this photo with all seconds spent on it so far."""
        if stage == "read":  # a file, whose reading is part of decoding
            self.seconds = StageSeconds(read=self.seconds.total)
        self.result = PhotoFailure(
            name=self.source.name, reason=reason, stage=stage, file=self.file, seconds=self.seconds.total
        )
        return self.result
