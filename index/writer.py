"""What a writer holds between two commits, and how a commit makes it durable."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctxdeploy.errors import ConfigError
from ctxdeploy.index.aggregate import Aggregated
from ctxdeploy.index.failures import Failures, normalised, write_failures
from ctxdeploy.index.lock import WriterLock
from ctxdeploy.index.manifest import CURRENT, SHARDS, ShardEntry, manifest_name, publish, read_current
from ctxdeploy.index.shard import ShardBuilder, encode_name, open_shard
from ctxdeploy.index.snapshot import Snapshot
from ctxdeploy.index.storage import TEMPORARY, storing, sync_folder

# Then a shard is written though it is not full: 0.5 GB of postings take 1.5 GB while they are sorted.
MAX_PENDING_BYTES = 1 << 29
_OURS = re.compile(r"manifest-\d+\.json|failures-\d+\.jsonl")


class Writer:
    """Additions since the last commit. Nothing of them is visible to others before ``commit`` returns.

    Args:
        folder: the archive.
        lock: held by the caller and kept until ``close``.
        snapshot: the state in force.
    """

    def __init__(self, folder: Path, lock: WriterLock, snapshot: Snapshot) -> None:
        self._folder = folder
        self._lock = lock
        self._snapshot = snapshot
        self._number = snapshot.manifest.number
        self._builder = self._new_builder()
        self._written: list[ShardEntry] = []
        self._known = snapshot.known()
        self._committed_failures: Failures = dict(snapshot.failures)
        self._failures = dict(self._committed_failures)

    def _new_builder(self) -> ShardBuilder:
        manifest = self._snapshot.manifest
        return ShardBuilder(
            words=manifest.words,
            dim=manifest.dim,
            binary=manifest.config.binary,
            codebook_id=manifest.codebook_id,
        )

    @property
    def known(self) -> dict[str, tuple[int, int]]:
        """Size and time of change by name, of the photos of the archive and of those added since, in order."""
        return self._known

    @property
    def failures(self) -> Failures:
        """Failures by name, as they will stand after the next commit."""
        return self._failures

    @property
    def dirty(self) -> bool:
        """Whether a commit would change anything."""
        return bool(self._written or len(self._builder) or self._failures != self._committed_failures)

    def check_new(self, name: str) -> None:
        """Raise ``ConfigError`` unless ``name`` can be added."""
        encode_name(name)
        if name in self._known:
            raise ConfigError(f"{name!r} is in the archive already: leave it out, or index into a new archive")

    def add(self, name: str, photo: Aggregated, size: int, mtime_ns: int) -> None:
        """Take a photo; a shard that becomes full is written at once, though not yet committed."""
        self.check_new(name)
        full = len(self._builder) >= self._snapshot.manifest.config.shard_images
        if full or self._builder.pending_bytes >= MAX_PENDING_BYTES:
            self._flush()
        # In this order an interrupt in between leaves the photo out, for the next run, and never in twice.
        self._known[name] = (size, mtime_ns)
        self._builder.add(name, photo, size, mtime_ns)
        self._failures.pop(name, None)

    def record_failures(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Merge failures; a later one of the same name replaces the earlier."""
        self._failures.update(normalised(records))

    def forget_failures(self, names: Iterable[str]) -> None:
        """Drop failures by name; unknown names are no error."""
        for name in names:
            self._failures.pop(name, None)

    def _flush(self) -> None:
        if not len(self._builder):
            return
        builder, self._builder = self._builder, self._new_builder()
        try:
            entry = builder.write(self._folder)
        except BaseException:
            self._builder = builder
            raise
        self._written.append(entry)

    def commit(self) -> Snapshot:
        """Write what is pending, publish the next manifest, and return the new state.

        Raises:
            StorageError: it cannot be written; a later commit may succeed.
        """
        if not self.dirty:
            return self._snapshot
        self._flush()
        before = self._snapshot.manifest
        # A new number for every attempt: a manifest that may be in force already is never written again.
        self._number = number = self._number + 1
        failures = before.failures
        if self._failures != self._committed_failures:
            failures = write_failures(self._folder, number, self._failures)
        # An interrupt after the commit before this one may have left its shards among the written ones.
        added = [entry for entry in self._written if entry not in before.shards]
        manifest = replace(before, number=number, shards=(*before.shards, *added), failures=failures)
        opened = tuple(open_shard(self._folder, entry, manifest) for entry in added)
        publish(self._folder, manifest)
        self._snapshot = self._snapshot.extended(manifest, opened, dict(self._failures))
        self._written = []
        self._committed_failures = dict(self._failures)
        return self._snapshot

    def collect_garbage(self) -> list[str]:
        """Remove files that neither the state in force nor this writer needs; return their paths in the archive."""
        # What CURRENT names may be newer than what we know: a commit whose last sync failed is in force all the same.
        states = (self._snapshot.manifest, read_current(self._folder))
        kept = {CURRENT, *(manifest_name(state.number) for state in states)}
        kept |= {entry.file for state in states for entry in state.files} | {entry.file for entry in self._written}
        removed = []
        with storing(self._folder):
            for path in sorted([*self._folder.iterdir(), *(self._folder / SHARDS).iterdir()]):
                name = path.relative_to(self._folder).as_posix()
                ours = path.parent.name == SHARDS or _OURS.fullmatch(path.name) or path.name.startswith(TEMPORARY)
                if ours and name not in kept and path.is_file():
                    path.unlink()
                    removed.append(name)
        sync_folder(self._folder)
        return removed

    def close(self) -> None:
        """Forget what is pending and let another writer in."""
        self._lock.release()
