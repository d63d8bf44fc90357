"""A folder of photos."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import overload

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.text import counted, native_path, photo_name, printable
from ctxdeploy.core.types import Box, FileState
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource
from ctxdeploy.runtime.sources.base import PhotoList, nothing_found
from ctxdeploy.runtime.sources.name_table import NameTable
from ctxdeploy.runtime.sources.selection import ALL, NameFilter, Selection


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


class FolderPhotos(Sequence[PhotoSource]):
    """The photos of a folder, made when they are asked for: a hundred million of them are in memory at once.

    Args:
        folder: where.
        names: of the photos.
    """

    def __init__(self, folder: str, names: NameTable) -> None:
        self._folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> PhotoSource: ...
    @overload
    def __getitem__(self, row: slice) -> list[PhotoSource]: ...
    def __getitem__(self, row: int | slice) -> PhotoSource | list[PhotoSource]:
        if isinstance(row, slice):
            return [self._photo(name) for name in self.names[row]]
        return self._photo(self.names[row])

    def __iter__(self) -> Iterator[PhotoSource]:
        return map(self._photo, self.names)

    def _photo(self, name: str) -> FilePhoto:
        return FilePhoto(name=name, folder=self._folder, file=native_path(name))


def find_photos(
    folder: str | os.PathLike[str], recursive: bool = True, *, unreadable: list[PhotoFailure] | None = None
) -> list[PhotoSource]:
    """List the photos of a folder by their extension, sorted by name.

    Names are paths relative to the folder, with ``/``; bytes that are not UTF-8 stay as surrogates. Files and folders
    whose names begin with a dot are left out, and those that systems and programs put among photos. Links are
    followed, each real folder is visited once, under its own path if it lies in ``folder``. Broken links are listed,
    and fail when they are read.

    Args:
        folder: where.
        recursive: look into the folders below.
        unreadable: a failure of the stage ``list`` is appended for each folder below that cannot be listed.

    Raises:
        ConfigError: there is no such folder, or it cannot be listed; without ``unreadable`` also one below it.
        NoPhotosError: there is no photo.
    """
    return list(_find(Path(folder), recursive, unreadable, NameFilter()))


def _find(root: Path, recursive: bool, unreadable: list[PhotoFailure] | None, names: NameFilter) -> FolderPhotos:
    if not root.is_dir():
        raise ConfigError(f"{printable(str(root))} is not a folder: give one with photos")
    walk = _Walk(root, recursive, unreadable, names)
    table = NameTable(walk.below(""))
    linked = walk.linked()
    if linked:
        table = NameTable(merge(table, linked))
    if not table:
        raise nothing_found(str(root), names.left_out())
    return FolderPhotos(str(root), table)


class _Walk:
    """Goes through folders, each real one once.

    Args:
        root, recursive, unreadable: as of ``find_photos``.
        names: says which are taken.
    """

    def __init__(self, root: Path, recursive: bool, unreadable: list[PhotoFailure] | None, names: NameFilter) -> None:
        self._root, self._recursive, self._unreadable, self._names = root, recursive, unreadable, names
        self._visited: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def below(self, prefix: str) -> Iterator[str]:
        """Yield the names of the photos in a folder and below it, rising; links to folders are left for later.

        A folder is ordered by its name with ``/``: no name of what is in it comes earlier.
        """
        levels = [iter(self._entries(prefix))]
        while levels:
            path = next(levels[-1], None)
            if path is None:
                levels.pop()
            elif path.endswith("/"):
                levels.append(iter(self._entries(path)))
            else:
                yield photo_name(path)

    def linked(self) -> list[str]:
        """Return the names below links to folders, rising: those that are reached in no other way.

        Links last, so that real paths name photos; and those high up before those far down.
        """
        found: list[str] = []
        waiting = deque(self._new_links())
        while waiting:
            found += self.below(waiting.popleft())
            waiting.extend(self._new_links())
        return sorted(found)

    def _new_links(self) -> list[str]:
        links, self._links = self._links, []
        return sorted(links, key=lambda path: path.count("/"))

    def _entries(self, prefix: str) -> list[str]:
        """Return the paths of a folder's photos, and of the folders to look into, with ``/``, in the order of names."""
        try:
            state = (self._root / prefix).stat()
            identity = (state.st_dev, state.st_ino)
            if identity in self._visited:
                return []
            self._visited.add(identity)
            files, below, linked = _list(self._root, prefix)
        except OSError as error:
            if prefix and self._unreadable is not None:
                reason = f"the folder cannot be listed: {error.strerror}"
                failure = PhotoFailure(name=photo_name(prefix), reason=reason, stage="list", file=None)
                self._unreadable.append(failure)
                return []
            where = printable(str(self._root / prefix))
            raise ConfigError(f"the folder {where} cannot be listed ({error.strerror}): make it readable") from error
        entries = [file for file in files if self._names.takes(photo_name(file))]
        if self._recursive:
            entries += [folder for folder in below if self._names.enters(photo_name(folder))]
            self._links += [folder for folder in linked if self._names.enters(photo_name(folder))]
        return sorted(entries, key=photo_name)


def _list(root: Path, prefix: str) -> tuple[list[str], list[str], list[str]]:
    """Return the paths of a folder's files, folders and links to folders; folders end with ``/``."""
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    with os.scandir(root / prefix) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = prefix + entry.name
            if not _is_folder(entry):
                files.append(path)
            elif entry.is_symlink():
                links.append(path + "/")
            else:
                folders.append(path + "/")
    return files, folders, links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a link that leads nowhere or in a circle is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def list_folder(folder: Path, *, recursive: bool, selection: Selection = ALL) -> PhotoList:
    """List the photos of a folder; arguments and errors as ``find_photos`` and ``list_photos``."""
    unreadable: list[PhotoFailure] = []
    names = NameFilter(selection)
    try:
        photos = _find(folder, recursive, unreadable, names)
    except NoPhotosError as error:
        suffixes = [path.suffix.lower() for path in folder.iterdir()]
        for kind in ("tar", "zip"):
            count = suffixes.count(f".{kind}")
            if count:
                hint = f"of its {counted(count, f'{kind} file')} give the pattern, '*.{kind}' in quotes"
                raise NoPhotosError(f"{error}; {hint}") from error
        raise
    return PhotoList(
        place=str(folder.resolve()),
        photos=photos,
        unreadable=tuple(unreadable),
        folder=folder,
        left_out=names.left_out(),
        wants=names.wants,
    )
