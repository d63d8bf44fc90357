"""The changes of an archive that are interrupted at every point, and what has to be true afterwards."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archives import DIM, NAMES, answers, codebook, files, global_vectors, pool, positions, referenced

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.types import FileState, GlobalDescriptor, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Index, IndexConfig, is_segment, open_segment, write_segment

POOL = pool()
GLOBAL = [GlobalDescriptor(vector=vector) for vector in global_vectors()]
CODEBOOK = codebook()
CONFIG = IndexConfig(shard_images=4, idf=True, geometry="descriptors", global_vectors="int8", global_dim=DIM)
QUERIES = [POOL[1], POOL[5]]
Job = Callable[[Path], None]


def photo(name: str, number: int) -> PhotoDescriptors:
    """Return one of the pool's photos under a name."""
    vectors = POOL[number]
    descriptors = LocalDescriptors(vectors=vectors, positions=positions(vectors).astype("float32"))
    file = FileState(size=number, mtime_ns=7)
    return PhotoDescriptors(
        name=name,
        descriptors=descriptors,
        global_descriptor=GLOBAL[number],
        size=(4000, 3000 + number),
        file=file,
    )


def make_base(path: Path) -> None:
    """Write an archive of several states: 12 photos in six shards, some removed or replaced since the snapshot."""
    with Index.create(path, CODEBOOK, config=CONFIG) as index:
        index.add_many(photo(name, number) for number, name in enumerate(NAMES[:6]))
        index.record_failures([{"name": "bad", "reason": "cut", "stage": "decode"}])
        index.snapshot("kept")
        for number, name in enumerate(NAMES[6:10]):
            index.add_many([photo(name, number)])
            index.commit()
        index.remove([NAMES[0], NAMES[6]])
        index.add_many([photo(NAMES[1], 8)], replace=True)
    other = path.with_name(path.name + "-other")
    with Index.create(other, CODEBOOK, config=CONFIG) as index:
        index.add_many([photo(NAMES[2], 9), photo("o1", 4), photo("o2", 5), photo("o3", 6)])
        index.commit()
        index.remove("o2")
    for number, names in enumerate((("s1", NAMES[4], "s2"), ("s2", "s3", NAMES[8]))):
        part = path.with_name(f"{path.name}-part{number}")
        with Index.create(part, CODEBOOK, config=CONFIG) as index:
            index.add_many(photo(name, 3 * number + place) for place, name in enumerate(names))
            index.record_failures([{"name": f"bad{number}", "reason": "cut"}, {"name": "s1", "reason": "cut"}])
            index.commit()
            write_segment(index.state, part, path.with_name(f"{path.name}-segment{number}"), f"{number:064d}", {})
    flipped = path.with_name(path.name + "-flipped")
    shutil.copytree(path, flipped)
    entry = max(
        file for file in (flipped / "shards").iterdir() if file.name in (flipped / current(flipped)).read_text()
    )
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)


def current(path: Path) -> str:
    """Return the file name of the manifest in force."""
    return (path / "CURRENT").read_text().split()[0]


def add(path: Path) -> None:
    """Add, more than a shard holds."""
    with Index.open(path, writable=True) as index:
        index.add_many((photo(f"new{number}", number) for number in range(6)), replace=True)
        index.record_failures([{"name": "worse", "reason": "cut"}])


def change(path: Path) -> None:
    """Replace and remove."""
    with Index.open(path, writable=True) as index:
        index.add_many([photo(NAMES[2], 6), photo(NAMES[4], 0)], replace=True)
        index.remove([NAMES[3], NAMES[7]])


def compact(path: Path) -> None:
    """Rewrite all shards."""
    with Index.open(path, writable=True) as index:
        index.compact(purge=True)


def sort(path: Path) -> None:
    """Write all shards anew, by name."""
    with Index.open(path, writable=True) as index:
        index.compact(by_name=True)


def merge(path: Path) -> None:
    """Take the photos of another archive."""
    with Index.open(path, writable=True) as index:
        index.merge(path.parent / "base-other", conflicts="replace")


