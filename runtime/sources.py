"""What goes into an extraction, and what comes out of it."""

from dataclasses import dataclass
from pathlib import Path

from ctxdeploy.descriptors import LocalDescriptors
from ctxdeploy.errors import ConfigError
from ctxdeploy.runtime.boxes import Box


@dataclass(frozen=True, kw_only=True)
class PhotoSource:
    """A photo to extract, from a file or from memory.

    Attributes:
        name: its stable identity; in a folder the path relative to it, with ``/``.
        path: the file.
        data: or the file's bytes; exactly one of the two is given.
        box: the part to extract; the whole photo if None.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise ConfigError(f"photo {self.name!r}: give either its path or its data")


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A file's size in bytes and modification time, taken before it is read: later changes are noticed next time."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Seconds spent on one photo: reading and decoding; network (its share of the batch)."""

    decode: float
    network: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Extracted:
    """A photo's local descriptors.

    Attributes:
        name: as in its ``PhotoSource``.
        descriptors: n rows, n at most K; positions in pixels of the original photo.
        size: (width, height) of the original photo after EXIF rotation.
        seconds: time per stage.
        file: state of the file before it was read; None for a photo from memory.
    """

    name: str
    descriptors: LocalDescriptors
    size: tuple[int, int]
    seconds: StageSeconds
    file: FileState | None


@dataclass(frozen=True, kw_only=True)
class PhotoFailure:
    """A photo without descriptors.

    Attributes:
        name: as in its ``PhotoSource``.
        reason: one line, without the name.
        stage: ``list`` (a folder, its name ends with ``/``), ``decode`` or ``network``.
        file: state of the file before it was read; None if there is none.
    """

    name: str
    reason: str
    stage: str
    file: FileState | None
