"""The photos of one archive into another with the same codebook: files are copied, no posting is read."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ctxdeploy.core.errors import ArchiveError, ConfigError, MismatchError
from ctxdeploy.index.storage.format import map_bytes
from ctxdeploy.index.storage.manifest import NAMES, SHARDS, VECTORS, FileEntry, Manifest, store
from ctxdeploy.index.storage.names import name_tensors, write_names
from ctxdeploy.index.storage.shard import HeldShard, open_shard, without
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.writer import Writer

CONFLICTS = ("error", "keep", "replace")


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge did, in photos.

    Attributes:
        added: new names.
        replaced: names of which the other archive's photo was taken.
        kept: names of which this archive's photo was kept.
    """

    added: int
    replaced: int
    kept: int


def merge(writer: Writer, other: State, conflicts: str) -> Merged:
    """Take the photos of another archive; durable and visible with the next commit of the writer.

    Args:
        writer: of the archive that grows.
        other: the other archive.
        conflicts: for names in both: "error", "keep" this archive's photo, or "replace" it.

    Raises:
        ConfigError: names in both and ``conflicts`` is "error", or another value.
        MismatchError: another codebook, model, preprocessing or way of aggregating.
        ArchiveError: a file of the other archive is damaged.
        StorageError: this archive cannot be written.
    """
    if conflicts not in CONFLICTS:
        raise ConfigError(f"conflicts {conflicts!r} is not one of {', '.join(CONFLICTS)}")
    _check_alike(writer.state.manifest, other.manifest)
    writer.flush()
    taken: list[HeldShard] = []
    replaced: list[tuple[int, int]] = []
    kept = 0
    clashes = list(writer.clashes(other.shards))
    if conflicts == "error" and any(clashes):
        names = [shard.name(number) for shard, found in zip(other.shards, clashes, strict=True) for number, _ in found]
        raise ConfigError(
            f"{len(names)} photos are in both archives, such as {names[0]!r}: "
            "say which to take, --conflicts keep or --conflicts replace"
        )
    for entry, shard, found in zip(other.manifest.shards, other.shards, clashes, strict=True):
        if conflicts == "keep":
            kept += len(found)
            shard = shard.without([number for number, _ in found])
        else:
            replaced += [place for _, place in found]
        if len(shard.removed) == len(shard):
            continue
        taken.append(_copied(writer, HeldShard(entry, shard)))
    writer.replace_shards((*without(writer.shards, replaced), *taken))
    live = sum(len(held.shard) - len(held.shard.removed) for held in taken)
    if writer.failures:
        writer.forget_failures(name for held in taken for name in held.shard.live_names())
    writer.record_failures(
        record for name, record in other.failures.items() if name not in writer and name not in writer.failures
    )
    return Merged(added=live - len(replaced), replaced=len(replaced), kept=kept)


def difference(mine: Manifest, other: Manifest) -> tuple[str, object, object] | None:
    """Return what two archives must have in common and have not: its name, and what it is in each; None if nothing."""
    facts = [
        ("codebook", mine.codebook_id or "none", other.codebook_id or "none"),
        ("aggregation", mine.config.aggregation, other.config.aggregation),
        ("binary", mine.config.binary, other.config.binary),
        ("assignment", mine.config.assignment, other.config.assignment),
        ("geometry", mine.config.geometry, other.config.geometry),
        ("global_vectors", mine.config.global_vectors, other.config.global_vectors),
        ("global_search", mine.config.global_search, other.config.global_search),
        ("quantiser", mine.quantiser and mine.quantiser.sha256, other.quantiser and other.quantiser.sha256),
        ("global_dim", mine.config.global_dim, other.config.global_dim),
        ("model", mine.source and mine.source.model, other.source and other.source.model),
        ("preprocessing", mine.source and mine.source.preprocessing, other.source and other.source.preprocessing),
    ]
    return next((fact for fact in facts if fact[1] != fact[2]), None)


def _check_alike(mine: Manifest, other: Manifest) -> None:
    found = difference(mine, other)
    if found is not None:
        name, here, there = found
        alike = "index both alike: one model, one --codebook, one --geometry, one --global"
        if name == "quantiser":
            alike = (
                "codes and cells of global vectors are those of the photos that an archive was begun with: begin "
                "both as copies of one archive, or index with --global fp16 or int8 and no --global-cells"
            )
        raise MismatchError(f"the archives cannot be merged: {name} is {here} here and {there} there; {alike}")


def _copied(writer: Writer, held: HeldShard) -> HeldShard:
    """Copy a shard's file and the list of its names into the writer's archive; its removed photos stay so."""
    source, folder = held.shard.path.parent.parent, writer.folder
    shard_file = _copy(source, held.entry, folder, SHARDS)
    if held.entry.names is None:  # format 1
        names = write_names(folder, name_tensors(held.shard.all_names()))
    else:
        names = _copy(source, held.entry.names, folder, NAMES)
    vectors = None if held.entry.vectors is None else _copy(source, held.entry.vectors, folder, VECTORS)
    entry = replace(held.entry, **shard_file.metadata(), names=names, vectors=vectors, removed=0, tombstones=None)
    opened = open_shard(folder, entry, writer.state.manifest)
    return HeldShard(entry, replace(opened, removed=np.asarray(held.shard.removed)))


def _copy(source: Path, entry: FileEntry, folder: Path, kind: str) -> FileEntry:
    path = source / entry.file
    data = np.frombuffer(map_bytes(path), np.uint8)
    copied = store(folder, f"{kind}/{{}}.safetensors", [data])
    if copied.sha256 != entry.sha256:
        raise ArchiveError(f"{path} is damaged: its sha256 is not that of the manifest; see  ctxdeploy repair {source}")
    return copied
