"""Reads every byte of an archive and reports what is wrong; the slow counterpart of opening."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ctxdeploy.core.errors import ArchiveError, CtxdeployError
from ctxdeploy.index.maintenance.snapshots import pin_state, snapshot_names
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage import statistics
from ctxdeploy.index.storage.failures import read_failures
from ctxdeploy.index.storage.layout import Layout
from ctxdeploy.index.storage.manifest import FileEntry, Manifest, ShardEntry
from ctxdeploy.index.storage.names import doubled_names, read_names
from ctxdeploy.index.storage.pins import pin_current
from ctxdeploy.index.storage.shard import Shard, open_shard, read_tombstones
from ctxdeploy.index.storage.state import read_codebook, read_quantiser
from ctxdeploy.index.storage.vectors import vector_problems


def verify(folder: Path) -> list[str]:
    """Return one line for each problem of the state in force and of the snapshots; an empty list if there is none."""
    problems: list[str] = []
    checked: set[FileEntry] = set()
    try:
        held = pin_current(folder)
    except ArchiveError as error:
        return [str(error)]
    try:
        problems += _state_problems(folder, held.manifest, checked)
    finally:
        held.release()
    for name in snapshot_names(folder):
        try:
            held = pin_state(folder, name)
        except CtxdeployError as error:
            if name in snapshot_names(folder):  # else it was removed meanwhile
                problems.append(f"snapshot {name}: {error}")
            continue
        try:
            problems += [f"snapshot {name}: {text}" for text in _state_problems(folder, held.manifest, checked)]
        finally:
            held.release()
    return list(dict.fromkeys(problems))


def _state_problems(folder: Path, manifest: Manifest, checked: set[FileEntry]) -> Iterator[str]:
    """Yield the problems of a state; a file that is in ``checked`` has been read already."""
    for file in manifest.files:
        if file not in checked and not isinstance(file, ShardEntry):
            yield from _problem(partial(check_file, folder, file))
    yield from _problem(lambda: check_codebook(folder, manifest))
    yield from _problem(lambda: read_failures(folder, manifest.failures))
    opened = []
    for entry in manifest.shards:
        damaged = [] if entry in checked else [*_problem(partial(check_file, folder, entry))]
        yield from damaged
        try:
            shard = open_shard(folder, entry, manifest)
        except ArchiveError as error:
            yield str(error)
            continue
        opened.append(shard)
        if entry not in checked:
            # The list of names beside a damaged shard is sound, whatever the shard's own names have become.
            yield from shard_problems(folder, replace(entry, names=None) if damaged else entry, shard, manifest)
    for number in sorted({later[0] for _, later in doubled_names(opened)}):
        yield f"{opened[number].path}: a name occurs twice"
    if manifest.statistics is not None and len(opened) == len(manifest.shards):
        yield from _problem(lambda: check_statistics(folder, manifest, opened))
    checked.update(manifest.files)


def _problem(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except CtxdeployError as error:
        yield str(error)


def check_codebook(folder: Path, manifest: Manifest) -> None:
    """Raise ``ArchiveError`` unless the codebook is the manifest's, its centroids finite, and its id theirs; and unless
    the quantiser, if there is one, is the manifest's."""
    read_quantiser(folder, manifest, check=True)
    codebook = read_codebook(folder, manifest, check=True)
    if codebook is not None and manifest.codebook is not None:
        codebook.check(str(folder / manifest.codebook.file))


def check_file(folder: Path, entry: FileEntry) -> None:
    """Raise ``ArchiveError`` unless a file has its size and hash."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise file_format.unreadable(path, error) from error
    if size != entry.bytes:
        raise ArchiveError(f"{path} is damaged: it has {size} bytes instead of {entry.bytes}")
    file_format.check_hash(path, entry.sha256)


def shard_problems(folder: Path, entry: ShardEntry, shard: Shard, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the content of a shard, whatever its hash, and with the list of its names."""
    layout = Layout.of(manifest)
    if shard.vectors is not None and entry.vectors is not None:
        for problem in vector_problems(shard.vectors):
            yield f"{folder / entry.vectors.file} is damaged: {problem}"
    for problem in (*_posting_problems(shard), *_code_problems(shard, layout), *_geometry_problems(shard, layout)):
        yield f"{shard.path} is damaged: {problem}"
    if entry.names is not None:
        names = entry.names
        yield from _problem(lambda: check_names(folder, names, shard))
    yield from _problem(lambda: read_tombstones(folder, entry))


