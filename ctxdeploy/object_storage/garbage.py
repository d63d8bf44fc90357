"""Removes what no state of a published archive needs: not the one in force, none that was in force a short time ago.

Readers that opened a former state may still fetch files of it, and publishers send files before the state that needs
them: both have the grace time for that.
"""

import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.reading import MAX_DESCRIPTION
from ctxdeploy.core.text import printable
from ctxdeploy.index import parse_manifest
from ctxdeploy.object_storage.objects import Objects, ReplacedError, StoredObject
from ctxdeploy.object_storage.published import (
    CURRENT,
    FILES,
    STATES,
    PublishedState,
    entries_of,
    file_key,
    read_state,
    state_id,
    state_key,
)

# A publisher reuses files without a state that are up to half a day old (``REUSED_SECONDS``): the rest is its time.
LEAST_GRACE = 86400.0
DEFAULT_GRACE = 7 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was removed.

    Attributes:
        files: of no state.
        states: former ones.
        bytes: of both.
        uploads: that were never finished.
        kept: files that are still needed.
    """

    files: int
    states: int
    bytes: int
    uploads: int
    kept: int

    def metadata(self) -> dict[str, Any]:
        """Return it as JSON prints it."""
        return asdict(self)


def collect(objects: Objects, grace: float = DEFAULT_GRACE, *, now: float | None = None) -> Collected:
    """Remove files and states that nobody needs and that are older than a grace time.

    Args:
        objects: the published archive.
        grace: seconds that a state may still be read after another one was published.
        now: seconds since 1970; the present if None.

    Raises:
        ConfigError: the grace time is shorter than a day: a publisher may be at work.
        ArchiveError: there is no archive, or a state of it is damaged; then nothing was removed.
        StorageError: an object cannot be removed.
    """
    if grace < LEAST_GRACE:
        raise ConfigError(f"a grace time of {grace:g} s is less than a day: publishers and readers may be at work")
    tag, found = objects.tag(CURRENT), read_state(objects)
    if tag is None or found is None:
        raise ArchiveError(f"{printable(objects.url)} is not an archive (no CURRENT): there is nothing to collect")
    before = (time.time() if now is None else now) - grace
    # Files first: what is sent while the states are read is younger than the grace time.
    files = list(objects.list(FILES))
    states = {stored.key: stored for stored in objects.list(STATES)}
    chain = _lately_in_force(objects, found, states, before)
    gone = [stored for key, stored in states.items() if key not in chain and stored.changed < before]
    needed = set[str]().union(*(needed_files(objects, state) for state in chain.values()))
    for key, stored in states.items():
        if key not in chain and stored.changed >= before:  # of a publisher that is at work, or lost
            young = read_state(objects, key)
            needed |= set() if young is None else needed_files(objects, young[1])
    unneeded = [one for one in files if one.key.rpartition("/")[2] not in needed and one.changed < before]
    if gone or unneeded:
        _fence(objects, found[1], tag)
    # States first: who reads one finds all of its files.
    objects.remove(stored.key for stored in gone)
    objects.remove(stored.key for stored in unneeded)
    return Collected(
        files=len(unneeded),
        states=len(gone),
        bytes=sum(stored.bytes for stored in (*gone, *unneeded)),
        uploads=objects.remove_unfinished(before),
        kept=len(files) - len(unneeded),
    )


def _lately_in_force(
    objects: Objects, found: tuple[bytes, PublishedState], states: dict[str, StoredObject], before: float
) -> dict[str, PublishedState]:
    """Return the states that were in force since a time, by their keys: the present one, and those before it."""
    chain: dict[str, PublishedState] = {}
    step: tuple[bytes, PublishedState] | None = found
    while step is not None:
        key = state_key(state_id(step[0]))
        if key in chain:
            break
        chain[key] = step[1]
        stored = states.get(key)
        if stored is not None and stored.changed < before:  # in force when that time began
            break
        step = None if step[1].parent is None else read_state(objects, state_key(step[1].parent))
    return chain


def _fence(objects: Objects, state: PublishedState, tag: str) -> None:
    """Write the state in force anew: a publisher that slept since before the grace time finds it replaced, and looks
    again which of its files are there."""
    parent = state_id(state.encode())
    collected = datetime.now(UTC).isoformat(timespec="microseconds")
    text = replace(state, parent=parent, collected=collected).encode()
    objects.put(state_key(state_id(text)), text)
    try:
        objects.replace(CURRENT, text, tag)
    except ReplacedError as error:
        raise ReplacedError(f"{error}: nothing was removed; run the same command again") from error


def needed_files(objects: Objects, state: PublishedState) -> set[str]:
    """Return the hashes of the files of a state.

    Raises:
        ArchiveError: a manifest of it cannot be read.
    """
    found = {entry.sha256 for entry in entries_of(state)}
    for entry in (state.manifest, *state.kept):
        text = objects.read(file_key(entry), MAX_DESCRIPTION)
        if text is None:
            raise ArchiveError(f"{printable(objects.url)}/{file_key(entry)} ({entry.file}) is missing")
        manifest = parse_manifest(text, f"{printable(objects.url)}/{file_key(entry)}")
        found |= {file.sha256 for file in manifest.files}
    return found
