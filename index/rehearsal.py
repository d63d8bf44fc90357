"""Compiling ahead: every loop of the index has its machine code before the first photo or question comes.

numba compiles a loop for the types of its first call. So small archives are made, changed and asked in every way that
there is; what is compiled is kept (``kernels/cache.py``), and each process afterwards reads it in a fraction of a
second. A test holds that to every loop of ``kernels``, and to what the other tests of the index compile.
"""

import os
import pkgutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxdeploy.core.errors import StorageError
from ctxdeploy.index.codebook.assignment import CellAssigner, Cells
from ctxdeploy.index.codebook.codebook import Codebook
from ctxdeploy.index.codebook.gpu_assignment import GpuAssigner
from ctxdeploy.index.codebook.quantiser import GlobalQuantiser
from ctxdeploy.index.config import GEOMETRIES, GLOBAL_VECTORS, IndexConfig
from ctxdeploy.index.index import Index
from ctxdeploy.index.refinement import refined_scores
from ctxdeploy.index.verification import MATCHES, VerificationConfig, verify

if TYPE_CHECKING:
    from ctxdeploy.core.types import LocalDescriptors

# Codes of one, two and more columns of 64 bits have loops of their own.
_DIMS, _WORDS, _CELLS = (64, 128), 64, 8
_PHOTOS, _DESCRIPTORS = 6, 24
# A batch of so many queries and more reads a posting once for all of them (``Searcher``).
_BATCH = 40
# From so many on vectors are compared by BLAS.
_MANY = 32
_SEED = 7


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What warming up did.

    Attributes:
        loops: how many there are.
        compiled: loops, times signatures, that were compiled.
        read: that were read from a folder of machine code, or in this process before.
        seconds: it took.
        processor: that they are compiled for, in LLVM's words.
        folder: where machine code is kept; None where no folder can be written.
        kept: whether all that was compiled is there now, so that another process finds it.
    """

    loops: int
    compiled: int
    read: int
    seconds: float
    processor: str
    folder: str | None
    kept: bool

    def metadata(self) -> dict[str, Any]:
        """Return the result as JSON prints it."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def warm_up() -> WarmUp:
    """Compile every loop of the index, or read its machine code: 0.5 s if all is there, else up to 30 s.

    Raises:
        StorageError: no temporary folder can be written (``TMPDIR``); 2 MB are needed.
        ConfigError: ``CTXDEPLOY_PROCESSOR`` names a processor that this one is not.
    """
    from ctxdeploy.index import kernels
    from ctxdeploy.index.kernels.cache import TALLY
    from ctxdeploy.index.kernels.intrinsics import LOOPS
    from ctxdeploy.index.kernels.processor import target

    begin = time.perf_counter()
    for module in pkgutil.iter_modules(kernels.__path__):
        import_module(f"{kernels.__name__}.{module.name}")
    compiled, lost = TALLY.compiled, TALLY.lost
    with _temporary_folder() as folder:
        _rehearse(folder)
    place = LOOPS[0]._cache.kept_in()
    return WarmUp(
        loops=len(LOOPS),
        compiled=TALLY.compiled - compiled,
        read=sum(len(loop.signatures) for loop in LOOPS) - (TALLY.compiled - compiled),
        seconds=time.perf_counter() - begin,
        processor=target()[1],
        folder=None if place is None else str(place.top),
        kept=TALLY.lost == lost,
    )


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a folder for small archives: in memory, where a commit takes no time and a read-only disk is no matter."""
    memory = "/dev/shm"
    place = memory if os.access(memory, os.W_OK | os.X_OK) else None
    try:
        folder = tempfile.TemporaryDirectory(prefix="ctxdeploy-", dir=place, ignore_cleanup_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"no temporary folder can be written ({reason}): name one with TMPDIR") from error
    with folder as name:
        yield Path(name)


def _rehearse(folder: Path) -> None:
    """Make archives of every kind, change them, and ask them in every way."""
    random = np.random.default_rng(_SEED)
    for dim in _DIMS:
        photos = [_photo(random, dim) for _ in range(_PHOTOS)]
        sample = np.concatenate([photo.vectors for photo in photos])
        codebook = Codebook.train(sample, _WORDS, iterations=1)
        for config in _configurations(dim):
            path = folder / f"{dim}-{config.aggregation}-{config.binary}-{config.geometry}"
            _make(path, codebook, photos, config)
            _ask(path, sample)
            if config.keeps("positions"):
                _verify(path, photos[0])
            _change(path, codebook, photos)
    _assign_by_cells(codebook, sample)
    _ask_globally(folder, random)


def _configurations(dim: int) -> Iterator[IndexConfig]:
    yield IndexConfig(shard_images=4)
    if dim == max(_DIMS):
        yield IndexConfig(binary=False, shard_images=4)
        for geometry in GEOMETRIES[1:]:
            yield IndexConfig(geometry=geometry, idf=True)


def _photo(random: np.random.Generator, dim: int) -> "LocalDescriptors":
    """Return descriptors of which photos share some, so that they find each other."""
    from ctxdeploy.core.types import LocalDescriptors

    shared = np.random.default_rng(_SEED).normal(size=(_DESCRIPTORS, dim))
    return LocalDescriptors(
        vectors=(shared + 0.3 * random.normal(size=shared.shape)).astype(np.float32),
        positions=(np.arange(2 * _DESCRIPTORS).reshape(-1, 2) % 17 * 30 + random.random((_DESCRIPTORS, 2))).astype(
            np.float32
        ),
        scales=np.ones(_DESCRIPTORS, np.float32),
    )


def _make(path: Path, codebook: Codebook, photos: "list[LocalDescriptors]", config: IndexConfig) -> None:
    with Index.create(path, codebook, config=config) as index:
        index.add_many((str(number), photo) for number, photo in enumerate(photos))
        index.commit()
        index.add("again", photos[0], size=(640, 480))


def _ask(path: Path, sample: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    with Index.open(path) as index:
        index.prepare()
        first = index.search(sample[:_DESCRIPTORS], 3)
        names = [hit.name for hit in first]
        index.search(sample[:_DESCRIPTORS], 100, expand=2, idf=True, threshold=-1.0)
        index.search_batch([sample[n : n + 4] for n in range(_BATCH)], 3)
        index.search_batch([sample[n : n + 4] for n in range(_BATCH)], 3, among=names)
        index.search_batch(names, 3, among=["2", "3"], expand=1)
        index.search_combined([[(names[0], 1.0), (sample[:4], 0.5)]], 3)
        index.scores(names, names)
        index.common_words(sample[:_DESCRIPTORS], names[0])
        list(index.search_all(2))
        list(index.search_all(2, names=names[:2], among=names))
        index.verify()


def _change(path: Path, codebook: Codebook, photos: "list[LocalDescriptors]") -> None:
    """Replace, remove, merge and compact."""
    other = path.with_suffix(".other")
    with Index.open(path) as index:
        config = index.config
    with Index.create(other, codebook, config=config) as index:
        index.add("other", photos[1])
    with Index.open(path, writable=True) as index:
        index.add("0", photos[2], replace=True)
        index.remove(["1"])
        index.merge(other)
        index.commit()
        index.compact(purge=True)
        index.search("0", 3, among=["0", "2"])
        if not config.keeps("positions"):
            index.add_aggregated("aggregated", index.aggregate(photos[3]))


def _verify(path: Path, photo: "LocalDescriptors") -> None:
    with Index.open(path) as index:
        asked = index.features(photo, size=(640, 480))
        stored = index.features("0")
        if asked is None or stored is None:
            return
        for matches in MATCHES[: None if index.config.keeps("descriptors") else 1]:
            for model in ("affine", "similarity"):
                config = VerificationConfig(matches=matches, model=model)
                verify(asked, [stored], config)
                verify(stored, [stored], config)
                verify(asked, [asked], config)
        verify(stored, [stored], VerificationConfig(matches="words"))


def _assign_by_cells(codebook: Codebook, sample: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """Assign as large codebooks do."""
    offsets = np.linspace(0, _WORDS, _CELLS + 1).astype(np.int32)
    order = np.arange(_WORDS, dtype=np.int32)
    cells = Cells(centres=codebook.centroids[:_CELLS].copy(), order=order, offsets=offsets, probes=2)
    partitioned = Codebook(codebook.centroids, cells=cells)
    partitioned.assign(sample, 5)
    partitioned.assign(sample, _WORDS // 2)
    alone = CellAssigner(codebook.centroids, cells)
    GpuAssigner(alone, codebook.centroids, cells, _Products(sample), worth=0).search(sample, 5)


class _Products:
    """Multiplies a matrix in place of a GPU."""

    def __init__(self, rows: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self._rows = rows

    def hold(self, rows: np.ndarray[Any, np.dtype[np.float32]]) -> "_Products":
        return _Products(rows)

    def best(self, queries: np.ndarray[Any, np.dtype[np.float32]], count: int) -> tuple[Any, Any]:
        scores = queries @ self._rows.T
        found = np.ascontiguousarray(np.argsort(-scores, axis=1, kind="stable")[:, :count])
        return np.take_along_axis(scores, found, axis=1), found


def _ask_globally(folder: Path, random: np.random.Generator) -> None:
    vectors = random.normal(size=(320, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for kept in GLOBAL_VECTORS[1:]:
        for search in ("exact", "ivf"):
            config = IndexConfig(global_vectors=kept, global_dim=16, global_search=search)
            quantiser = GlobalQuantiser.train(vectors, config, cells=4) if config.needs_quantiser else None
            path = folder / f"{kept}-{search}"
            with Index.create(path, None, config=config, quantiser=quantiser) as index:
                for number, vector in enumerate(vectors[:8]):
                    index.add(str(number), None, global_descriptor=vector)
            with Index.open(path, writable=True) as index:
                index.prepare()
                index.remove(["7"])
                index.search_global(vectors[:2], 3, probes=1 if search == "ivf" else None)
                index.search_global(vectors[:_MANY], 3)
                index.search_global(["0"], 3, among=["1", "2"])
                refined_scores(vectors[0], index.global_vectors(["0", "1", "2"]))
                index.compact(purge=True)
