"""A folder of photos."""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.text import counted, printable
from ctxdeploy.core.types import Box, FileState
from ctxdeploy.runtime.decode.image import EXTENSIONS
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource
from ctxdeploy.runtime.sources.base import PhotoList


class FilePhoto(PhotoSource):
    """A photo in a folder, without a ``Path`` of its own, for ten million of them are in memory at once.

    Measured with names of 18 letters: 163 bytes with the name, 340 with a ``Path``, 428 once that was read.

    Args:
        name: its stable identity.
        folder: where, shared by many.
        file: path relative to the folder, or absolute.
        box: the part to extract; the whole photo if None.
    """

    __slots__ = ("_file", "_folder")
    _file: str
    _folder: str

    def __init__(self, *, name: str, folder: str, file: str, box: Box | None = None) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "data", None)
        put(self, "reader", None)
        put(self, "box", box)
        put(self, "_folder", folder)
        put(self, "_file", file)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._folder, self._file)

    def state(self) -> FileState | None:
        """Return the state of the file; None where it cannot be told."""
        try:
            # A third of the time that Path takes, for every photo of every run.
            found = os.stat(os.path.join(self._folder, self._file))  # noqa: PTH116, PTH118
        except (OSError, ValueError):  # reading it will say why
            return None
        return FileState(size=found.st_size, mtime_ns=found.st_mtime_ns)

    def __reduce__(self) -> tuple[Callable[..., "FilePhoto"], tuple[object, ...]]:
        """Return how it is copied, and sent to a process."""
        return _file_photo, (self.name, self._folder, self._file, self.box)


def _file_photo(name: str, folder: str, file: str, box: Box | None) -> FilePhoto:
    return FilePhoto(name=name, folder=folder, file=file, box=box)


def find_photos(
    folder: str | os.PathLike[str], recursive: bool = True, *, unreadable: list[PhotoFailure] | None = None
) -> list[PhotoSource]:
    """List the photos of a folder by their extension, sorted by name.

    Names are paths relative to the folder, with ``/``; bytes that are not UTF-8 stay as surrogates (``os.fsencode``
    restores them). Files and folders whose names begin with a dot are left out. Links are followed, each real folder
    is visited once, under its own path if it lies in ``folder``. Broken links are listed, and fail when they are read.

    Args:
        folder: where.
        recursive: look into the folders below.
        unreadable: a failure of the stage ``list`` is appended for each folder below that cannot be listed.

    Raises:
        ConfigError: there is no such folder, or it cannot be listed; without ``unreadable`` also one below it.
        NoPhotosError: there is no photo.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{printable(str(root))} is not a folder: give one with photos")
    names = sorted(name for name in _walk(root, recursive, unreadable) if name.lower().endswith(EXTENSIONS))
    if not names:
        raise NoPhotosError(f"{printable(str(root))} holds no photos (looked for {' '.join(EXTENSIONS)})")
    return [FilePhoto(name=name, folder=str(root), file=name) for name in names]


def _walk(root: Path, recursive: bool, unreadable: list[PhotoFailure] | None) -> list[str]:
    """Return the names of all files that are not hidden, relative to ``root``."""
    names: list[str] = []
    visited: set[tuple[int, int]] = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        prefix = folders.popleft() if folders else links.popleft()  # links last: real paths name their photos
        try:
            state = (root / prefix).stat()
            identity = (state.st_dev, state.st_ino)
            if identity in visited:
                continue
            visited.add(identity)
            files, below, linked = _list(root, prefix)
        except OSError as error:
            if prefix and unreadable is not None:
                reason = f"the folder cannot be listed: {error.strerror}"
                unreadable.append(PhotoFailure(name=prefix, reason=reason, stage="list", file=None))
                continue
            where = printable(str(root / prefix))
            raise ConfigError(f"the folder {where} cannot be listed ({error.strerror}): make it readable") from error
        names += files
        if recursive:
            folders.extend(below)
            links.extend(linked)
    return names


def _list(root: Path, prefix: str) -> tuple[list[str], list[str], list[str]]:
    """Return the names of a folder's files, folders and links to folders; folders end with ``/``."""
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    with os.scandir(root / prefix) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                files.append(name)
            elif entry.is_symlink():
                links.append(name + "/")
            else:
                folders.append(name + "/")
    return files, folders, links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a link that leads nowhere or in a circle is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def list_folder(folder: Path, *, recursive: bool) -> PhotoList:
    """List the photos of a folder; arguments and errors as ``find_photos``."""
    unreadable: list[PhotoFailure] = []
    try:
        photos = find_photos(folder, recursive, unreadable=unreadable)
    except NoPhotosError as error:
        suffixes = [path.suffix.lower() for path in folder.iterdir()]
        for kind in ("tar", "zip"):
            count = suffixes.count(f".{kind}")
            if count:
                hint = f"of its {counted(count, f'{kind} file')} give the pattern, '*.{kind}' in quotes"
                raise NoPhotosError(f"{error}; {hint}") from error
        raise
    return PhotoList(place=str(folder.resolve()), photos=photos, unreadable=tuple(unreadable), folder=folder)
