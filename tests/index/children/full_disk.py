"""A file system that is really full: a small tmpfs, or where mounting is not permitted, a limit on the size of files.

    python full_disk.py FOLDER [tmpfs | limit]

Adds, replaces and compacts until there is no space, at many amounts of free space. After each failure the last
committed state opens and answers; once there is space, the same writer and a new one go on. Prints JSON: counts, or
why it was skipped.
"""

import ctypes
import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

from archives import answers
from jobs import QUERIES, make_base, photo, require, warm_up

from ctxdeploy.core.errors import StorageError
from ctxdeploy.index import Index

SIZE = 2 << 20
BLOCK = os.sysconf("SC_PAGE_SIZE")


def mount(place: Path) -> str:
    """Mount a tmpfs; return why it is not possible."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, f"size={SIZE}".encode()) == 0:
        return ""
    return f"a tmpfs cannot be mounted: {os.strerror(ctypes.get_errno())}"


def fill(place: Path, leave: int) -> None:
    """Fill the file system but for some pages."""
    handle = os.open(place / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(handle, bytes(BLOCK))
    except OSError:
        size = os.fstat(handle).st_size
        os.ftruncate(handle, max(0, size // BLOCK - leave) * BLOCK)
    finally:
        os.close(handle)


def found(path: Path) -> Any:
    """Return what the state in force answers."""
    with Index.open(path) as index:
        return answers(index, QUERIES)


def expect_full(act: Any, path: Path) -> bool:
    """Return whether there was too little space; the error has to say so."""
    try:
        act()
    except StorageError as error:
        text = str(error)
        require(error.exit_code == 18 and str(path) in text, text)
        require("No space left" in text or "too large" in text, text)
        return True
    return False


def change(index: Index) -> None:
    """Add and replace more than a shard holds."""
    index.add_many((photo(f"new{number}", number) for number in range(7)), replace=True)
    index.add_many([photo("b", 5)], replace=True)
    index.commit()


def compact(index: Index) -> None:
    """Rewrite everything."""
    index.compact(purge=True)


def snapshot(index: Index) -> None:
    """Keep the state."""
    if "full" not in [info.name for info in index.snapshots()]:
        index.snapshot("full")


def on_tmpfs(place: Path, base: Path) -> dict[str, int]:
    """Fail for want of space, make space, go on."""
    counts = {"attempts": 0, "failures": 0}
    for act in (change, compact, snapshot):
        for leave in range(40):
            shutil.copytree(base, place / "archive")
            path = place / "archive"
            before = found(path)
            index = Index.open(path, writable=True)
            fill(place, leave)
            counts["attempts"] += 1
            if expect_full(lambda index=index, act=act: act(index), path):  # type: ignore[misc]
                counts["failures"] += 1
                require(found(path) == before, f"{act.__name__} with {leave} pages: another state")
                with Index.open(path) as reader:
                    require(reader.verify() == [], str(reader.verify()))
                index.collect_garbage()
                require(found(path) == before, "garbage collection on a full disk")
                if leave % 2:  # another writer goes on
                    index.close()
                    index = Index.open(path, writable=True)
            (place / "ballast").unlink()
            act(index)
            index.close()
            with Index.open(path) as reader:
                require(reader.verify() == [], "afterwards")
                require(act is not change or "new6" in reader, "the change is not there")
            shutil.rmtree(path)
    fill(place, 0)
    require(
        expect_full(lambda: Index.create(place / "new", Index.open(base).codebook), place), "created on a full disk"
    )
    (place / "ballast").unlink()
    Index.create(place / "new", Index.open(base).codebook).close()
    return counts


def under_a_limit(place: Path, base: Path) -> dict[str, int]:
    """Let the kernel refuse every file above a size, for many sizes."""
    counts = {"attempts": 0, "failures": 0}
    sys.dont_write_bytecode = True  # half of it would be left, and no later import survives that
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for act in (change, compact):
        for limit in (0, 1, 64, 200, 300, 500, 800, 1200, 1600, 2000, 2500, 3000, 4000, 8000, 64000):
            path = place / f"{act.__name__}-{limit}"
            shutil.copytree(base, path)
            before = found(path)
            index = Index.open(path, writable=True)
            counts["attempts"] += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                full = expect_full(lambda index=index, act=act: act(index), path)  # type: ignore[misc]
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            if full:
                counts["failures"] += 1
                require(found(path) == before, f"{act.__name__} under {limit} bytes: another state")
            act(index)
            index.collect_garbage()
            index.close()
            require(Index.open(path).verify() == [], "afterwards")
    return counts


def main(folder: Path, ways: list[str]) -> None:
    """Try both, or the ones that are named."""
    place, base = folder / "place", folder / "base"
    place.mkdir()
    make_base(base)
    warm_up(folder)  # numba keeps its loops on a disk too
    report: dict[str, Any] = {}
    if "limit" in ways:
        report["limit"] = under_a_limit(folder, base)
    if "tmpfs" in ways:
        reason = mount(place)
        try:
            report["tmpfs"] = {"skipped": reason} if reason else on_tmpfs(place, base)
        finally:
            if not reason:
                ctypes.CDLL(None).umount2(str(place).encode(), 2)
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["tmpfs", "limit"])