def check_names(folder: Path, entry: FileEntry, shard: Shard) -> None:
    """Raise ``ArchiveError`` unless a list of names is sound and that of the shard."""
    if read_names(folder, entry, len(shard)) != shard.all_names():
        raise ArchiveError(f"{folder / entry.file} is damaged: its names are not those of {shard.path.name}")


def check_statistics(folder: Path, manifest: Manifest, shards: list[Shard]) -> None:
    """Raise ``ArchiveError`` unless the statistics, if there are any, are those of the shards."""
    if manifest.statistics is None:
        return
    stored = statistics.read_statistics(folder, manifest.statistics, manifest)
    found = statistics.compute(shards, manifest.words)
    same = np.array_equal(stored.word_counts, found.word_counts)
    for shard, mine, theirs in zip(shards, stored.norms, found.norms, strict=True):
        live = shard.live[: len(shard)]
        # Logarithms may be rounded differently by another version of numpy.
        same = same and bool(np.allclose(mine[live], theirs[live], rtol=1e-9, atol=0.0))
    if not same:
        path = folder / manifest.statistics.file
        raise ArchiveError(f"{path} is damaged: word_counts or norms are not those of the shards")


def _posting_problems(shard: Shard) -> Iterator[str]:
    if shard.images.size and int(shard.images.max()) >= len(shard):
        yield f"images holds {int(shard.images.max())}, but there are {len(shard)} photos"
        return
    if not np.array_equal(np.bincount(shard.images, minlength=len(shard)), shard.counts):
        yield "counts are not the numbers of postings of the photos"
    rising = shard.images[1:] > shard.images[:-1]
    borders = shard.word_offsets[(shard.word_offsets > 0) & (shard.word_offsets < shard.images.size)]
    rising[borders.astype(np.int64) - 1] = True
    if not rising.all():
        yield "images are not rising within every word"


def _code_problems(shard: Shard, layout: Layout) -> Iterator[str]:
    if not layout.binary:
        if not np.isfinite(shard.codes).all():
            yield "codes hold NaN or infinity"
        return
    used = layout.dim % 64
    if used and bool((shard.codes[-1] >> np.uint64(used)).any()):
        yield "codes have bits set beyond the dimension"


def _geometry_problems(shard: Shard, layout: Layout) -> Iterator[str]:
    words, offsets, frames = shard.geometry_words, shard.geometry_offsets, shard.geometry_frames
    if words is None or offsets is None or frames is None:
        return
    if words.size and int(words.max()) >= layout.words:
        yield f"geometry_words holds {int(words.max())}, but there are {layout.words} words"
    rising = words[1:] >= words[:-1]
    rising[offsets[(offsets > 0) & (offsets < words.size)].astype(np.int64) - 1] = True
    if not rising.all():
        yield "geometry_words do not rise within every photo"
    if not np.isfinite(frames).all():
        yield "geometry_frames hold NaN or infinity"
    codes, sizes, steps, used = shard.geometry_codes, shard.geometry_sizes, shard.geometry_steps, layout.dim % 64
    if codes is not None and used and bool((codes[:, -1] >> np.uint64(used)).any()):
        yield "geometry_codes have bits set beyond the dimension"
    if sizes is not None and not np.array_equal(sizes[:, 0] == 0, sizes[:, 1] == 0):
        yield "geometry_sizes hold a width without a height, or a height without a width"
    if steps is not None and not (np.isfinite(steps) & (steps >= 0)).all():
        yield "geometry_steps hold NaN, infinity or a number below 0"
