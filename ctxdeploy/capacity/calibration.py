"""A minute of measurements on this machine: photos through the model, searches, the disk, the memory."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxdeploy.bench import bandwidth, own_memory, photo_files, timed
from ctxdeploy.bench.machine import load, machine
from ctxdeploy.capacity.measurement import Measurement
from ctxdeploy.capacity.search_calibration import LARGE, SMALL, VECTORS, global_rates, search_costs
from ctxdeploy.capacity.subject import asked_facts
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import NoPhotosError, StorageError
from ctxdeploy.core.files import working_folder
from ctxdeploy.core.progress import Display

if TYPE_CHECKING:
    from ctxdeploy.index import Index
    from ctxdeploy.runtime import BackendConfig, Extractor

_DISK_BYTES, _CHUNK, _HASHED = 256 << 20, 8 << 20, 64 << 20
# Photos that say how many words a photo has, and a run's least and most for its speed.
_DISTINCT, _LEAST, _MOST = 48, 8, 400
_MAY_WRITE = "choose another folder for the measurements with --work"


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How much is measured.

    Attributes:
        photo_seconds: about so long photos are extracted.
        small, large: photos of the synthetic archive's first shard and of both.
        vectors: global vectors of each kind.
        disk_bytes: written and read.
    """

    photo_seconds: float = 20.0
    small: int = SMALL
    large: int = LARGE
    vectors: int = VECTORS
    disk_bytes: int = _DISK_BYTES


def calibrate(
    bundle: Bundle,
    backend: "BackendConfig",
    photos: Path | None,
    work: Path,
    display: Display,
    config: CalibrationConfig | None = None,
) -> Measurement:
    """Measure this machine.

    Args:
        bundle: the model.
        backend: runtime, precision and threads of the network.
        photos: a folder of photos like those to come; None for the samples.
        work: a folder, new or not, on the disk that is to be measured; what is written there is removed.
        display: shows progress.
        config: how much.

    Raises:
        MissingExtraError: neither photos nor samples are there, or no runtime.
        NoPhotosError, ConfigError: the folder holds no photos that can be read.
        StorageError: ``work`` cannot be written.
    """
    config, about, busy = config or CalibrationConfig(), machine(), load()
    with working_folder(work, advice=_MAY_WRITE) as place:
        costs, count = photo_costs(bundle, backend, photos, place, display, config.photo_seconds)
        costs |= search_costs(place, about["processors"], display, small=config.small, large=config.large)
        with display.progress("global vectors", 4, "kinds") as bar:
            rates = global_rates(place, about["processors"], bar.advance, vectors=config.vectors)
        with display.progress("disk and memory", 3, "parts") as bar:
            costs |= disk_costs(place, config.disk_bytes)
            bar.advance()
            costs["hash_rate"] = hash_rate()
            bar.advance()
            costs["bandwidth"] = bandwidth(3, about["processors"])
            bar.advance()
    kept = ("processor", "processors", "memory_bytes", "system")
    return Measurement(
        machine={name: about[name] for name in kept},
        model=bundle.model_id,
        words=0 if bundle.codebook is None else bundle.codebook.words,
        photos=count,
        load=busy or 0.0,
        costs=costs,
        global_rates=rates,
    )


def photo_costs(
    bundle: Bundle, backend: "BackendConfig", photos: Path | None, work: Path, display: Display, seconds: float
) -> tuple[dict[str, float], int]:
    """Index photos, and return what they cost and are like, and how many there were.

    Different photos say how many words a photo and a query have; then photos are indexed for ``seconds``, the same
    again if they are few, which says how fast that is.
    """
    from ctxdeploy.runtime import Extractor

    files = photo_files(photos, _DISTINCT, work)
    found = {"photo_bytes": float(np.mean([file.stat().st_size for file in files]))}
    if photos is not None:
        found["name_bytes"] = _name_bytes(photos)
    extractor = Extractor(bundle, backend=backend)
    local = "local" in bundle.extraction.gives
    first = work / "first.ctxindex"
    _index(extractor, bundle, _linked(files, len(files), work / "first"), first, display, described=local)
    if local:
        found |= _words(first, trained=bundle.codebook is None)
    report = _index(extractor, bundle, _linked(files, _LEAST, work / "few"), work / "few.ctxindex", display)
    count = int(min(max(seconds / max(report.seconds / report.indexed, 1e-3), _LEAST), _MOST))
    report = _index(extractor, bundle, _linked(files, count, work / "many"), work / "many.ctxindex", display)
    found["seconds_per_photo"] = report.seconds / report.indexed
    memory = own_memory()
    if memory is not None:
        found["process_memory"] = float(memory)
    return found, report.indexed


