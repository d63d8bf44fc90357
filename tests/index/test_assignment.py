"""The nearest words: against plain loops in float64, alone as in company, and with numbers that no file should hold."""

import hashlib
import inspect
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ctxdeploy.models
from ctxdeploy.index import Codebook
from ctxdeploy.index.codebook.assignment import CellAssigner, Cells, FlatAssigner
from ctxdeploy.index.codebook.training import build_cells, cluster, fill_cells, number_by_cell
from ctxdeploy.index.kernels import cells as cell_kernels
from ctxdeploy.index.kernels import integers as integer_kernels
from ctxdeploy.index.kernels import packed as packed_kernels
from ctxdeploy.index.threads import SearchThreads


def rows(count: int, dim: int = 16, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def nearest(vectors: Any, centroids: Any, count: int, allowed: Any = None) -> tuple[Any, Any]:
    """Return words and squared distances by plain loops, ``allowed`` words alone if given, row by row."""
    words, distances = [], []
    for number, vector in enumerate(vectors.astype(np.float64)):
        squared = [float(((vector - word) ** 2).sum()) for word in centroids.astype(np.float64)]
        candidates = range(len(centroids)) if allowed is None else allowed[number]
        best = sorted((squared[word], word) for word in candidates)[:count]
        words.append([word for _, word in best])
        distances.append([distance for distance, _ in best])
    return np.array(words), np.array(distances)


@pytest.mark.parametrize(
    ("words", "dim", "count"),
    [(1, 1, 1), (5, 3, 5), (16, 16, 4), (63, 100, 5), (64, 128, 5), (65, 17, 1), (200, 33, 12), (300, 48, 64)],
)
def test_flat_equals_loops(words: int, dim: int, count: int) -> None:
    centroids, vectors = rows(words, dim), rows(40, dim, seed=1)
    found, distances = FlatAssigner(centroids).search(vectors, count)
    expected, squared = nearest(vectors, centroids, count)
    assert found.dtype == np.int32 and np.array_equal(found, expected)
    assert np.allclose(distances, squared, rtol=1e-12, atol=0)


@given(
    words=st.integers(1, 150),
    dim=st.integers(1, 40),
    vectors=st.integers(1, 30),
    count=st.integers(1, 20),
    offset=st.sampled_from([0.0, 50.0]),
    seed=st.integers(0, 1000),
)
def test_flat_equals_loops_for_any_size(
    words: int, dim: int, vectors: int, count: int, offset: float, seed: int
) -> None:
    centroids = rows(words, dim, seed) + np.float32(offset)
    centroids[words // 2 :] = centroids[: words - words // 2].copy()  # equal distances go to the lower word
    data = rows(vectors, dim, seed + 1) + np.float32(offset)
    count = min(count, words)
    assert np.array_equal(FlatAssigner(centroids).search(data, count)[0], nearest(data, centroids, count)[0])


@settings(max_examples=40, deadline=None)
@given(
    cells=st.integers(1, 90),
    dim=st.integers(1, 40),
    probes=st.integers(1, 90),
    levels=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_nearest_cells_are_the_nearest(cells: int, dim: int, probes: int, levels: int, seed: int) -> None:
    """On a grid of few values, so that distances are equal, and exact in float32."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, levels, (cells, dim)).astype(np.float32)
    vectors = random.integers(0, levels, (20, dim)).astype(np.float32)
    probes = min(probes, cells)
    chosen, near = cell_kernels.nearest_cells(vectors, centres, np.zeros((1, -(-dim // 16) * 16), np.float32), probes)
    assert np.array_equal(chosen, np.sort(nearest(vectors, centres, probes)[0], axis=1))
    assert np.array_equal(near, np.square(vectors[:, None] - centres[chosen]).sum(axis=2))


@pytest.mark.parametrize(("probes", "count", "dim"), [(1, 3, 20), (4, 5, 32), (9, 16, 7)])
def test_cells_equal_loops_over_their_words(probes: int, count: int, dim: int) -> None:
    centroids, vectors = rows(900, dim), rows(60, dim, seed=1)
    cells = fill_cells(centroids, cluster(centroids, 12, seed=0, iterations=3).centroids, probes)
    owner = nearest(centroids, cells.centres, 1)[0][:, 0]
    near = nearest(vectors, cells.centres, probes)[0]
    allowed = [np.flatnonzero(np.isin(owner, chosen)).tolist() for chosen in near]
    found = CellAssigner(centroids, cells).search(vectors, count)[0]
    assert np.array_equal(found, nearest(vectors, centroids, count, allowed)[0])
    everywhere = CellAssigner(centroids, replace(cells, probes=12)).search(vectors, count)[0]
    assert np.array_equal(everywhere, nearest(vectors, centroids, count)[0])


def test_words_numbered_by_cell_are_the_same_words() -> None:
    centroids, vectors = rows(700), rows(50, seed=1)
    cells = fill_cells(centroids, centroids[:9], 3)
    renumbered, sorted_cells = number_by_cell(centroids, cells)
    found = CellAssigner(renumbered, sorted_cells).search(vectors, 5)[0]
    assert np.array_equal(cells.order[found], CellAssigner(centroids, cells).search(vectors, 5)[0])


def test_rows_by_cell() -> None:
    chosen = np.array([[0, 3], [1, 3], [0, 1]], np.int32)
    near, nearest_ = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 1, 1])
    members, distances, ends = packed_kernels.by_cell(chosen, near, nearest_, True, 5)
    assert members.tolist() == [0, 2, 1] and distances.tolist() == [0, 5, 3] and ends.tolist() == [0, 1, 2, 2, 3, 3]
    members, distances, ends = packed_kernels.by_cell(chosen, near, nearest_, False, 5)
    assert members.tolist() == [2, 1, 0] and distances.tolist() == [4, 2, 1] and ends.tolist() == [0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("through_cells", [False, True])
def test_alone_as_in_company(through_cells: bool) -> None:
    """1000 rows fill several blocks of rows and leave rests; 20,000 fill several calls of the kernels."""
    centroids, vectors = rows(600, 24), rows(20_000, 24, seed=1)
    assigner = (
        CellAssigner(centroids, fill_cells(centroids, centroids[:8], 2)) if through_cells else FlatAssigner(centroids)
    )
    together, distances = assigner.search(vectors, 5)
    for size in (1, 5, 7, 383, 1000):
        part, part_distances = assigner.search(vectors[100 : 100 + size], 5)
        assert np.array_equal(part, together[100 : 100 + size])
        assert np.array_equal(part_distances, distances[100 : 100 + size])
    assert assigner.search(vectors[:0], 5)[0].shape == (0, 5)


@given(
    cells=st.sampled_from([0, 1, 2, 9, 40]),
    count=st.sampled_from([1, 5, 30]),
    size=st.integers(0, 260),
    threads=st.integers(2, 7),
    seed=st.integers(0, 99),
)
def test_threads_find_what_one_finds(cells: int, count: int, size: int, threads: int, seed: int) -> None:
    """On a grid of few values: many words are equally near, and the order among them must not depend on the parts."""
    random = np.random.default_rng(seed)
    centroids, vectors = (random.integers(0, 3, (n, 5)).astype(np.float32) for n in (400, size))
    probes = int(random.integers(1, max(cells, 1) + 1))
    parts = fill_cells(centroids, centroids[:cells].copy(), probes) if cells else None
    assigner = FlatAssigner(centroids) if parts is None else CellAssigner(centroids, parts)
    with closing(SearchThreads(threads)) as helpers:
        found, distances = assigner.search(vectors, count, helpers)
    alone, squared = assigner.search(vectors, count)
    assert np.array_equal(found, alone) and np.array_equal(distances, squared)


@pytest.mark.parametrize("through_cells", [False, True])
def test_threads_find_what_one_finds_in_many_rows(through_cells: bool) -> None:
    """8191 and 20,000 rows: one block of rows that threads divide; three, fewer than threads, and more."""
    centroids, vectors = rows(600, 24), rows(20_000, 24, seed=1)
    cells = fill_cells(centroids, centroids[:8], 2)
    assigner = CellAssigner(centroids, cells) if through_cells else FlatAssigner(centroids)
    together = assigner.search(vectors, 5)[0]
    for threads, size in ((2, 20_000), (2, 8191), (5, 20_000)):
        with closing(SearchThreads(threads)) as helpers:
            assert np.array_equal(assigner.search(vectors[:size], 5, helpers)[0], together[:size])


def test_threads_may_assign_at_once() -> None:
    codebook, vectors = Codebook.from_centroids(rows(5000, 8)), rows(3000, 8, seed=1)
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda _: codebook.assign(vectors, 5), range(4)))
    alone = Codebook.from_centroids(rows(5000, 8)).assign(vectors, 5)
    assert all(np.array_equal(words, alone) for words in found)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, 1e30])
@pytest.mark.parametrize("everywhere", [False, True])
def test_numbers_of_a_damaged_file_lead_to_words_all_the_same(bad: float, everywhere: bool) -> None:
    centroids = rows(500, 20)
    centres = centroids[:8].copy()
    centroids[slice(None) if everywhere else slice(3, 400, 7)] = bad
    centres[slice(None) if everywhere else slice(0, 3)] = bad
    order, offsets = np.arange(500, dtype=np.int32), np.linspace(0, 500, 9).astype(np.int32)
    cells = Cells(centres=centres, order=order, offsets=offsets, probes=2)
    for assigner in (FlatAssigner(centroids), CellAssigner(centroids, cells)):
        words = assigner.search(rows(50, 20, seed=1), 5)[0]
        assert words.min() >= 0 and words.max() < 500
        assert all(len(set(line)) == 5 for line in words.tolist())
    fill_cells(centroids, centres, 2)
    assert build_cells(centroids) is None


def test_empty_cells_and_one_that_holds_all() -> None:
    centroids, vectors = rows(300), rows(20, seed=1)
    for offsets in ([0, 0, 300, 300], [0, 300, 300, 300], [0, 0, 0, 300]):
        cells = Cells(
            centres=rows(3, seed=2),
            order=np.arange(300, dtype=np.int32)[::-1].copy(),
            offsets=np.array(offsets, np.int32),
            probes=1,
        )
        assert np.array_equal(
            CellAssigner(centroids, cells).search(vectors, 4)[0], FlatAssigner(centroids).search(vectors, 4)[0]
        )


@settings(max_examples=60, deadline=None)
@given(
    scale=st.sampled_from([1e-30, 1e-18, 1e-9, 1e-3, 1.0, 1e6, 1e14, 1e17]),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    spread=st.sampled_from([1e-3, 1.0, 30.0]),
    dim=st.integers(1, 70),
    count=st.sampled_from([1, 5, 17, 40]),
    seed=st.integers(0, 999),
)
def test_words_that_int8_cannot_tell_apart_are_in_their_order(
    scale: float, offset: float, spread: float, dim: int, count: int, seed: int
) -> None:
    """Words whose distances differ by less than rounding to int8 takes, among others; descriptors near and far away."""
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(6, dim))
    centroids = kinds[random.integers(0, 6, 200)] + 1e-4 * random.normal(size=(200, dim)) + offset
    vectors = kinds[random.integers(0, 6, 12)] + spread * random.normal(size=(12, dim)) + offset
    centroids, vectors = ((scale * rows).astype(np.float32) for rows in (centroids, vectors))
    expected = nearest(vectors, centroids, count)[0]
    assert np.array_equal(FlatAssigner(centroids).search(vectors, count)[0], expected)
    cells = fill_cells(centroids, centroids[:5].copy(), 5)
    assert np.array_equal(CellAssigner(centroids, cells).search(vectors, count)[0], expected)


@pytest.mark.parametrize("count", [1, 5])
def test_more_equal_words_than_are_noted(count: int) -> None:
    centroids, vectors = rows(3000, 12), rows(20, 12, seed=1)
    centroids[1000:2500] = vectors[3]
    cells = fill_cells(centroids, centroids[:20].copy(), 6)
    for assigner in (FlatAssigner(centroids), CellAssigner(centroids, cells)):
        found, distances = assigner.search(vectors, count)
        assert found[3].tolist() == list(range(1000, 1000 + count)) and not distances[3].any()
    assert np.array_equal(FlatAssigner(centroids).search(vectors, count)[0], nearest(vectors, centroids, count)[0])


@pytest.mark.parametrize("dim", [5, 64, 128])
def test_no_true_distance_is_outside_its_bounds(dim: int) -> None:
    """The bounds of all words in one cell of 16 lanes, as the products of int8 give them."""
    centroids, vectors = rows(16, dim), rows(50, dim, seed=1)
    centroids[3] = 0
    centroids[4, 1:] = 0
    flat = FlatAssigner(centroids)
    _, lanes, _, _, _, worst, origin = flat._words
    whole, sums, facts = packed_kernels._rounded(vectors, origin)
    codes = flat._words[0].view(np.uint8).reshape(-1, 16, 4).transpose(1, 0, 2).reshape(16, -1)
    products = codes.astype(np.int64) @ whole.T.astype(np.int64) + sums
    middle = facts[:, 3] + lanes[0, 0][:, None] - lanes[0, 1][:, None] * facts[:, 0] * products
    margin = lanes[0, 1, :, None] * lanes[0, 2, :, None] * (facts[:, 1] * worst[0] + facts[:, 2])
    true = np.square(centroids[:, None].astype(np.float64) - vectors).sum(axis=2)
    assert (np.abs(true - middle) <= margin * 1.001 + 1e-4).all()
    assert np.median(margin / true) < 0.1


@pytest.mark.parametrize("way", ["plain", "pairs128", "pairs256", "pairs512", "vnni256", "vnni512"])
def test_products_are_the_same_in_every_way(way: str) -> None:
    needed = {
        "pairs128": ["sse2"], "pairs256": ["avx2"], "pairs512": ["avx512bw"],
        "vnni256": ["avxvnni"], "vnni512": ["avx512vnni"],
    }  # fmt: skip
    if not integer_kernels.has(*needed.get(way, [])):
        pytest.skip("the processor has no such instructions")
    groups, count, blocks = 9, integer_kernels.ROWS, 2
    tile = integer_kernels._tile(blocks, way)

    @numba.njit
    def multiply(codes: Any, lanes: Any, rows: Any, own: Any, facts: Any, found: Any) -> None:
        tile(codes, 0, lanes, 0, groups, rows, 0, own, 0, facts, 0, found, 0, codes, 0)

    random = np.random.default_rng(0)
    words = random.integers(-128, 128, (32, 4 * groups)).astype(np.int8)
    words[:2], words[2:4] = -127, 127
    numbers = random.integers(-127, 128, (count, 4 * groups)).astype(np.int8)
    numbers[0], numbers[1] = -127, 127
    biased = (words.astype(np.int16) + 128).astype(np.uint8)
    codes = biased.reshape(blocks, 16, groups, 4).transpose(0, 2, 1, 3).copy().view(np.uint32)
    norms, steps, sizes = random.random((3, blocks, 16), np.float32) + np.float32(1)
    facts = (random.random((count, 3), np.float32) + np.float32(1)) * np.float32([1, 1, -1000])
    found = np.zeros((count, integer_kernels.WIDE), np.float32)
    starts, sums = np.arange(count) * 4 * groups, -128 * numbers.sum(axis=1, dtype=np.int64)
    own = np.concatenate([starts, sums, np.zeros(count, np.int64)])
    multiply(codes, np.stack([norms, steps, sizes], axis=1), numbers, own, facts, found)
    masks = own[2 * count :]
    products = numbers.astype(np.int64) @ words.T.astype(np.int64)
    step, error, limit = facts.astype(np.float64).T[:, :, None]
    expected = norms.reshape(-1) - steps.reshape(-1) * (step * products + error * sizes.reshape(-1))
    assert np.allclose(found[:, :32], expected, rtol=1e-6, atol=1e-2)
    assert masks.tolist() == [sum(1 << i for i in range(32) if row[i] <= limit[r]) for r, row in enumerate(found)]
    assert sum(masks.tolist()) > 0


def test_the_cells_lose_few_of_the_nearest() -> None:
    random = np.random.default_rng(0)
    turn = random.normal(size=(8, 40))
    data = (random.normal(size=(31_000, 8)) @ turn + 0.1 * random.normal(size=(31_000, 40))).astype(np.float32)
    codebook = Codebook.train(data[:30_000], 4200, iterations=2)
    found = codebook.assign(data[30_000:], 5)
    truth = nearest_by_matrix(data[30_000:], codebook.centroids)
    assert codebook.cells is not None and codebook.cells.probes < len(codebook.cells.centres)
    assert (found[:, :, None] == truth[:, None, :]).any(axis=1).mean() >= 0.992
    assert np.array_equal(codebook.assign(data[30_000:], 5, exact=True), truth)


def nearest_by_matrix(vectors: Any, centroids: Any) -> Any:
    """Return the five nearest words of each, all distances in float64."""
    squared = [np.square(centroids.astype(np.float64) - vector).sum(axis=1) for vector in vectors.astype(np.float64)]
    return np.argsort(squared, axis=1, kind="stable")[:, :5]


def words_of_the_built_in_codebook() -> Any:
    """Return the five words of 2000 descriptors half-way between two words each."""
    codebook = Codebook.load(Path(ctxdeploy.models.__file__).parent / "lite-small" / "codebook.safetensors")
    first = np.arange(2000)
    return codebook.assign((codebook.centroids[first] + codebook.centroids[7 * first + 3]) / np.float32(2), 5)


LEVEL = "CTXDEPLOY_PROCESSOR"
# As versions 0.1 and 0.2 assign, which compare in float32.
KNOWN = "b37ad9e31f9fd0e1396825d55716d70b76fd5e8466438d3795787407a9523f36"


def test_words_are_those_of_earlier_versions() -> None:
    assert hashlib.sha256(words_of_the_built_in_codebook().astype("<i4").tobytes()).hexdigest() == KNOWN


# Each compiles all loops of the words anew. The products, which are what differs, are compared in every way above.
@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("processor", "way"),
    [({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, "plain"), ({LEVEL: "x86-64-v3"}, "pairs256")],
)
def test_words_are_the_same_on_a_processor_with_less(processor: dict[str, str], way: str) -> None:
    if LEVEL in processor and not integer_kernels.has("avx2"):
        pytest.skip("the processor has no AVX2")
    code = (
        "import hashlib\nfrom pathlib import Path\nfrom typing import Any\nimport numpy as np\n"
        "import ctxdeploy.models\nfrom ctxdeploy.index import Codebook\n"
        f"{inspect.getsource(words_of_the_built_in_codebook)}\n"
        "print(hashlib.sha256(words_of_the_built_in_codebook().astype('<i4').tobytes()).hexdigest())\n"
        "from ctxdeploy.index.kernels.integers import WAY\n"
        "print(WAY)\n"
    )
    environment = {**os.environ, **processor}
    run = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert run.stdout.split() == [KNOWN, way]


def test_faiss_is_not_loaded() -> None:
    code = (
        "import sys, numpy as np; from ctxdeploy.index import Codebook\n"
        "Codebook.train(np.random.default_rng(0).normal(size=(600, 8)), threads=2).assign(np.ones((3, 8)), 2)\n"
        "sys.exit('faiss' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