def publish(path: Path) -> None:
    """Take two segments with names of the archive and of each other."""
    with Index.open(path, writable=True) as index:
        index.publish(path.with_name(f"base-segment{number}") for number in range(2))


def segment(path: Path) -> None:
    """Make a segment of the archive."""
    target = segment_of(path)
    with Index.open(path, writable=True) as index:
        index.compact(purge=True)
        if not is_segment(target):
            write_segment(index.state, path, target, "5" * 64, {})


def segment_of(path: Path) -> Path:
    """Return where the job ``segment`` puts it."""
    return path.with_name(f"{path.name}-made")


def collect(path: Path) -> None:
    """Remove what is not needed."""
    with Index.open(path, writable=True) as index:
        index.collect_garbage()


def snapshot(path: Path) -> None:
    """Make a snapshot, without a lock."""
    with Index.open(path) as index:
        if "second" not in [info.name for info in index.snapshots()]:
            index.snapshot("second")


def forget(path: Path) -> None:
    """Remove a snapshot."""
    with Index.open(path) as index:
        if index.snapshots():
            index.remove_snapshot("kept")


def repair(path: Path) -> None:
    """Repair an archive with a damaged shard."""
    Index.repair(path)


def create(path: Path) -> None:
    """Make an archive."""
    try:
        Index.create(path, CODEBOOK, config=CONFIG).close()
    except ArchiveError as error:
        if "is an archive already" not in str(error):
            raise


JOBS: dict[str, Job] = {
    job.__name__: job
    for job in (add, change, compact, sort, merge, publish, segment, collect, snapshot, forget, repair, create)
}


def start(base: Path, path: Path, job: str) -> None:
    """Make the folder in which a job begins."""
    if job != "create":
        shutil.copytree(base.with_name("base-flipped") if job == "repair" else base, path)


def state(path: Path, at: str | None = None) -> Any:
    """Return what an archive answers; a text if it does not open."""
    try:
        with Index.open(path, at=at) as index:
            return answers(index, QUERIES)
    except (ArchiveError, ConfigError) as error:
        return f"{type(error).__name__}: {str(error).replace(str(path), '')[:60]}"


def check(path: Path, job: str, before: Any, after: Any, kept: Any) -> Any:
    """Check an archive whose job was interrupted, run the job again, and return the state that was found."""
    found = state(path)
    require(found in (before, after), f"{job} in {path} left a mixture: {found}")
    snapshots = (kept, "ConfigError: there is no snapshot") if job == "forget" else (kept,)
    if job not in ("create", "repair"):
        held = state(path, "kept")
        require(
            held in snapshots or str(held).startswith(snapshots[-1]) if job == "forget" else held == kept, str(held)
        )
        with Index.open(path) as index:
            require(index.verify() == [], f"{job}: {index.verify()}")
    require(not segment_of(path).exists() or is_segment(segment_of(path)), f"{job}: half a segment")
    JOBS[job](path)
    if job == "segment":
        require(len(open_segment(segment_of(path)).manifest.shards) > 0, "a segment without shards")
    require(state(path) == after, f"{job} in {path} was not completed by a second run")
    clean(path)
    require(state(path) == after, f"{job} in {path}: garbage collection changed the answers")
    require(job == "repair" or Index.open(path).verify() == [], job)
    return found


def clean(path: Path) -> None:
    """Collect garbage, and check that what is left is what is referenced."""
    for abandoned in (path / "snapshots").glob(".tmp-*"):
        os.utime(abandoned, (0, 0))  # younger ones may be a running process's
    with Index.open(path, writable=True) as index:
        index.collect_garbage()
    require(files(path) == referenced(path), f"{path}: {files(path) ^ referenced(path)}")


def require(holds: bool, text: str) -> None:
    """Raise unless something holds."""
    if not holds:
        raise ValueError(text)


ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


def warm_up(folder: Path) -> None:
    """Compile every loop, for the children that are forked later."""
    shutil.copytree(folder / "base", folder / "warm")
    for job in ("add", "change", "merge", "publish", "compact", "collect"):
        JOBS[job](folder / "warm")
    state(folder / "warm")
