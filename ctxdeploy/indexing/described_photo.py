"""Photos by their descriptor files of the DELF library: what a folder holds of them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.text import photo_name, printable
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime import PhotoFailure
from ctxdeploy.runtime.sources import FilePhoto, PhotoList

if TYPE_CHECKING:
    from ctxdeploy.runtime import PhotoSource

LOCAL, WHOLE = (".delf", ".delg_local"), ".delg_global"


class DescribedPhoto(FilePhoto):
    """A photo by its descriptor files, whose paths differ in the suffix alone.

    Args:
        name: the path in the folder, without suffix.
        folder: where, shared by many.
        stem: path relative to the folder, without suffix.
        suffixes: of its files, local descriptors first.
    """

    __slots__ = ("suffixes",)
    suffixes: tuple[str, ...]

    def __init__(self, *, name: str, folder: str, stem: str, suffixes: tuple[str, ...]) -> None:
        super().__init__(name=name, folder=folder, file=stem + suffixes[0])
        object.__setattr__(self, "suffixes", suffixes)

    @property
    def has_local(self) -> bool:
        """Whether there is a file of local descriptors."""
        return self.suffixes[0] in LOCAL

    @property
    def whole(self) -> Path:
        """The file of its global vector."""
        return self.path.with_suffix(WHOLE)

    def state(self) -> FileState | None:
        """Return the size of both files, and when the later one was changed; None where it cannot be told."""
        found = super().state()
        if found is None or len(self.suffixes) == 1:
            return found
        try:
            other = self.whole.stat()
        except OSError:  # reading it will say why
            return None
        return FileState(size=found.size + other.st_size, mtime_ns=max(found.mtime_ns, other.st_mtime_ns))


def list_descriptors(folder: Path, *, recursive: bool = True) -> PhotoList:
    """List the photos whose descriptor files lie in a folder, sorted by name; hidden files are left out.

    Raises:
        ConfigError: it is not a folder, it cannot be listed, or it holds files of DELF and of DELG.
        NoPhotosError: it holds no such files.
    """
    if not folder.is_dir():
        raise ConfigError(f"--descriptors {printable(str(folder))} is not a folder: name one of {_known()} files")
    unreadable: list[PhotoFailure] = []
    found: dict[str, list[str]] = {}
    for file in _files(folder, recursive, unreadable):
        stem, suffix = os.path.splitext(file)  # noqa: PTH122 (of millions of texts)
        if suffix in (*LOCAL, WHOLE):
            found.setdefault(stem, []).append(suffix)
    kinds = {suffix for suffixes in found.values() for suffix in suffixes}
    where = printable(str(folder))
    if not kinds:
        raise NoPhotosError(f"{where} holds no descriptor files (looked for {_known()})")
    if len(kinds) > 1 and LOCAL[0] in kinds:
        raise ConfigError(f"{where} holds {suffix_text(kinds)} files, of two networks: name a folder with those of one")
    # Most photos have the same suffixes: one tuple for all of them.
    shared = {names: names for names in (*((suffix,) for suffix in (*LOCAL, WHOLE)), (LOCAL[1], WHOLE))}
    photos: list[PhotoSource] = [
        DescribedPhoto(
            name=photo_name(stem),
            folder=str(folder),
            stem=stem,
            suffixes=shared[tuple(suffix for suffix in (*LOCAL, WHOLE) if suffix in suffixes)],
        )
        for stem, suffixes in found.items()
    ]
    photos.sort(key=lambda photo: photo.name)
    return PhotoList(
        place=str(folder.resolve()), photos=photos, unreadable=tuple(unreadable), folder=None, recursive=recursive
    )


def _files(folder: Path, recursive: bool, unreadable: list[PhotoFailure]) -> Iterator[str]:
    """Yield paths relative to a folder; links to other folders are not followed."""

    def fail(error: OSError) -> None:
        below = Path(error.filename).relative_to(folder).as_posix()
        if below == ".":
            raise ConfigError(f"{printable(str(folder))} cannot be listed ({error.strerror}): make it readable")
        reason = f"the folder cannot be listed: {error.strerror}"
        unreadable.append(PhotoFailure(name=photo_name(below) + "/", reason=reason, stage="list", file=None))

    for above, folders, files in os.walk(folder, onerror=fail):
        below = Path(above).relative_to(folder).as_posix()
        prefix = "" if below == "." else below + "/"
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        yield from (prefix + name for name in sorted(files) if not name.startswith("."))


def _known() -> str:
    return f"{', '.join(LOCAL)} or {WHOLE}"


def suffix_text(suffixes: Iterable[str]) -> str:
    """Return suffixes in order, in words."""
    return ", ".join(sorted(suffixes))
