"""A state of an archive: opened, it stays as it is while others write; and the first one, of a new archive."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError, ConfigError, StorageError
from ctxdeploy.core.files import TEMPORARY, make_folder
from ctxdeploy.core.locks import LOCK
from ctxdeploy.core.part import Part
from ctxdeploy.core.types import FileState
from ctxdeploy.index.codebook.aggregation import code_columns
from ctxdeploy.index.codebook.codebook import Codebook
from ctxdeploy.index.codebook.quantiser import GlobalQuantiser
from ctxdeploy.index.config import MAX_WORDS, DescriptorSource, IndexConfig
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.failures import Failures, read_failures
from ctxdeploy.index.storage.lease import LEASES, WriterLease
from ctxdeploy.index.storage.manifest import CODEBOOK, CURRENT, FOLDERS, QUANTISER, Manifest, publish, store
from ctxdeploy.index.storage.names import NameIndex
from ctxdeploy.index.storage.pins import Pin
from ctxdeploy.index.storage.shard import Shard, open_shard
from ctxdeploy.index.storage.sharing import READERS
from ctxdeploy.index.storage.statistics import Statistics, compute, of_counts, read_statistics

_FIRST = "manifest-000000.json"
# What an interrupted creation may leave.
_OURS = {LOCK, LEASES, READERS, *FOLDERS, CODEBOOK, QUANTISER, _FIRST}


class NameOrder(Protocol):
    """The names of a state in order."""

    def places(self, prefix: str) -> NDArray[np.int64]:
        """Return the photos whose names begin so, in no order: rows of the number of a shard and that in the shard."""
        ...


class State:
    """Manifest, codebook and mapped shards, and what a search derives from them once.

    Attributes:
        manifest: the state.
        quantiser: of its global vectors; None where they need none.
        shards: in order; the number of a photo counts through them, removed photos included.
        failures: photos that could not be read, by name.
        name_order: finds names by what they begin with, if somebody has sorted them; None if nobody has.
        is_whole: the shards are all of the manifest's; else some of them, or none (``index/part.py``). Counts of
            photos, and statistics that an archive stores, are those of all shards then too.
    """

    def __init__(
        self,
        manifest: Manifest,
        codebook: Codebook | None,
        shards: tuple[Shard, ...],
        failures: Failures | None = None,
        statistics: Statistics | None = None,
        quantiser: GlobalQuantiser | None = None,
        *,
        is_whole: bool = True,
    ) -> None:
        self.is_whole = is_whole
        self.manifest = manifest
        self.quantiser = quantiser
        self._codebook = codebook
        self.shards = shards
        self.failures = failures or {}
        self.name_order: NameOrder | None = None
        self._statistics = statistics

    def __len__(self) -> int:
        """Photos in the archive."""
        return self.manifest.images

    @property
    def codebook(self) -> Codebook:
        """The archive's visual words; ``ConfigError`` in an archive of global vectors alone."""
        if self._codebook is None:
            raise ConfigError(
                "the archive keeps global vectors alone, no local descriptors: ask it with search_global (--rank "
                "global), or index the photos with a codebook"
            )
        return self._codebook

    def check_local(self) -> None:
        """Raise ``ConfigError`` in an archive of global vectors alone."""
        _ = self.codebook

    def over(
        self,
        manifest: Manifest,
        shards: tuple[Shard, ...],
        failures: Failures | None = None,
        statistics: Statistics | None = None,
    ) -> "State":
        """Return a state of other shards with the same codebook and quantiser."""
        return State(manifest, self._codebook, shards, failures, statistics, self.quantiser, is_whole=self.is_whole)

    def counting(self, counts: NDArray[np.int64]) -> "State":
        """Return the same state with the statistics of an archive in whose shards so many photos have each word."""
        statistics = of_counts(self.shards, counts, self.manifest.images)
        return self.over(self.manifest, self.shards, self.failures, statistics)

    @property
    def needs_counts(self) -> bool:
        """Whether idf needs counts of the words of shards that are not open."""
        return self._statistics is None and not self.is_whole

    @cached_property
    def bases(self) -> NDArray[np.int64]:
        """Number of the first photo of each shard, and the number of photos in all of them."""
        return np.cumsum([0, *map(len, self.shards)], dtype=np.int64)

    def name(self, number: int) -> str:
        """Return the name of a photo by its number."""
        shard = int(np.searchsorted(self.bases, number, side="right")) - 1
        return self.shards[shard].name(number - int(self.bases[shard]))

    def names_of(self, numbers: NDArray[np.int64]) -> list[bytes]:
        """Return the names of photos by number, as they are stored: 0.5 µs each."""
        shards = np.searchsorted(self.bases, numbers, side="right") - 1
        found: list[bytes] = [b""] * len(numbers)
        for number in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == number)
            shard = self.shards[number]
            data, inside = memoryview(shard.names), numbers[rows] - self.bases[number]
            bounds = shard.name_offsets[inside].tolist(), shard.name_offsets[inside + 1].tolist()
            for row, begin, end in zip(rows.tolist(), *bounds, strict=True):
                found[row] = bytes(data[begin:end])
        return found

    def names(self) -> Iterator[str]:
        """Yield all names, in order of addition."""
        for shard in self.shards:
            yield from shard.live_names()

    @cached_property
    def unprintable(self) -> tuple[str, ...]:
        """Names with characters that are not printed as they are: others are told by their bytes, 0.1 s a million."""
        found: list[str] = []
        for shard in self.shards:
            odd = (shard.names < ord(" ")) | (shard.names > ord("~"))
            before = np.concatenate([[0], np.cumsum(odd)])[shard.name_offsets]
            likely = np.flatnonzero((np.diff(before) > 0) & shard.live[: len(shard)])
            found += [name for name in map(shard.name, likely.tolist()) if not name.isprintable()]
        return tuple(found)

    @cached_property
    def _table(self) -> NameIndex:
        return NameIndex(self.shards)

    def find(self, name: str) -> tuple[int, int] | None:
        """Return shard and number of a photo that is not removed; None if there is none of that name."""
        return next((place for place in self._table.find(name) if self.shards[place[0]].live[place[1]]), None)

    def find_all(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return shard and number of the photo of each name, N×2 int64; -1 where there is none."""
        places = np.full((len(names), 2), -1, np.int64)
        for rows, shard, numbers in self._table.find_all(names):
            live = self.shards[shard].live[numbers]
            places[rows[live], 0] = shard
            places[rows[live], 1] = numbers[live]
        return places

    def known(self) -> Iterator[tuple[str, FileState | None]]:
        """Yield the name of every photo and the state of its file, None if it is not known."""
        for shard in self.shards:
            yield from shard.known()

    @property
    def posting_bytes(self) -> int:
        """Bytes of a posting: its code, and two for the photo's number."""
        dim = self.manifest.dim
        return (8 * code_columns(dim) if self.manifest.config.binary else 4 * dim) + 2

    @property
    def statistics(self) -> Statistics:
        """Word counts and norms under idf; those that the archive stores, or computed on first use.

        Raises:
            ConfigError: the archive stores none, and not all of its shards are open.
        """
        if self._statistics is None:
            if not self.is_whole:
                raise ConfigError("idf needs the words of all shards: give statistics, or leave out --idf")
            self._statistics = compute(self.shards, self.manifest.words)
        return self._statistics

    @property
    def idf(self) -> NDArray[np.float64]:
        """W weights ln(images / photos with the word)². A word that no photo has weighs 1, as in the reference."""
        return self.statistics.weights

    def weights(self, words: NDArray[np.int32], idf: bool) -> NDArray[np.float32]:
        """Return the weights of words in the score."""
        return self.idf[words].astype(np.float32) if idf else np.ones(len(words), np.float32)

    def factors(self, idf: bool) -> tuple[NDArray[np.float64], ...]:
        """Return 1 / sqrt(norm) of each photo, shard by shard; 0 for a norm of 0 and for removed photos.

        Of photos that are aggregated by regions it is 1 wherever it is not 0.
        """
        if self.manifest.config.aggregation == "regional":
            return self._regional_factors
        return self._idf_factors if idf else tuple(shard.factors for shard in self.shards)

    @cached_property
    def _regional_factors(self) -> tuple[NDArray[np.float64], ...]:
        return tuple((shard.factors > 0).astype(np.float64) for shard in self.shards)

    @cached_property
    def _idf_factors(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(map(_factors, self.shards, self.statistics.norms))


def _factors(shard: Shard, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    valid = (norms > 0) & (norms < np.inf) & shard.live[: len(shard)]
    return np.divide(1.0, np.sqrt(norms, where=valid, out=np.ones(len(norms))), out=np.zeros(len(norms)), where=valid)


def open_state(folder: Path, held: Pin, *, check: bool = False, part: Part | None = None) -> State:
    """Open a state that is held: the codebook, every shard's header and offsets, tombstones and failures.

    Args:
        folder: the archive.
        held: its manifest.
        check: compare codebook and tombstones with their hashes too, as a writer does, whose next state they go into.
        part: the shards that are opened: every ``count``-th of the manifest's. Files of the others are not looked for.

    Raises:
        ArchiveError: damaged, or of a newer format; the text names the file and the field.
    """
    manifest = held.manifest
    codebook = read_codebook(folder, manifest, check=check)
    quantiser = read_quantiser(folder, manifest, check=check)
    try:
        if check:
            for file in (entry.tombstones for entry in manifest.shards):
                if file is not None:
                    file_format.check_hash(folder / file.file, file.sha256)
        entries = manifest.shards if part is None else part.each_of(manifest.shards)
        shards = tuple(open_shard(folder, entry, manifest) for entry in entries)
        failures = read_failures(folder, manifest.failures)
        statistics = _statistics(folder, manifest, part)
    except file_format.NotDamagedError:
        raise
    except ArchiveError as error:
        raise ArchiveError(f"{error}; to go on without what is damaged:  ctxdeploy repair {folder}") from error
    return State(manifest, codebook, shards, failures, statistics, quantiser, is_whole=part is None)


def open_bare_state(folder: Path, held: Pin) -> State:
    """Open a state that is held without any of its shards: manifest, codebook, quantiser, failures and statistics.

    Raises:
        ArchiveError: as ``open_state``.
    """
    manifest = held.manifest
    codebook, quantiser = read_codebook(folder, manifest, check=False), read_quantiser(folder, manifest, check=False)
    failures, statistics = read_failures(folder, manifest.failures), _statistics(folder, manifest, None)
    return State(manifest, codebook, (), failures, statistics, quantiser, is_whole=False)


def _statistics(folder: Path, manifest: Manifest, part: Part | None) -> Statistics | None:
    if manifest.statistics is None:
        return None
    found = read_statistics(folder, manifest.statistics, manifest)
    return found if part is None else replace(found, norms=tuple(part.each_of(found.norms)))


def read_codebook(folder: Path, manifest: Manifest, *, check: bool) -> Codebook | None:
    """Open the archive's codebook, None if it has none; ``check`` reads all of it (33 MB at 65,536 words) and compares
    its hash."""
    if manifest.codebook is None:
        return None
    path = folder / manifest.codebook.file
    codebook = Codebook.load(path)
    if (codebook.id, len(codebook), codebook.dim) != (manifest.codebook_id, manifest.words, manifest.dim):
        raise ArchiveError(f"{path} is damaged: codebook_id, words or dim is not that of the manifest")
    if check:
        file_format.check_hash(path, manifest.codebook.sha256)
    return codebook


def read_quantiser(folder: Path, manifest: Manifest, *, check: bool) -> GlobalQuantiser | None:
    """Open the quantiser of an archive's global vectors, None if it has none; ``check`` compares its hash."""
    if manifest.quantiser is None:
        return None
    path = folder / manifest.quantiser.file
    quantiser = GlobalQuantiser.load(path, manifest.config)
    if check:
        file_format.check_hash(path, manifest.quantiser.sha256)
    return quantiser


def create_state(
    folder: Path,
    codebook: Codebook | None,
    config: IndexConfig,
    source: DescriptorSource | None,
    quantiser: GlobalQuantiser | None = None,
) -> tuple[WriterLease, State]:
    """Make an empty archive and return its lease, held, and its state.

    Raises:
        ArchiveError: there is an archive already, or a folder with other things in it.
        ConfigError: geometry with more than 65,536 words, or without a codebook; neither codebook nor global vectors.
        StorageError: it cannot be written.
    """
    if codebook is None and (config.keeps("positions") or not config.keeps_global):
        raise ConfigError("an archive without a codebook keeps global vectors (global_vectors) and no geometry")
    if codebook is not None and config.keeps("positions") and len(codebook) > MAX_WORDS:
        raise ConfigError(f"geometry holds words up to {MAX_WORDS}, but the codebook has {len(codebook)}")
    if config.needs_quantiser and quantiser is None:
        raise ConfigError(
            f"global_vectors {config.global_vectors!r} searched by {config.global_search!r} need a quantiser: train "
            "one with GlobalQuantiser.train"
        )
    problem = None if quantiser is None else quantiser.problem(config)
    if problem is not None:
        raise ConfigError(f"the quantiser does not fit the archive: {problem}")
    check_free(folder)
    for place in FOLDERS if config.keeps_global else FOLDERS[:-1]:
        make_folder(folder / place)
    lease = WriterLease(folder)
    try:
        check_free(folder)
        with lease.fenced() as through:
            manifest = Manifest(
                number=0,
                config=config,
                source=source,
                codebook=None if codebook is None else store(folder, CODEBOOK, codebook.encode(), through),
                codebook_id="" if codebook is None else codebook.id,
                words=0 if codebook is None else len(codebook),
                dim=0 if codebook is None else codebook.dim,
                quantiser=None if quantiser is None else store(folder, QUANTISER, quantiser.encode(), through),
            )
            publish(folder, manifest, through)
    except BaseException:
        lease.release()
        raise
    return lease, State(manifest, codebook, (), quantiser=quantiser)


def check_free(folder: Path) -> None:
    """Raise ``ArchiveError`` or ``StorageError`` unless an archive can be made at ``folder``."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        if folder.exists():
            raise ArchiveError(f"{folder} is a file, not an archive: give a new folder") from error
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}") from error
    if CURRENT in names:
        raise ArchiveError(f"{folder} is an archive already: open it to add photos, or give a new folder")
    foreign = {name for name in names - _OURS if not name.startswith(TEMPORARY)}
    if foreign:
        raise ArchiveError(f"{folder} exists and is not an archive (it holds {min(foreign)!r}): give a new folder")
