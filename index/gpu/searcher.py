"""``Searcher`` on a GPU: the same hits and scores, bit by bit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from ctxdeploy.core.device import Device
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.progress import announce
from ctxdeploy.index.codebook.aggregation import Aggregated, code_columns
from ctxdeploy.index.config import Scoring
from ctxdeploy.index.gpu import memory
from ctxdeploy.index.gpu.batch import GpuBatch, Packed, make_gpu_batch, pack
from ctxdeploy.index.gpu.memory import GpuError, GpuMemory, Views, gpu_memory
from ctxdeploy.index.gpu.pool import Pool
from ctxdeploy.index.ranking import Part
from ctxdeploy.index.search import Group, Searcher, similarity_table
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.stored import Chosen
from ctxdeploy.index.threads import SearchThreads

# The fewest places for the hits of a combination: more than ``top``, since a bin of the histogram is taken whole.
_LEAST_SLOTS = 1024
# Rows of a grid.
_MOST_RANGES = 65535


def open_gpu(device: Device, state: State) -> "GpuSearcher":
    """Return what searches a state on a GPU, to which its postings are copied.

    Raises:
        BackendError: there is no such GPU, numba-cuda cannot use it, or the postings do not fit.
        ConfigError: an archive without postings, or with float residuals.
    """
    state.check_local()
    if not state.manifest.config.binary:
        raise ConfigError(
            "the archive keeps float residuals, which are searched on the CPU alone: leave out --search-device"
        )
    try:
        return GpuSearcher(state, gpu_memory(device.number))
    except GpuError as error:
        raise BackendError(f"{error}: start again, or search on the CPU (leave out --search-device)") from error


class GpuSearcher(Searcher):
    """Scores over one state of an archive, whose postings lie in the memory of a GPU.

    ``search``, ``search_combined`` and what rests on ``best`` run there; ``matrix`` and ``parts`` on the CPU. Threads
    take turns. Where the GPU fails, this and later searches run on the CPU, with the same hits, and that is said once.

    Args:
        state: opened, with binary codes.
        gpu: where to.

    Raises:
        BackendError: the postings do not fit there.
        GpuError: it has failed.
    """

    def __init__(self, state: State, gpu: GpuMemory) -> None:
        super().__init__(state)
        self._gpu = gpu
        self._placed: GpuPostings | None = GpuPostings(state, gpu)

    @property
    def device(self) -> str:
        """Where the postings are searched: ``cpu``, or such as ``cuda:0``."""
        return "cpu" if self._placed is None else self._gpu.label

    def over(self, state: State) -> Searcher:
        """Return what searches another state there; what both have in common stays where it is."""
        try:
            return super().over(state) if self._placed is None else GpuSearcher(state, self._gpu)
        except GpuError as error:
            self._leave(error)
            return super().over(state)

    def prepare(self, query: Aggregated) -> None:
        """Load what a search needs, on the CPU as well; compiling the loops for the GPU takes some seconds."""
        super().prepare(query)
        self.search([query], 1, scoring=self.state.manifest.config.scoring(idf=False))

    def close(self) -> None:
        """Forget the postings; searches that run go on. May be called twice."""
        self._placed = None

    def best(
        self,
        groups: Sequence[Group],
        count: int,
        top: int,
        *,
        scoring: Scoring,
        threads: SearchThreads | None = None,
        among: Chosen | None = None,
    ) -> list[list[Part]]:
        """As ``Searcher.best``; in one part."""
        placed = self._placed
        if placed is not None:
            try:
                return placed.best(groups, count, top, scoring, among)
            except GpuError as error:
                self._leave(error)
        return super().best(groups, count, top, scoring=scoring, threads=threads, among=among)

    def _leave(self, error: GpuError) -> None:
        self._placed = None
        announce(f"{error}: searches run on the CPU from now on, with the same hits")


class GpuPostings:
    """The postings of a state on a GPU, and the passes of a search over them.

    Args:
        state: opened, with binary codes.
        gpu: where they are copied to, unless they are there.
    """

    def __init__(self, state: State, gpu: GpuMemory) -> None:
        self._state, self._gpu = state, gpu
        self._columns = code_columns(state.manifest.dim)
        self._length = int(state.bases[-1])
        self._placed = gpu.place(state)
        self._ranges = self._ranges_by_pool()
        self._factors: dict[bool, Any] = {}

    def best(
        self, groups: Sequence[Group], count: int, top: int, scoring: Scoring, among: Chosen | None
    ) -> list[list[Part]]:
        """Return the best photos of combinations, as ``Searcher.best``.

        Raises:
            GpuError: the GPU has failed.
        """
        found: list[list[Part]] = [[] for _ in range(count)]
        batch = make_gpu_batch(groups)
        if batch is None or not self._length:
            return found
        # Derived before the GPU is held.
        factors = self._state.factors(scoring.idf)
        table = similarity_table(scoring, self._state.manifest.dim)
        with self._gpu.using() as stream:
            here = self._device_factors(factors, scoring.idf, among, stream)
            together = max(1, memory.WORK // (12 * self._length))
            capacity = min(self._length, max(_LEAST_SLOTS, 2 * top))
            most = min(together, max(1, memory.SLOTS // capacity))
            for low in range(0, len(batch), most):
                wave = batch.combinations(low, min(low + most, len(batch)))
                totals = self._totals(wave, together, here, table, among, stream)
                for number, part in zip(
                    wave.numbers, self._hits(totals, len(wave), top, capacity, stream), strict=True
                ):
                    found[number].append(part)
        return found

    def _ranges_by_pool(self) -> list[tuple[Pool, Any]]:
        """Return each pool, and the ranges of this state's photos in it, on the GPU."""
        by_pool: dict[int, tuple[Pool, list[NDArray[np.int64]]]] = {}
        for one, base in zip(self._placed, self._state.bases[:-1].tolist(), strict=True):
            _, ranges = by_pool.setdefault(id(one.pool), (one.pool, []))
            ranges.append(one.ranges(base, memory.TILING))
        with self._gpu.using() as stream:
            return [(pool, cuda.to_device(np.concatenate(parts), stream=stream)) for pool, parts in by_pool.values()]

    def _device_factors(
        self, factors: Sequence[NDArray[np.float64]], idf: bool, among: Chosen | None, stream: Any
    ) -> Any:
        """Return the factor of each photo on the GPU: 0 for those that cannot be hits."""
        if among is not None:
            whole = np.zeros(self._length, np.float64)
            for base, photos, part in zip(self._state.bases.tolist(), among.photos, factors, strict=False):
                whole[base + photos] = part[photos]
            return self._gpu.put("among", whole)
        if idf not in self._factors:
            self._factors[idf] = cuda.to_device(np.concatenate(factors), stream=stream)
        return self._factors[idf]

    def _totals(
        self, wave: GpuBatch, together: int, factors: Any, table: NDArray[np.float32], among: Chosen | None, stream: Any
    ) -> Any:
        """Return the totals of combinations, float64, one after the other, on the GPU."""
        length, loops = self._length, self._gpu.loops(self._columns)
        queries = int(wave.terms[-1, 1])
        rows = self._gpu.scratch("rows", min(queries, together) * length, np.float32)
        totals = self._gpu.scratch("totals", len(wave) * length, np.float64)
        for low in range(0, queries, together):
            part = wave if queries <= together else wave.part(low, min(low + together, queries))
            packed = pack(part, table)
            views = self._gpu.put_batch(packed.data)
            self._score(packed, views, len(part.scales), rows, stream)
            loops.combine[(self._blocks(), len(wave)), memory.TILING.wide, stream](
                rows,
                length,
                factors,
                views.longs,
                views.doubles,
                packed.terms,
                packed.scales,
                packed.coefficients,
                low == 0,
                totals,
            )
        self._add(wave, totals, among, stream)
        return totals

    def _score(self, packed: Packed, views: Views, count: int, rows: Any, stream: Any) -> None:
        """Write the scores of so many queries into their rows."""
        loops = self._gpu.loops(self._columns)
        for pool, ranges in self._ranges:
            for first in range(0, len(ranges), _MOST_RANGES):
                grid = count, min(len(ranges) - first, _MOST_RANGES)
                loops.score[grid, memory.TILING.threads, stream](
                    pool.codes,
                    pool.images,
                    pool.splits,
                    ranges,
                    first,
                    views.longs,
                    views.bits,
                    views.ints,
                    views.floats,
                    packed.starts,
                    packed.codes,
                    packed.words,
                    packed.weights,
                    packed.table,
                    packed.entries,
                    rows,
                    self._length,
                )

    def _add(self, wave: GpuBatch, totals: Any, among: Chosen | None, stream: Any) -> None:
        """Add to the totals what some photos have more."""
        places, values = [], []
        for number, added in enumerate(wave.added):
            for photo, value in added.items():
                if self._is_scored(photo, among):
                    places.append(number * self._length + photo)
                    values.append(value)
        if places:
            self._gpu.loops(self._columns).add[1, memory.TILING.wide, stream](
                self._gpu.put("places", np.array(places, np.int64)),
                self._gpu.put("values", np.array(values, np.float64)),
                len(places),
                totals,
            )

    def _is_scored(self, photo: int, among: Chosen | None) -> bool:
        """Return whether the CPU scores a photo: of a shard whose few chosen ones are taken out, none but those."""
        shard = int(np.searchsorted(self._state.bases, photo, side="right")) - 1
        if not 0 <= shard < len(self._state.shards):
            return False
        if among is None:
            return True
        photos = among.photos[shard]
        return len(photos) > 0 and (not among.is_taken(shard) or photo - int(self._state.bases[shard]) in photos)

    def _hits(self, totals: Any, count: int, top: int, capacity: int, stream: Any) -> list[Part]:
        """Return of each combination its ``top`` best totals above 0, all as good as them, and some that are near."""
        gpu, tiling, length = self._gpu, memory.TILING, self._length
        loops, blocks = gpu.loops(self._columns), self._blocks()
        bits = totals.view(np.int64)
        histogram = gpu.scratch("histogram", count * tiling.bins, np.int32, zero=True)
        cuts = gpu.scratch("cuts", count, np.int64)
        # How many were found, then scores, then places, in one array that comes back at once.
        scores = count
        numbers = scores + count * capacity
        results = gpu.scratch("results", numbers + count * capacity, np.int64)
        loops.count[(blocks, count), tiling.wide, stream](bits, length, histogram)
        loops.cut[count, tiling.wide, stream](histogram, top, cuts, results)
        loops.collect[(blocks, count), tiling.wide, stream](bits, length, 0, cuts, capacity, results, scores, numbers)
        found = results[: numbers + count * capacity].copy_to_host(stream=stream)
        stream.synchronize()
        parts: list[Part] = []
        for number, size in enumerate(found[:count].tolist()):
            if size <= capacity:
                values = found[scores + number * capacity :][:size].view(np.float64)
                parts.append((values, found[numbers + number * capacity :][:size]))
            else:
                parts.append(self._all_hits(bits, number, count, size, cuts, stream))
        return parts

    def _all_hits(self, bits: Any, number: int, count: int, size: int, cuts: Any, stream: Any) -> Part:
        """Return what was found for a combination that found more than there was place for."""
        results = cuda.to_device(np.zeros(count + 2 * size, np.int64), stream=stream)
        self._gpu.loops(self._columns).collect[(self._blocks(), 1), memory.TILING.wide, stream](
            bits, self._length, number, cuts, size, results, count, count + size
        )
        found = results.copy_to_host(stream=stream)
        stream.synchronize()
        return found[count : count + size].view(np.float64), found[count + size :]

    def _blocks(self) -> int:
        """Return how many blocks go over all photos."""
        return min(-(-self._length // memory.TILING.wide), memory.TILING.blocks)
