"""What a photo, a query and a commit cost: assumptions, each of which is an option, and where it came from.

The defaults were measured with the built-in model on two cores of an AMD EPYC (docs/performance.md); ``measuring``
finds those of this machine, ``observed`` those of an archive.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import SettingField, check_types, parse_bytes, parse_count, setting, settings_of

# Where a value came from, as it is printed; a later one wins.
DEFAULT, MODEL, MEASURED, ARCHIVE, GIVEN = "default", "of the model", "measured here", "of the archive", "given"
# Where nothing was measured, for each descriptor: distinct words of a photo, and of a query with five words each, and
# the skew, in a codebook of so many words. In others the last two are as the power of its size: of photos of lite-small
# a query has 1,275 of 16,384 words, and a skew of 1.6.
WORDS_PER_FEATURE, QUERY_WORDS_PER_FEATURE, USUAL_SKEW, USUAL_WORDS, _POWER = 0.4, 1.9, 2.4, 65_536, 0.29


def _bytes(default: float, flag: str, text: str, shown: str) -> Any:
    return setting(default, flag, text, metavar="SIZE", parse=parse_bytes, default_text=shown)


def _count(default: float, flag: str, text: str, shown: str) -> Any:
    return setting(default, flag, text, metavar="N", parse=parse_count, default_text=shown)


@dataclass(frozen=True, kw_only=True)
class PhotoCosts:
    """A photo and a query.

    Attributes:
        seconds_per_photo: of a whole machine.
        photo_bytes, name_bytes: of a photo's file and name.
        features_per_photo: its descriptors.
        words_per_photo: distinct words of a photo: its postings.
        query_words: distinct words of a query.
        skew: how much more postings a query reads than one whose words were drawn evenly from all.
        query_seconds: to assign and aggregate a query's descriptors.
    """

    seconds_per_photo: float = setting(0.11, "--seconds-per-photo", "Of a machine, from the file to the archive.")
    photo_bytes: float = _bytes(500e3, "--photo-bytes", "Of a photo's file.", "500kB")
    name_bytes: float = setting(24.0, "--name-bytes", "Of a photo's name.")
    features_per_photo: float = setting(1000.0, "--features-per-photo", "Descriptors of a photo.")
    words_per_photo: float = setting(400.0, "--words-per-photo", "Distinct words of a photo.")
    query_words: float = setting(1900.0, "--query-words", "Distinct words of a query.")
    skew: float = setting(2.4, "--skew", "Postings that a query reads, by those of evenly drawn words.")
    query_seconds: float = setting(0.005, "--query-seconds", "To assign and aggregate a query's descriptors.")


@dataclass(frozen=True, kw_only=True)
class SearchCosts:
    """A search.

    Attributes:
        posting_rate: postings a second of one thread.
        list_seconds: of one thread, to find a word's postings in a shard.
        thread_share: of a further thread that makes a query faster: 1 if two threads take half the time.
        bandwidth: bytes a second that a machine reads from memory.
        batch_gain: how much faster a query of a batch of 16 or more is than one alone.
        spread: 99th percentile of a search by its median.
        global_rate: bytes of global vectors a second of a machine; 0 for what is usual of their kind.
        cell_times: how many times as long a photo of a cell takes as one of all, since those of a cell lie apart.
        load_seconds: to open a shard.
    """

    posting_rate: float = _count(970e6, "--posting-rate", "Postings a second of one thread.", "970M")
    list_seconds: float = setting(52e-9, "--list-seconds", "To find a word's postings in a shard.")
    thread_share: float = setting(0.9, "--thread-share", "Of a further thread that makes a query faster.")
    bandwidth: float = _bytes(46e9, "--bandwidth", "Read from a machine's memory in a second.", "46GB")
    batch_gain: float = setting(1.5, "--batch-gain", "How much faster a query of a batch of 16 or more is.")
    spread: float = setting(1.2, "--spread", "99th percentile of a search by its median.")
    global_rate: float = _bytes(
        0.0, "--global-rate", "Global vectors that a machine compares in a second.", "as is usual of their kind"
    )
    cell_times: float = setting(9.0, "--cell-times", "How many times as long a photo of a cell takes as one of all.")
    load_seconds: float = setting(0.0007, "--load-seconds", "To open a shard.")


@dataclass(frozen=True, kw_only=True)
class StorageCosts:
    """Disks, commits and compaction.

    Attributes:
        disk_read, disk_write: bytes a second.
        hash_rate: bytes a second of sha256, which ``publish`` takes of every file.
        compact_rate: bytes of shards a second that are merged.
        commit_seconds: of a commit of a few photos to a small archive.
        shard_seconds: what each shard of the archive adds to a commit.
        count_rate: postings a second that a commit counts where idf is set.
    """

    disk_read: float = _bytes(500e6, "--disk-read", "From a disk in a second.", "500MB")
    disk_write: float = _bytes(300e6, "--disk-write", "To a disk in a second.", "300MB")
    hash_rate: float = _bytes(1e9, "--hash-rate", "Hashed in a second, by  publish.", "1GB")
    compact_rate: float = _bytes(150e6, "--compact-rate", "Of shards merged in a second.", "150MB")
    commit_seconds: float = setting(0.03, "--commit-cost", "Seconds of a commit to a small archive.")
    shard_seconds: float = setting(30e-6, "--shard-seconds", "What a shard adds to a commit.")
    count_rate: float = _count(2e9, "--count-rate", "Postings a second that idf counts in a commit.", "2G")


@dataclass(frozen=True, kw_only=True)
class MachineCosts:
    """Machines and the network between them; nothing of this is measured.

    Attributes:
        network: bytes a second of a machine.
        round_trip: seconds.
        worker_share: photos a second of n machines by n times those of one.
        machine_days: mean days until a machine is lost.
        process_memory: bytes of a process that extracts and searches, without the archive.
        slow_share, slow_times: part of the searches of a server that take so many times as long.
    """

    network: float = _bytes(125e6, "--network", "Through a machine's network in a second.", "125MB, 1 Gbit")
    round_trip: float = setting(0.0005, "--round-trip", "Seconds between two machines, there and back.")
    worker_share: float = setting(0.97, "--worker-share", "Photos of n machines by n times those of one.")
    machine_days: float = setting(90.0, "--machine-days", "Mean days until a machine is lost.")
    process_memory: float = _bytes(1e9, "--process-memory", "Of a process, without the archive.", "1GB")
    slow_share: float = setting(0.001, "--slow-share", "Part of a server's searches that take long.")
    slow_times: float = setting(10.0, "--slow-times", "How many times as long these take.")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """All assumptions.

    Attributes:
        photo, search, storage, machine: the values.
        sources: of each field that is not a default: where it came from.
    """

    photo: PhotoCosts = field(default_factory=PhotoCosts)
    search: SearchCosts = field(default_factory=SearchCosts)
    storage: StorageCosts = field(default_factory=StorageCosts)
    machine: MachineCosts = field(default_factory=MachineCosts)
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in PARTS:
            values = getattr(self, part)
            check_types(values)
            for setting_field in settings_of(type(values)):
                _check_range(setting_field, getattr(values, setting_field.name))

    def updated(self, facts: Mapping[str, float], source: str) -> "Costs":
        """Return these with some values of one source.

        Raises:
            ConfigError: a name that is not one of an assumption, or a value out of range.
        """
        parts: dict[str, Any] = {}
        known: set[str] = set()
        for part in PARTS:
            values = getattr(self, part)
            mine = {entry.name: float(facts[entry.name]) for entry in fields(values) if entry.name in facts}
            known |= set(mine)
            parts[part] = replace(values, **mine)
        unknown = set(facts) - known
        if unknown:
            raise ConfigError(f"{min(unknown)!r} is not an assumption of a plan")
        return replace(self, **parts, sources={**self.sources, **dict.fromkeys(facts, source)})

    def listed(self) -> list[tuple[SettingField, float, str]]:
        """Return option, value and source of every assumption."""
        return [
            (entry, float(getattr(getattr(self, part), entry.name)), self.sources.get(entry.name, DEFAULT))
            for part in PARTS
            for entry in settings_of(type(getattr(self, part)))
        ]


def for_words(facts: Mapping[str, float], known: int, wanted: int) -> dict[str, float]:
    """Return facts of photos in a codebook of ``known`` words as they usually are in one of another size."""
    factor = (wanted / known) ** _POWER if known and wanted else 1.0
    found = {name: value * factor if name in ("query_words", "skew") else value for name, value in facts.items()}
    if "query_words" in found and wanted:
        found["query_words"] = min(found["query_words"], float(wanted))
    return found


PARTS = ("photo", "search", "storage", "machine")
PART_TYPES = (PhotoCosts, SearchCosts, StorageCosts, MachineCosts)
# Of these 0 means something; all others are divided by, or nothing without.
_MAY_BE_ZERO = {
    "global_rate", "list_seconds", "thread_share", "slow_share", "round_trip", "shard_seconds", "name_bytes",
    "query_seconds", "load_seconds", "commit_seconds", "words_per_photo", "query_words", "features_per_photo",
    "process_memory",
}  # fmt: skip
_SHARES = {"thread_share", "slow_share", "worker_share"}


def _check_range(entry: SettingField, value: float) -> None:
    flag = entry.setting.flag
    if not 0 <= value < 1e18 or (value == 0 and entry.name not in _MAY_BE_ZERO):
        raise ConfigError(f"{flag} {value:g} must be {'0 or more' if entry.name in _MAY_BE_ZERO else 'above 0'}")
    if entry.name in _SHARES and value > 1:
        raise ConfigError(f"{flag} {value:g} is a share: give 0 to 1")
    if entry.name in ("spread", "slow_times") and value < 1:
        raise ConfigError(f"{flag} {value:g} must be 1 or more")
