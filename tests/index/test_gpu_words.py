"""Words by a GPU, with faiss on a CPU in its place: those of the CPU bit by bit, however its sums are off."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.device import Device, Gpu
from ctxdeploy.core.errors import BackendError, MissingExtraError, MixedPackagesError, OutOfMemoryError
from ctxdeploy.index import Codebook, GlobalQuantiser, IndexConfig
from ctxdeploy.index.codebook import faiss_gpu, gpu_assignment
from ctxdeploy.index.codebook.assignment import CellAssigner, FlatAssigner
from ctxdeploy.index.codebook.faiss_gpu import FaissGpu, gpu_of
from ctxdeploy.index.codebook.gpu_assignment import GpuAssigner
from ctxdeploy.index.codebook.halves import HalfWords
from ctxdeploy.index.codebook.training import _farthest, cluster, fill_cells
from ctxdeploy.index.kernels import candidates
from ctxdeploy.index.threads import SearchThreads

CUDA = Device(kind="cuda")


@pytest.fixture(scope="session")
def made(load_reference: Callable[[str], Any]) -> Any:
    """The class of the module in faiss' place."""
    return load_reference("gpu_faiss").Faiss


def rows(count: int, dim: int = 16, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


class Plugged:
    """The GPU that there is not, with a module in place of faiss."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(faiss_gpu, "asked_gpu", lambda device: Gpu(name="none", capability=(9, 0)))
        monkeypatch.setattr(faiss_gpu, "gpu_present", lambda number: Gpu(name="none", capability=(9, 0)))
        faiss_gpu._opened.cache_clear()

    def __call__(self, faiss: Any) -> FaissGpu:
        self.monkeypatch.setattr(faiss_gpu, "require_faiss_gpu", lambda: faiss)
        faiss_gpu._opened.cache_clear()
        return FaissGpu(0)


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugged]:
    yield Plugged(monkeypatch)
    faiss_gpu._opened.cache_clear()


class Counted:
    """An assigner on the CPU that counts what it is asked."""

    def __init__(self, assigner: FlatAssigner | CellAssigner) -> None:
        self.assigner, self.searched = assigner, 0

    def search(self, vectors: Any, count: int, threads: Any) -> Any:
        self.searched += len(vectors)
        return self.assigner.search(vectors, count, threads)


def both(centroids: Any, cells: Any, vectors: Any, count: int, faiss: Any, plug: Plugged) -> tuple[Any, Any, int]:
    """Return what the CPU and the GPU find, and how many descriptors the GPU left to the CPU."""
    alone = FlatAssigner(centroids) if cells is None else CellAssigner(centroids, cells)
    counted: Any = Counted(alone)
    assigner = GpuAssigner(counted, centroids, cells, plug(faiss), worth=0)
    return alone.search(vectors, count), assigner.search(vectors, count), counted.searched


def assert_same(expected: Any, found: Any) -> None:
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(
    words=st.integers(1, 150),
    dim=st.integers(1, 40),
    vectors=st.integers(1, 30),
    count=st.integers(1, 20),
    offset=st.sampled_from([0.0, 50.0]),
    exponent=st.sampled_from([-60, -20, 0, 30]),
    off=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_all_words_for_any_size(
    words: int, dim: int, vectors: int, count: int, offset: float, exponent: int, off: float, seed: int, made: Any
) -> None:
    centroids = rows(words, dim, seed) + np.float32(offset)
    centroids[words // 2 :] = centroids[: words - words // 2].copy()  # equal distances go to the lower word
    data = rows(vectors, dim, seed + 1) + np.float32(offset)
    data[: min(words, vectors) // 3] = centroids[: min(words, vectors) // 3]
    scale = np.float32(2.0**exponent)
    with pytest.MonkeyPatch.context() as monkeypatch:
        expected, found, _ = both(
            centroids * scale, None, data * scale, min(count, words), made(off), Plugged(monkeypatch)
        )
    assert_same(expected, found)


@settings(max_examples=40, deadline=None)
@given(
    words=st.integers(20, 300),
    dim=st.integers(2, 40),
    cells=st.integers(1, 19),
    probes=st.integers(1, 19),
    count=st.integers(1, 6),
    off=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 1000),
)
def test_words_of_cells_for_any_size(
    words: int, dim: int, cells: int, probes: int, count: int, off: float, seed: int, made: Any
) -> None:
    centroids, data = rows(words, dim, seed), rows(80, dim, seed + 1)
    partition = fill_cells(centroids, centroids[:cells].copy(), min(probes, cells))
    with pytest.MonkeyPatch.context() as monkeypatch:
        expected, found, _ = both(centroids, partition, data, count, made(off), Plugged(monkeypatch))
    assert_same(expected, found)


@pytest.mark.parametrize("through_cells", [False, True])
def test_most_is_proved_of_descriptors_like_those_of_photos(through_cells: bool, plug: Plugged, made: Any) -> None:
    """In clusters, as descriptors lie; what is left to the CPU is what the cells leave out, and near ties."""
    middles = rows(600, 64)
    random = np.random.default_rng(1)
    data = (middles[random.integers(0, 600, 6000)] + 0.5 * random.normal(size=(6000, 64))).astype(np.float32)
    cells = fill_cells(middles, middles[:20].copy(), 8) if through_cells else None
    expected, found, left = both(middles, cells, data, 1, made(), plug)
    assert_same(expected, found)
    assert left < (1500 if through_cells else 100)


def near_ties(dim: int = 32) -> tuple[Any, Any, Any]:
    """Words of which two are nearly as far from each descriptor, so that float16 tells them the wrong way round."""
    data = rows(400, dim, seed=5)
    first = data + rows(400, dim, seed=6) * np.float32(0.3)
    second = data - (first - data) * np.float32(1 + 1e-5)
    return data, np.concatenate([second, first]), first


def test_near_ties_are_ordered_as_on_the_cpu(plug: Plugged, made: Any) -> None:
    data, centroids, _ = near_ties()
    faiss = made(off=1.0)
    expected, found, left = both(centroids, None, data, 1, faiss, plug)
    assert_same(expected, found)
    assert faiss.asked == len(data) and left < 40
    # What the GPU itself has for the nearest is another word, so that something was there to be found.
    held = HalfWords(centroids)
    _, proposed = FaissGpu(0).hold(held.matrix).best(held.rows(data).matrix, 1)
    assert (proposed != expected[0]).mean() > 0.3


def test_ties_beyond_what_the_gpu_returns_are_left_to_the_cpu(plug: Plugged, made: Any) -> None:
    """Of forty equal words the GPU names some; the CPU takes the lowest numbers."""
    centroids = np.repeat(rows(5, 8), 40, axis=0)
    expected, found, left = both(centroids, None, rows(50, 8, seed=3), 3, made(), plug)
    assert_same(expected, found)
    assert left == 50


def test_far_descriptors_and_words_are_the_cpu_s(plug: Plugged, made: Any) -> None:
    centroids, data = rows(200, 12), rows(40, 12, seed=1)
    data[3], data[9] = np.float32(1e15), np.float32(-7e6)
    expected, found, left = both(centroids, None, data, 2, made(), plug)
    assert_same(expected, found)
    assert left >= 2
    centroids[7, 3] = np.inf  # of a file that nobody checked
    expected, found, left = both(centroids, None, data, 2, made(), plug)
    assert_same(expected, found)
    assert left == 40


def test_no_descriptors(plug: Plugged, made: Any) -> None:
    expected, found, _ = both(rows(50, 8), None, np.empty((0, 8), np.float32), 2, made(), plug)
    assert_same(expected, found)


@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_and_threads(threads: int, plug: Plugged, monkeypatch: pytest.MonkeyPatch, made: Any) -> None:
    monkeypatch.setattr(gpu_assignment, "_PIECE", 500)
    monkeypatch.setattr(gpu_assignment, "_ROWS", 64)
    centroids, data = rows(300, 24), rows(1777, 24, seed=1)
    cells = fill_cells(centroids, centroids[:12].copy(), 4)
    alone = CellAssigner(centroids, cells)
    with closing(SearchThreads(threads)) as helpers:
        found = GpuAssigner(alone, centroids, cells, plug(made()), worth=0).search(data, 2, helpers)
    assert_same(alone.search(data, 2), found)


def nonsense(scores: Any, found: Any) -> Any:
    found[::2] = len(scores) * 1000
    scores[1::4] = np.nan
    scores[3::4] = scores[3::4, ::-1]
    return scores, found


def test_what_cannot_be_scores_is_left_to_the_cpu(plug: Plugged, made: Any) -> None:
    centroids, data = rows(200, 12), rows(60, 12, seed=1)
    expected, found, left = both(centroids, None, data, 1, made(spoil=nonsense), plug)
    assert_same(expected, found)
    assert left == 60


def test_a_gpu_that_multiplies_wrongly_is_found_out(plug: Plugged, made: Any) -> None:
    gpu = plug(made(spoil=lambda scores, found: (scores * np.float32(0.9), found)))
    centroids = rows(200, 12)
    with pytest.raises(BackendError, match=r"farther from the true ones.*--device cpu"):
        GpuAssigner(FlatAssigner(centroids), centroids, None, gpu, worth=0).search(rows(60, 12, seed=1), 1)


def test_little_work_is_the_cpu_s(plug: Plugged, made: Any) -> None:
    faiss, centroids = made(), rows(200, 12)
    GpuAssigner(FlatAssigner(centroids), centroids, None, plug(faiss)).search(rows(60, 12, seed=1), 1)
    assert faiss.asked == 0


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the GPU do all, however little."""
    monkeypatch.setattr(GpuAssigner.__init__, "__defaults__", (0,))


@pytest.mark.parametrize(
    ("words", "dim", "count"), [(24, 12, 900), pytest.param(4200, 6, 5000, marks=pytest.mark.slow)]
)
def test_a_codebook_is_the_same_file(words: int, dim: int, count: int, plug: Plugged, eager: None, made: Any) -> None:
    """Of few words, and of so many that cells are searched."""
    data = rows(count, dim)
    data[count // 2 :] = data[: count - count // 2]  # words of which one stays empty
    expected = Codebook.train(data, words, iterations=2)
    faiss = made(off=0.5)
    plug(faiss)
    found = Codebook.train(data, words, iterations=2, threads=3, device=CUDA)
    assert faiss.asked > count
    assert found.id == expected.id
    assert [bytes(piece) for piece in found.encode()] == [bytes(piece) for piece in expected.encode()]


def test_k_means_is_the_same_to_its_end(plug: Plugged, eager: None, made: Any) -> None:
    data = rows(500, 8)
    expected = cluster(data, 9, seed=2, iterations=50)
    found = cluster(data, 9, seed=2, iterations=50, device=plug(made(off=1.0)))
    assert (found.iterations, found.error) == (expected.iterations, expected.error)
    assert np.array_equal(found.centroids, expected.centroids)


def test_a_quantiser_is_the_same(plug: Plugged, eager: None, made: Any) -> None:
    config = IndexConfig(global_vectors="pq", global_dim=16, global_search="ivf")
    vectors = rows(320, 16)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = GlobalQuantiser.train(vectors, config, cells=4)
    plug(made())
    assert GlobalQuantiser.train(vectors, config, cells=4, device=CUDA).id == expected.id


def test_a_codebook_that_uses_a_gpu_assigns_the_same(plug: Plugged, eager: None, made: Any) -> None:
    codebook, data = Codebook.train(rows(4300, 6), 4200, iterations=1), rows(300, 6, seed=4)
    expected, exact = codebook.assign(data, 5), codebook.assign(data, 5, exact=True)
    faiss = made(off=1.0)
    plug(faiss)
    assert codebook.use(CUDA)
    assert np.array_equal(codebook.assign(data, 5), expected) and faiss.asked == 600  # words, and centres
    assert np.array_equal(codebook.assign(data, 5, exact=True), exact) and faiss.asked == 900
    assert not codebook.use(Device(kind="cpu"))
    assert np.array_equal(codebook.assign(data, 5), expected) and faiss.asked == 900


def test_several_threads_may_ask_at_once(plug: Plugged, eager: None, made: Any) -> None:
    """One at a time reaches faiss, whose streams and memory are shared."""
    inside, most = [], []

    def watch(scores: Any, found: Any) -> Any:
        inside.append(threading.get_ident())
        most.append(len(inside))
        inside.pop()
        return scores, found

    plug(made(spoil=watch))
    codebook, data = Codebook.from_centroids(rows(300, 8)), rows(200, 8, seed=1)
    expected = codebook.assign(data, 3)
    codebook.use(CUDA)
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda _: codebook.assign(data, 3), range(8)))
    assert all(np.array_equal(one, expected) for one in found) and max(most) == 1


