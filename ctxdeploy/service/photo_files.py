"""The files of an archive's photos: found, stored and removed in the folder that their names are paths in."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.core.files import make_folder, move, write_beside
from ctxdeploy.core.text import native_path
from ctxdeploy.core.types import FileState

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_MAX_NAME, _MAX_PART = 1024, 255  # bytes; of a part that is what file systems take


class OutsideError(Exception):
    """A photo has no file in its folder, or none that may be touched; the text says why, for the log."""


def check_new_name(name: str) -> None:
    """Raise ``ConfigError`` unless a photo may be added under a name: a relative path that stays where it is.

    Unicode is not normalised: a name is what was sent.
    """
    from ctxdeploy.index import Index

    Index.check_name(name)
    parts = name.split("/")
    size = len(name.encode("utf-8", "surrogateescape"))
    if not name or name.startswith("/"):
        raise ConfigError(f"the name {name!r} is not a relative path such as holiday/beach.jpg")
    if size > _MAX_NAME or any(len(part.encode("utf-8", "surrogateescape")) > _MAX_PART for part in parts):
        raise ConfigError(f"the name has {size:,} bytes: {_MAX_NAME} are allowed, and {_MAX_PART} between two /")
    if any(part in ("", ".", "..") for part in parts) or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise ConfigError(f"the name {name!r} has an empty part, . or .., or a control character: give a plain path")


@dataclass(frozen=True, kw_only=True)
class OpenPhoto:
    """A file that is open for reading.

    Attributes:
        descriptor: of it.
        state: size and time of change.
    """

    descriptor: int
    state: FileState


class PhotoFiles:
    """The files in one folder.

    Args:
        folder: that the photos' names are paths in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def opened(self, name: str) -> Iterator[OpenPhoto]:
        """Open a photo's file while the block runs. Symbolic links are followed within the folder.

        Raises:
            OutsideError: there is no such file, or it is outside of the folder, or not a plain file.
        """
        descriptor = self._open(self._inside(name))
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OutsideError("it is not a plain file")
            yield OpenPhoto(descriptor=descriptor, state=FileState(size=found.st_size, mtime_ns=found.st_mtime_ns))
        finally:
            os.close(descriptor)

    def _inside(self, name: str) -> tuple[Path, tuple[str, ...]]:
        """Return the real folder, and the real path of a file in it, without links, part by part."""
        try:
            root = self._folder.resolve(strict=True)
            real = (root / native_path(name)).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:  # not there, a zero byte, a circle of links
            raise OutsideError(f"it cannot be found ({error})") from error
        if not real.is_relative_to(root) or real == root:
            raise OutsideError(f"it leads out of {root}")
        return root, real.relative_to(root).parts

    def _open(self, inside: tuple[Path, tuple[str, ...]]) -> int:
        """Open a file folder by folder: what has become a link since it was looked at is not followed."""
        root, parts = inside
        try:
            at = os.open(root, _OPEN | os.O_DIRECTORY)
            try:
                for part in parts[:-1]:
                    below = os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=at)
                    os.close(at)
                    at = below
                # A pipe would hold the reader for ever.
                return os.open(parts[-1], _OPEN | os.O_NONBLOCK, dir_fd=at)
            finally:
                os.close(at)
        except OSError as error:
            raise OutsideError(f"it cannot be opened ({error.strerror})") from error

    def target(self, name: str) -> Path:
        """Return the path that a new photo's file would have; no link leads to it.

        Raises:
            OutsideError: a part of its path is a link, or a file where a folder is needed, or a folder at its end; or
                there cannot be such a path.
        """
        try:
            at = self._folder.resolve(strict=True)
            parts = PurePosixPath(native_path(name)).parts
            if not parts or ".." in parts or parts[0].startswith("/"):
                raise OutsideError("its name is not a path in the folder")
            for number, part in enumerate(parts):
                at = at / part
                mode = _mode(at)
                is_last = number == len(parts) - 1
                if mode is not None and not (stat.S_ISREG(mode) if is_last else stat.S_ISDIR(mode)):
                    raise OutsideError(f"{at} is not a plain {'file' if is_last else 'folder'}")
        except (OSError, ValueError) as error:
            raise OutsideError(f"it cannot be there ({error})") from error
        return at

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name, or anything else."""
        try:
            return _mode(self._folder / native_path(name)) is not None
        except (OSError, ValueError):
            return False

    def same(self, name: str, data: bytes) -> FileState | None:
        """Return the state of a plain file that has just these bytes; None if there is none."""
        try:
            handle = os.open(self.target(name), _OPEN | os.O_NONBLOCK)
        except (OutsideError, OSError):
            return None
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_size != len(data) or file.read(len(data) + 1) != data:
                return None
        return FileState(size=found.st_size, mtime_ns=found.st_mtime_ns)

    @property
    def is_writable(self) -> bool:
        """Whether files can be put into the folder, for all that is known before one is."""
        return os.access(self._folder, os.W_OK | os.X_OK)

    def store(self, name: str, data: bytes, *, replace: bool) -> FileState:
        """Write a photo's file, whole or not at all, and return its state.

        Args:
            name: of the photo.
            data: of the file.
            replace: a file that is there is replaced.

        Raises:
            OutsideError: as ``target``.
            FileExistsError: there is a file already.
            StorageError: it cannot be written.
        """
        target = self.target(name)
        make_folder(target.parent)
        self.target(name)
        beside = write_beside(target, [data])
        try:
            found = beside.stat()
            move(beside, target, exclusive=not replace)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        return FileState(size=found.st_size, mtime_ns=found.st_mtime_ns)

    def remove(self, name: str, state: FileState | None) -> bool:
        """Remove a photo's file, if it is still the one that was indexed; return whether it was removed.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            target = self.target(name)
            found = target.stat(follow_symlinks=False)
        except (OutsideError, OSError):
            return False
        if state is None or FileState(size=found.st_size, mtime_ns=found.st_mtime_ns) != state:
            return False
        try:
            target.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"{target} cannot be removed: {error.strerror}") from error
        return True


def is_listed(name: str) -> bool:
    """Return whether ``ctxdeploy index FOLDER`` takes a file of this name for a photo."""
    from ctxdeploy.runtime.sources import takes_name

    return takes_name(name)


def _mode(path: Path) -> int | None:
    """Return what is at a path, links not followed; None if nothing is."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise
