"""Makes a damaged archive whole again: what is damaged goes, and a list says which photos went with it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.errors import ArchiveError, CtxdeployError
from ctxdeploy.core.files import write_file
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import json_text
from ctxdeploy.index.maintenance.verify import check_codebook, check_file, check_names, check_statistics, shard_problems
from ctxdeploy.index.storage.failures import read_failures
from ctxdeploy.index.storage.format import NotDamagedError, unreadable
from ctxdeploy.index.storage.lease import WriterLease
from ctxdeploy.index.storage.manifest import (
    CURRENT,
    FileEntry,
    Manifest,
    ShardEntry,
    manifest_name,
    manifest_numbers,
    parse,
    publish,
)
from ctxdeploy.index.storage.names import NameIndex, doubled_names, name_tensors, read_names, write_names
from ctxdeploy.index.storage.pins import read_current
from ctxdeploy.index.storage.shard import (
    HeldShard,
    Shard,
    not_empty,
    open_shard,
    read_tombstones,
    with_tombstones,
    without,
)
from ctxdeploy.index.storage.statistics import with_statistics


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What a repair did.

    Attributes:
        problems: one line for each thing that was damaged.
        lost: names of the photos that are gone, to be indexed again.
        unnamed: photos that are gone, but whose names are damaged too.
        back: photos that had been removed and are back, because the record of their removal is damaged.
        returned: names, among which are those of the photos that are back: which they are, nothing says any more.
        list: JSON lines with the lost names, in the archive; None if there is none.
        manifest: the number of the state in force now.
    """

    problems: tuple[str, ...]
    lost: tuple[str, ...]
    unnamed: int
    back: int
    returned: tuple[str, ...]
    list: Path | None
    manifest: int

    def metadata(self) -> dict[str, Any]:
        """Return the report as JSON prints it."""
        return {
            "problems": list(self.problems),
            "lost": list(self.lost),
            "unnamed": self.unnamed,
            "back": self.back,
            "returned": list(self.returned),
            "list": None if self.list is None else str(self.list),
            "manifest": self.manifest,
        }


@dataclass(kw_only=True)
class _Findings:
    problems: list[str]
    lost: list[str]
    doubtful: list[str]
    unnamed: int = 0
    returned: dict[int, int]


def repair(folder: Path) -> Repaired:
    """Check every byte of the state in force, and publish a state without what is damaged.

    A damaged or missing shard is dropped, and so is one with damaged global vectors. A damaged list of names is written
    again from its shard, damaged statistics from the postings. Damaged tombstones are forgotten: photos that were
    removed return, unless a newer photo has their name. Damaged failures are forgotten. Of photos of one name, the last
    stays. If ``CURRENT`` or the manifest it names is damaged, the newest sound manifest takes its place. Damaged files
    stay until garbage collection.

    Raises:
        ArchiveError: not an archive, being written by another process, no sound manifest, or the codebook is damaged:
            without it no descriptor can be compared.
        NotDamagedError: a newer ctxdeploy wrote the archive, or a file cannot be read now (no permission, too many open
            files): what this process cannot read is not damaged.
        StorageError: the folder cannot be written.
    """
    if not folder.is_dir() or not ((folder / CURRENT).exists() or manifest_numbers(folder)):
        raise ArchiveError(f"{folder} is not an archive (no {CURRENT}): make one with  ctxdeploy index")
    lease = WriterLease(folder)
    try:
        return _repair(folder, lease)
    finally:
        lease.release()


def _repair(folder: Path, lease: WriterLease) -> Repaired:
    manifest, problems = _newest_sound(folder)
    try:
        check_codebook(folder, manifest)
    except NotDamagedError:
        raise
    except CtxdeployError as error:
        raise ArchiveError(f"{error}; put a copy of it in its place: no other file says what its words were") from error
    findings = _Findings(problems=problems, lost=[], doubtful=[], returned={})
    sound: list[HeldShard] = []
    for entry in manifest.shards:
        found = _sound_shard(folder, entry, manifest, findings, len(sound))
        if found is not None:
            sound.append(found)
    failures = _sound_failures(folder, manifest, findings)
    kept, back, returned = remove_replaced(sound, findings.returned)
    findings.lost += missing_names(findings.doubtful, kept)
    kept, doubled = without_doubled(kept)
    findings.problems += doubled
    shards = [held.shard for held in kept]
    findings.problems += _statistics_problems(folder, manifest, shards, findings)
    number, path = manifest.number, None
    if findings.problems:
        number = max(manifest_numbers(folder)) + 1
        manifest = replace(manifest, number=number, failures=failures, statistics=None)
        path = _publish(folder, lease, manifest, kept, findings.lost)
    return Repaired(
        problems=tuple(findings.problems),
        lost=tuple(findings.lost),
        unnamed=findings.unnamed,
        back=back,
        returned=tuple(returned),
        list=path,
        manifest=number,
    )


def _publish(
    folder: Path, lease: WriterLease, manifest: Manifest, kept: Sequence[HeldShard], lost: Sequence[str]
) -> Path | None:
    """Put a state of these shards in force; return the list of lost photos, None if none is lost."""
    entries = tuple(with_tombstones(folder, _with_names(folder, held)) for held in kept)
    manifest, path = replace(manifest, shards=entries), None
    with lease.fenced() as through:
        if lost:
            path = folder / f"lost-{manifest.number:06d}.jsonl"
            lines = "".join(json_text({"name": name}) + "\n" for name in lost)
            write_file(path, [lines.encode()], through=through)
        publish(folder, with_statistics(folder, manifest, [held.shard for held in kept], through)[0], through)
    return path


def _newest_sound(folder: Path) -> tuple[Manifest, list[str]]:
    try:
        return read_current(folder), []
    except NotDamagedError:
        raise
    except ArchiveError as error:
        problems = [str(error)]
    for number in reversed(manifest_numbers(folder)):
        path = folder / manifest_name(number)
        try:
            return parse(_read(path), str(path)), problems
        except NotDamagedError:
            raise
        except ArchiveError as error:
            problems.append(str(error))
    raise ArchiveError(f"{folder} has no sound manifest ({problems[0]}): restore it from a copy, or index again")


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _sound_shard(
    folder: Path, entry: ShardEntry, manifest: Manifest, findings: _Findings, place: int
) -> HeldShard | None:
    """Return a shard if its file is sound, with its names and tombstones made sound; else note what is lost."""
    bare = replace(entry, removed=0, names=None, tombstones=None)
    vectors = entry.vectors
    problems = _problems(lambda: check_file(folder, entry))
    if vectors is not None:
        problems += _problems(lambda: check_file(folder, vectors))
    shard = None
    if not problems:
        try:
            shard = open_shard(folder, bare, manifest)
            problems += shard_problems(folder, bare, shard, manifest)
        except NotDamagedError:
            raise
        except ArchiveError as error:
            problems.append(str(error))
    if shard is None or problems:
        findings.problems += problems
        _note_lost(folder, entry, findings)
        return None
    removed, damaged = _removed(folder, entry)
    if damaged:
        findings.problems += damaged
        findings.returned[place] = entry.removed
        entry = replace(entry, removed=0, tombstones=None)
    names = entry.names
    wrong = [] if names is None else _names_problems(folder, names, shard)
    findings.problems += wrong
    return HeldShard(replace(entry, names=None if wrong else names), replace(shard, removed=removed))


def _names_problems(folder: Path, names: FileEntry, shard: Shard) -> list[str]:
    return _problems(lambda: check_file(folder, names)) or _problems(lambda: check_names(folder, names, shard))


def _statistics_problems(folder: Path, manifest: Manifest, shards: list[Shard], findings: _Findings) -> list[str]:
    file = manifest.statistics
    if file is None:
        return []
    problems = _problems(lambda: check_file(folder, file))
    if problems or findings.problems:  # they are computed anew anyway, for other shards perhaps
        return problems
    return _problems(lambda: check_statistics(folder, manifest, shards))


def _problems(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except NotDamagedError:
        raise
    except ArchiveError as error:
        return [str(error)]
    return []


def _removed(folder: Path, entry: ShardEntry) -> tuple[Any, list[str]]:
    """Return the removed photos of a shard, and what is wrong with their file: then there are none."""
    file = entry.tombstones
    if file is None:
        return np.empty(0, np.uint16), []
    problems = _problems(lambda: check_file(folder, file)) or _problems(lambda: read_tombstones(folder, entry))
    return np.empty(0, np.uint16) if problems else read_tombstones(folder, entry), problems


def _note_lost(folder: Path, entry: ShardEntry, findings: _Findings) -> None:
    """Note the names of a shard that is dropped, from the list beside it, but for removed photos if they are known."""
    try:
        if entry.names is None:
            raise ArchiveError("format 1 has no list of names")
        names = read_names(folder, entry.names, entry.images)
    except NotDamagedError:
        raise
    except ArchiveError:
        findings.unnamed += entry.live
        return
    removed, damaged = _removed(folder, entry)
    gone = set(removed.tolist())
    live = [name for number, name in enumerate(names) if number not in gone]
    (findings.doubtful if damaged else findings.lost).extend(live)


def _sound_failures(folder: Path, manifest: Manifest, findings: _Findings) -> FileEntry | None:
    problems = _problems(lambda: read_failures(folder, manifest.failures))
    findings.problems += problems
    return None if problems else manifest.failures


def _with_names(folder: Path, held: HeldShard) -> HeldShard:
    if held.entry.names is not None:
        return held
    names = write_names(folder, name_tensors(held.shard.all_names()))
    return HeldShard(replace(held.entry, names=names), held.shard)


def missing_names(names: Sequence[str], sound: Sequence[HeldShard]) -> list[str]:
    """Return the names of which no photo is there: of a lost shard some may have been removed, or replaced."""
    if not names:
        return []
    table = NameIndex([held.shard for held in sound])
    return [name for name in dict.fromkeys(names) if not any(sound[s].shard.live[n] for s, n in table.find(name))]


def remove_replaced(sound: Sequence[HeldShard], returned: dict[int, int]) -> tuple[Sequence[HeldShard], int, list[str]]:
    """Remove again what returned from damaged tombstones, where another shard has a photo of that name.

    Args:
        sound: the shards.
        returned: of those whose tombstones are damaged, how many photos had been removed.

    Returns:
        The shards, how many photos are back, and names among which are theirs.
    """
    if not returned:
        return sound, 0, []
    table = NameIndex([held.shard for held in sound])
    result, back, names = list(sound), 0, list[str]()
    for place, count in returned.items():
        entry, shard = sound[place]
        doubled = []
        for number, name in enumerate(shard.all_names()):
            others = [(s, n) for s, n in table.find(name) if s != place and sound[s].shard.live[n]]
            # Of two shards whose tombstones are both damaged, the later one has the newer photo.
            if any(s not in returned or s > place for s, _ in others):
                doubled.append(number)
        result[place] = HeldShard(entry, shard.without(doubled))
        if len(doubled) < count:
            back += count - len(doubled)
            names += result[place].shard.live_names()
    return not_empty(result), back, names


def without_doubled(sound: Sequence[HeldShard]) -> tuple[Sequence[HeldShard], list[str]]:
    """Of photos of one name keep the last: nothing else could ever remove the others. Return also what was wrong."""
    places = [place for place, _ in doubled_names([held.shard for held in sound])]
    if not places:
        return sound, []
    counts = Counter(shard for shard, _ in places)
    problems = [f"{sound[s].shard.path}: {counts[s]} names occur again later" for s in sorted(counts)]
    return not_empty(without(sound, places)), problems
