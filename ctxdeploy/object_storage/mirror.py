"""A published archive as a folder of this machine: as many of its files as the state needs that is opened.

The folder is an archive like any other, of which all is read as it always was. What it holds comes before it is opened
(``open``), under the lock of the cache; the state is held from then on, so that nobody makes room with it.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.files import link_file, make_folder, write_file
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import without_secrets
from ctxdeploy.index import (
    FileEntry,
    Index,
    Manifest,
    NewerFormatError,
    ShardEntry,
    damaged_copies,
    hold_copy,
    show_copy,
)
from ctxdeploy.object_storage.cache import Cache, is_copy, mark_copy, mark_use
from ctxdeploy.object_storage.config import CacheConfig
from ctxdeploy.object_storage.download import download, partial_path
from ctxdeploy.object_storage.objects import Objects
from ctxdeploy.object_storage.place import FORMAT, PLACE, read_place
from ctxdeploy.object_storage.published import CURRENT, JUDGEMENT, MAX_STATE, PublishedState, parse_state
from ctxdeploy.object_storage.stores import open_objects

if TYPE_CHECKING:
    from ctxdeploy.index import Pin

Opened = TypeVar("Opened")
# Of the shards of a manifest, those that are opened.
Choice = Callable[[Sequence[ShardEntry]], Sequence[ShardEntry]]
_PUBLISHED = "published.json"
# Openings of one state, each of a newer or of a mended one.
_ATTEMPTS = 4
_DIGITS = 16
# Of a folder's name.
_LETTERS = 80


class Mirror:
    """The folder in which an archive at a URL is read here.

    Args:
        folder: of the archive, in the cache.
    """

    def __init__(self, folder: Path) -> None:
        place = read_place(folder)
        if place is None:
            raise ArchiveError(f"{folder} is not a copy of an archive on object storage")
        self._folder = folder
        self.url: str = place["url"]
        self._cache = Cache(folder.parents[1], place["bytes"])

    def pointer(self) -> bytes:
        """Return what is in force there; a look at its entity tag if nothing has changed.

        Raises:
            ArchiveError: it cannot be read, or there is nothing.
        """
        return self._look()[0]

    def open(self, at: str | int | None = None) -> Index:
        """Open the newest state, or a former one that is there still, after fetching what is missing of it.

        Raises:
            ArchiveError: it cannot be read, is damaged there, or is not there any more.
            ConfigError: it does not fit into the cache, or there is no such snapshot.
            StorageError: the cache cannot be written.
        """
        return self.open_with(lambda number: Index.open(self._folder, at=number), at)

    def open_with(
        self, opening: Callable[[int], Opened], at: str | int | None = None, chosen: Choice | None = None
    ) -> Opened:
        """Return what ``opening`` makes of the number of a state whose files are here; errors as ``open``.

        Args:
            opening: opens that state, or the one that ``CURRENT`` names where ``at`` is None. It is called again after
                a file that is damaged here was fetched anew, or another process has moved ``CURRENT`` on.
            at: the state; the newest if None.
            chosen: the shards that are needed, without their lists of names; all if None.
        """
        for attempt in range(_ATTEMPTS):
            _, state = self._look()
            entry = self._chosen(state, at)
            with self._brought(state, entry, chosen) as held:
                if at is None or not (self._folder / CURRENT).exists():
                    show_copy(self._folder, entry)
                try:
                    return opening(held.manifest.number)
                except NewerFormatError:
                    raise
                except ArchiveError:
                    if not self._mend(state, held.manifest, chosen) and attempt:
                        raise
        raise ArchiveError(f"{self._folder} changes faster than it can be opened: try again")

    def _look(self) -> tuple[bytes, PublishedState]:
        """Return the state in force; the one that was seen last if its tag is the same."""
        objects, where = _objects(self.url, os.getpid()), f"{printable(self.url)}/{CURRENT}"
        tag, path = objects.tag(CURRENT), self._folder.with_name(_PUBLISHED)
        if tag is None:
            raise ArchiveError(
                f"{printable(self.url)} is not an archive (no {CURRENT}): publish one with  ctxdeploy push"
            )
        with suppress(OSError, ValueError, KeyError, TypeError, ArchiveError):
            seen = json.loads(read_regular(path, 2 * MAX_STATE))
            if seen["tag"] == tag:
                text = seen["text"].encode("ascii")
                return text, parse_state(text, where)
        text = objects.read(CURRENT, MAX_STATE) or b""
        state = parse_state(text, where)
        with self._cache.locked():
            make_folder(path.parent)
            write_file(path, [json.dumps({"tag": tag, "text": text.decode("ascii")}).encode()])
        return text, state

    def _chosen(self, state: PublishedState, at: str | int | None) -> FileEntry:
        """Return the manifest of the state that is asked for."""
        if at is None:
            return state.manifest
        if isinstance(at, str) and not (at.isascii() and at.isdigit()):
            return self._of_snapshot(state, at)
        name = f"manifest-{int(at):06d}.json"
        found = next((entry for entry in (state.manifest, *state.kept) if entry.file == name), None)
        if found is None:
            raise ArchiveError(
                f"{printable(self.url)} has no state {at}: only the newest one and those of snapshots are published"
            )
        return found

    def _of_snapshot(self, state: PublishedState, name: str) -> FileEntry:
        entry = next((entry for entry in state.beside if entry.file == f"snapshots/{name}.json"), None)
        if entry is None:
            raise ConfigError(f"there is no snapshot {name!r} in {printable(self.url)}")
        with self._cache.locked():
            self._fetch([entry], state)
        try:
            manifest = json.loads(read_regular(self._folder / entry.file))["manifest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"the snapshot {name!r} of {printable(self.url)} is damaged") from error
        return next(kept for kept in (state.manifest, *state.kept) if kept.file == manifest)

    @contextmanager
    def _brought(self, state: PublishedState, entry: FileEntry, chosen: Choice | None) -> "Iterator[Pin]":
        """Hold a state all of whose files are here, while the block runs."""
        held = hold_copy(self._folder, entry)
        if held is None or self._missing(state, held.manifest, chosen):
            if held is not None:
                held.release()
            with self._cache.locked():
                held = self._bring(state, entry, chosen)
        try:
            mark_use(self._folder / entry.file)
            yield held
        finally:
            held.release()

    def _bring(self, state: PublishedState, entry: FileEntry, chosen: Choice | None) -> "Pin":
        """Fetch what is missing of a state, its manifest first, and hold it. The lock of the cache is held."""
        held = hold_copy(self._folder, entry)
        if held is None:
            self._cache.make_room(entry.bytes, printable(self.url), [partial_path(self._folder, entry)])
            self._fetch([entry], state)
            held = hold_copy(self._folder, entry)
        if held is None:
            raise ArchiveError(f"{self._folder / entry.file} vanished: something else removes files from the cache")
        try:
            missing = [one for one in self._missing(state, held.manifest, chosen) if not self._linked(one)]
            partial = [partial_path(self._folder, one) for one in missing]
            needed = sum(one.bytes for one in missing) - sum(_size(path) for path in partial)
            self._cache.make_room(needed, printable(self.url), partial)
            self._fetch(missing, state)
        except BaseException:
            held.release()
            raise
        return held

    def _missing(self, state: PublishedState, manifest: Manifest, chosen: Choice | None) -> list[FileEntry]:
        """Return the files of a state that are not here, or were written to."""
        return [entry for entry in _files(state, manifest, chosen) if not self._is_here(entry)]

    def _is_here(self, entry: FileEntry) -> bool:
        path = self._folder / entry.file
        if entry.file == JUDGEMENT:  # a reader may make a better one
            return path.exists()
        if _is_marked(entry):
            return is_copy(path, entry)
        with suppress(OSError):
            return hashlib.sha256(read_regular(path)).hexdigest() == entry.sha256
        return False

    def _linked(self, entry: FileEntry) -> bool:
        """Take a file of that content from another archive of the cache, which costs nothing."""
        found = self._cache.find(entry)
        if found is None:
            return False
        make_folder((self._folder / entry.file).parent)
        return link_file(found, self._folder / entry.file)

    def _fetch(self, entries: Sequence[FileEntry], state: PublishedState) -> None:
        def arrived(entry: FileEntry, path: Path) -> None:
            if _is_marked(entry):
                mark_copy(path, entry)
            else:
                with suppress(OSError, ValueError):
                    seconds = datetime.fromisoformat(state.published).timestamp()
                    os.utime(path, (seconds, seconds))

        download(_objects(self.url, os.getpid()), entries, self._folder, arrived)

    def _mend(self, state: PublishedState, manifest: Manifest, chosen: Choice | None) -> bool:
        """Fetch the files of a state again that are damaged here; return whether there were any."""
        files = [entry for entry in _files(state, manifest, chosen) if entry.file != JUDGEMENT]
        damaged = damaged_copies(self._folder, files)
        if damaged:
            with self._cache.locked():
                self._fetch(damaged, state)
        return bool(damaged)


def _files(state: PublishedState, manifest: Manifest, chosen: Choice | None) -> list[FileEntry]:
    """Return the files that are needed of a state."""
    needed = manifest.files
    if chosen is not None:
        kept = chosen(manifest.shards)
        own = {file.file for shard in kept for file in shard.files if file != shard.names}
        others = {file.file for shard in manifest.shards for file in shard.files} - own
        needed = tuple(entry for entry in needed if entry.file not in others)
    return list({entry.file: entry for entry in (*needed, *state.beside)}.values())


def _is_marked(entry: FileEntry) -> bool:
    """Return whether the time of change of a file says what it holds: not where it is small, and people look at it."""
    return "/" in entry.file or entry.file.endswith(".safetensors")


def mirror_folder(url: str, config: CacheConfig | None = None) -> Path:
    """Return the folder in which an archive at a URL is read here; nothing is fetched yet.

    Raises:
        ConfigError: there is no folder for the cache.
        StorageError: it cannot be written.
    """
    given = config or CacheConfig()
    address = without_secrets(url).rstrip("/")
    place = given.path / hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]
    folder = place / (address.rpartition("/")[2][-_LETTERS:].lstrip(".") or "archive")
    known = read_place(folder)
    if known is not None and known["url"] == address and not given.is_given:
        return folder
    facts = {"format": FORMAT, "format_version": 1, "url": address, "bytes": given.bytes}
    if facts != known:
        with Cache(given.path, given.bytes).locked():
            make_folder(place)
            write_file(place / PLACE, [json.dumps(facts).encode()])
    return folder


@functools.lru_cache(maxsize=32)
def _objects(url: str, process: int) -> Objects:
    """Return what lies below a URL, for one process: connections do not survive a fork."""
    return open_objects(url)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
