"""Reads every byte of an archive and reports what is wrong; the slow counterpart of opening."""

import hashlib
from pathlib import Path

import numpy as np

from ctxdeploy.errors import ArchiveError
from ctxdeploy.index.failures import read_failures
from ctxdeploy.index.manifest import FileEntry, Manifest, ShardEntry, read_current
from ctxdeploy.index.shard import Shard, open_shard
from ctxdeploy.index.snapshot import read_codebook


def verify(folder: Path) -> list[str]:
    """Return one line for each problem of the state in force on disk; an empty list if there is none."""
    try:
        manifest = read_current(folder)
    except ArchiveError as error:
        return [str(error)]
    problems = [problem for entry in manifest.files for problem in _file_problems(folder, entry)]
    for check in (lambda: read_codebook(folder, manifest), lambda: read_failures(folder, manifest.failures)):
        try:
            check()
        except ArchiveError as error:
            problems.append(str(error))
    seen: set[str] = set()
    for entry in manifest.shards:
        problems += _shard_problems(folder, entry, manifest, seen)
    return list(dict.fromkeys(problems))


def _file_problems(folder: Path, entry: FileEntry) -> list[str]:
    path = folder / entry.file
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        return [f"{path} cannot be read: {error.strerror or error}"]
    if size != entry.bytes:
        return [f"{path} has {size} bytes instead of {entry.bytes}"]
    return [] if sha256 == entry.sha256 else [f"{path} is damaged: its sha256 is not the recorded one"]


def _shard_problems(folder: Path, entry: ShardEntry, manifest: Manifest, seen: set[str]) -> list[str]:
    try:
        shard = open_shard(folder, entry, manifest)
    except ArchiveError as error:
        return [str(error)]
    problems = _posting_problems(shard) + _code_problems(shard, manifest)
    names = shard.all_names()
    if len(set(names)) != len(names) or not seen.isdisjoint(names):
        problems.append("a name occurs twice")
    seen.update(names)
    return [f"{shard.path}: {problem}" for problem in problems]


def _posting_problems(shard: Shard) -> list[str]:
    if shard.images.size and int(shard.images.max()) >= len(shard):
        return [f"images holds {int(shard.images.max())}, but there are {len(shard)} photos"]
    problems = []
    if not np.array_equal(np.bincount(shard.images, minlength=len(shard)), shard.counts):
        problems.append("counts are not the numbers of postings of the photos")
    rising = shard.images[1:] > shard.images[:-1]
    borders = shard.word_offsets[(shard.word_offsets > 0) & (shard.word_offsets < shard.images.size)]
    rising[borders.astype(np.int64) - 1] = True
    if not rising.all():
        problems.append("images are not rising within every word")
    return problems


def _code_problems(shard: Shard, manifest: Manifest) -> list[str]:
    if not manifest.config.binary:
        return [] if np.isfinite(shard.codes).all() else ["codes hold NaN or infinity"]
    used = manifest.dim % 64
    if used and bool((shard.codes[-1] >> np.uint64(used)).any()):
        return ["codes have bits set beyond the dimension"]
    return []
