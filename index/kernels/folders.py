"""Where machine code is kept, and whose code a process runs.

Code that was kept is unpickled and run: whoever may write it may do whatever its reader may. So what is not in the
package's own folder is read only from folders and files that belong to the user or to root, and that nobody else may
write, as OpenSSH does with keys. Folders above are not looked at: who exchanges one cannot make its files ours.
"""

import functools
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
from numba.misc.appdirs import AppDirs

CACHE = "CTXDEPLOY_CACHE"
_PREFIX = "loops-"
# Of the files; another number where they change.
_FORMAT = "1"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder of machine code, which need not exist.

    Attributes:
        folder: of one version of the loops, of numba and of Python.
        top: what holds the folders of all versions.
        is_own: it lies in the installed package, whose Python files the same people may write.
        problem: why it is not used; empty if it is.
    """

    folder: Path
    top: Path
    is_own: bool = False
    problem: str = ""

    def is_writable(self) -> bool:
        """Whether files can be put there; makes the folder."""
        if self.problem:
            return False
        try:
            _make(self.folder)
        except OSError:
            return False
        return os.access(self.folder, os.W_OK | os.X_OK)

    def trusts(self, found: os.stat_result) -> bool:
        """Whether a file there may be read, by what ``fstat`` says of it."""
        return self.is_own or not _foreign(found)


def places(source: Path) -> list[Place]:
    """Return where the code of a module's loops is looked for, in order; it is kept in the first that can be written.

    That is the folder of ``CTXDEPLOY_CACHE``, or numba's of ``NUMBA_CACHE_DIR``; beside the module; and the user's
    folder of caches. Nothing is looked for behind the first that can be written, so that warming up fills that one.
    """
    version = f"{_PREFIX}{_version(source)}"
    found = []
    for top, is_own in _tops(source):
        folder = top / version
        problem = "" if is_own else _problem(top) or _problem(folder)
        found.append(Place(folder=folder, top=top, is_own=is_own, problem=problem))
        if found[-1].is_writable():
            break
    return found


def remove_other_versions(place: Place) -> None:
    """Remove what former versions of the loops left beside the module, where no other version can use it."""
    if place.is_own:
        for folder in place.top.glob(f"{_PREFIX}*"):
            if folder != place.folder:
                for file in folder.glob("*"):
                    file.unlink()
                folder.rmdir()


def given_folder() -> str:
    """Return the folder that the user named for machine code; empty if none."""
    settings: Any = numba.config
    return os.environ.get(CACHE) or settings.CACHE_DIR or ""


def _tops(source: Path) -> Iterator[tuple[Path, bool]]:
    if given := given_folder():
        yield Path(given).absolute(), False
    yield source.parent / "__pycache__", True
    user = Path(AppDirs(appname="ctxdeploy", appauthor=False).user_cache_dir)
    if user.is_absolute():  # ~ is left where there is no home
        yield user, False


def _problem(folder: Path) -> str:
    """Return why the code in a folder cannot be trusted or read; empty if it can, or there is no such folder."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a folder"
    if problem := _foreign(found):
        return f"{folder} {problem}"
    return "" if os.access(folder, os.R_OK | os.X_OK) else f"{folder} may not be read"


def _foreign(found: os.stat_result) -> str:
    """Return why somebody else may have written a file or folder; empty if nobody can."""
    if not hasattr(os, "geteuid"):
        return ""
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to user {found.st_uid}, neither to root nor to this process: make it as one of these"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "may be written by other users, and machine code of others is not run: chmod -R go-w it"
    return ""


def _make(folder: Path) -> None:
    """Make a folder and its parents; none that others may write, whatever the umask."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o755, exist_ok=True)


def _version(source: Path) -> str:
    """Return what stands for all that machine code depends on but the processor: times and places of files do not."""
    kernels = Path(__file__).parent
    beside = b"" if source.parent == kernels else source.read_bytes()
    return hashlib.sha256(_sources(kernels) + beside).hexdigest()[:20]


@functools.cache
def _sources(folder: Path) -> bytes:
    digest = hashlib.sha256(f"{_FORMAT} {numba.__version__} {sys.implementation.cache_tag} {sys.abiflags}".encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.digest()