def _linked(files: Sequence[Path], count: int, folder: Path) -> Path:
    """Return a new folder with so many names of the files, each again where they are fewer."""
    try:
        folder.mkdir()
        for number in range(count):
            file = files[number % len(files)]
            (folder / f"{number:05d}{file.suffix}").symlink_to(file.resolve())
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; {_MAY_WRITE}") from error
    return folder


def _index(
    extractor: "Extractor", bundle: Bundle, folder: Path, archive: Path, display: Display, *, described: bool = False
) -> Any:
    from ctxdeploy.indexing.config import IndexingConfig
    from ctxdeploy.photo_index import PhotoIndex

    config = IndexingConfig(geometry="descriptors" if described else "none")
    with PhotoIndex.create(archive, config=config, extractor=extractor) as made:
        report = made.add(folder, display=display)
    if not report.indexed:
        raise NoPhotosError(f"none of {report.found} photos can be read: give others with --sample")
    return report


def _words(archive: Path, *, trained: bool) -> dict[str, float]:
    """Return descriptors and words of photos and queries; of a codebook of so few photos only the descriptors hold."""
    from ctxdeploy.index import Index

    with Index.open(archive) as index:
        facts = index.info()
        found = {"features_per_photo": facts["features"]["count"] / facts["images"]}
        if trained:
            return found
        found["words_per_photo"] = facts["words_per_image"]
        if len(index) > 1:
            found |= asked_facts(index)
        found["query_seconds"] = _query_seconds(index)
        return found


def _query_seconds(index: "Index") -> float:
    """Return the median seconds to assign and aggregate the descriptors of a query."""
    from ctxdeploy.core.cpu import available_processors
    from ctxdeploy.index import SearchThreads
    from ctxdeploy.index.codebook import aggregate

    threads = SearchThreads(available_processors())
    times = []
    try:
        for name in [name for name, _ in zip(index.names(), range(12), strict=False)]:
            features = index.features(name)
            if features is None or features.vectors is None:
                continue
            vectors = np.ascontiguousarray(features.vectors)

            def ask(vectors: Any = vectors) -> object:
                words = index.codebook.assign(vectors, index.config.query_assignment, threads=threads)
                return aggregate(vectors, words, index.codebook.centroids, binary=index.config.binary)

            ask()
            times.append(timed(ask)[0])
    finally:
        threads.close()
    return median(times) if times else 0.0


def _name_bytes(folder: Path) -> float:
    from ctxdeploy.core.text import name_bytes
    from ctxdeploy.runtime import find_photos

    return float(np.mean([len(name_bytes(photo.name)) for photo in find_photos(folder)]))


def disk_costs(work: Path, size: int) -> dict[str, float]:
    """Return bytes a second written to a disk, synced, and read from it again, where the system forgets them first."""
    path, chunk = work / "disk", np.random.default_rng(0).bytes(min(_CHUNK, size))
    try:
        written, _ = timed(lambda: _write(path, chunk, size))
        _forget(path)
        read, _ = timed(lambda: _read(path))
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; {_MAY_WRITE}") from error
    finally:
        with suppress(OSError):
            path.unlink()
    return {"disk_write": size / written, "disk_read": size / read}


def _write(path: Path, chunk: bytes, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(-(-size // len(chunk))):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(_CHUNK):
            pass


def _forget(path: Path) -> None:
    """Ask the system to drop a file's pages, or what is read is memory."""
    advise: Callable[..., None] | None = getattr(os, "posix_fadvise", None)
    if advise is not None:
        with path.open("rb") as file:
            advise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def hash_rate() -> float:
    """Return the bytes a second of sha256."""
    data = bytes(_HASHED)
    return _HASHED / min(timed(lambda: hashlib.sha256(data).digest())[0] for _ in range(3))