def test_a_faiss_that_sees_no_gpu_is_refused(plug: Plugged, made: Any) -> None:
    faiss = made(gpus=0)
    with pytest.raises(BackendError, match=r"sees 0 GPUs.*--device cpu"):
        plug(faiss)
    assert gpu_of(Device()) is None  # auto goes on without it
    with pytest.raises(BackendError, match=r"sees 0 GPUs"):
        gpu_of(CUDA)


@pytest.mark.parametrize("error", [MissingExtraError("faiss-gpu", "cuda"), MixedPackagesError("both")])
def test_a_missing_faiss_is_said_where_a_gpu_is_named(
    error: Exception, plug: Plugged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise error

    monkeypatch.setattr(faiss_gpu, "require_faiss_gpu", missing)
    with pytest.raises(type(error)):
        gpu_of(CUDA)
    assert gpu_of(Device()) is None


@pytest.mark.parametrize(
    ("raised", "error", "text"),
    [
        (RuntimeError("alloc fail type FlatData (cudaMalloc error out of memory [2])"), OutOfMemoryError, "do not fit"),
        (RuntimeError("CUDA error 700 an illegal memory access"), BackendError, "error 700.*--device cpu"),
        (MemoryError(), OutOfMemoryError, "not enough memory"),
    ],
)
def test_errors_of_faiss_are_ours(raised: Exception, error: Any, text: str, plug: Plugged, made: Any) -> None:
    faiss = made()
    gpu = plug(faiss)
    faiss.fail = raised
    with pytest.raises(error, match=text):
        gpu.hold(rows(4, 8) * 0)
    with pytest.raises(error, match=text):  # and before any work
        plug(faiss)
    assert gpu_of(Device()) is None


def test_without_a_device_there_is_none() -> None:
    assert gpu_of(None) is None and gpu_of(Device(kind="cpu")) is None


@given(seed=st.integers(0, 1000), exponent=st.integers(-40, 14))
@example(seed=0, exponent=14)
def test_halves_are_numbers_of_float16_and_near(seed: int, exponent: int) -> None:
    numbers = (rows(20, 30, seed) * np.float32(0.2) * np.float32(2.0**exponent)).astype(np.float32)
    numbers[0, 0] = np.float32(2.0**exponent)
    halved, squared, errors = np.empty_like(numbers), np.empty(20, np.float32), np.empty(20, np.float32)
    numbers.setflags(write=False)
    candidates.halve(numbers, np.zeros(30, np.float32), np.float32(1), halved, squared, errors)
    assert np.array_equal(halved.astype(np.float16).astype(np.float32), halved)
    assert np.allclose(squared, np.square(halved, dtype=np.float64).sum(axis=1), rtol=1e-5)
    nearest = np.abs(numbers.astype(np.float16).astype(np.float64) - numbers)
    lost = np.abs(halved.astype(np.float64) - numbers)
    assert (lost <= nearest + 1e-12).all() and (np.linalg.norm(lost, axis=1) <= errors).all()


@given(seed=st.integers(0, 1000), offset=st.sampled_from([0.0, 3.0, 1e4]), exponent=st.integers(-50, 40))
def test_what_rounding_takes_is_no_more_than_is_said(seed: int, offset: float, exponent: int) -> None:
    centroids = (rows(30, 9, seed) + np.float32(offset)) * np.float32(2.0**exponent)
    data = (rows(30, 9, seed + 1) + np.float32(offset)) * np.float32(2.0**exponent)
    halves = HalfWords(centroids)
    longest, worst, lacking, scale = halves.facts
    asked = halves.rows(data)
    shifted = (data.astype(np.float64) - halves._origin) * scale
    lost = np.linalg.norm(asked.matrix[:, :9] - shifted, axis=1)
    assert (lost <= asked.errors).all() and (asked.errors <= 0.01 * np.linalg.norm(shifted, axis=1) + 1e-6).all()
    words = halves.matrix[:, :9].astype(np.float64)
    assert (np.linalg.norm(words - (centroids.astype(np.float64) - halves._origin) * scale, axis=1) <= worst).all()
    assert (np.linalg.norm(words, axis=1) <= longest).all() and np.abs(words).max() <= 1
    sums = halves.matrix[:, 9:12].astype(np.float64).sum(axis=1)
    assert (np.abs(sums + np.square(words).sum(axis=1) / 2) <= lacking).all() and lacking < 1e-6
    assert (asked.matrix[:, 9:12] == 1).all() and halves.columns == 16 and not asked.matrix[:, 12:].any()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 60))
def test_the_farthest_are_those_of_a_whole_sort(numbers: list[int], count: int) -> None:
    squared = np.array(numbers, np.float64)
    count = min(count, len(squared))
    assert np.array_equal(_farthest(squared, count), np.argsort(-squared, kind="stable")[:count])
