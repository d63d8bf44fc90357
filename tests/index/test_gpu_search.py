"""A search on a GPU, or in numba's simulator: the hits of the CPU bit by bit, whatever is asked, however divided."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.device import Device
from ctxdeploy.index import Index, IndexConfig, IndexPart, search
from ctxdeploy.index.batch import make_batch

GPU = Device.parse("cuda:0")
SETTINGS = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, codebook: Any, photos: list[Any], config: IndexConfig, removed: list[int] = ()) -> Path:  # type: ignore[assignment]
    """Write an archive of photos "000", "001", …, and remove some of them."""
    with Index.create(path, codebook, config=config) as index:
        for number, vectors in enumerate(photos):
            index.add(f"{number:03d}", vectors)
        index.commit()
        index.remove([f"{number:03d}" for number in removed])
    return path


@given(
    count=st.integers(1, 26),
    queries=st.integers(0, 4),
    shard_images=st.sampled_from([3, 8, 9, 30]),
    dim=st.sampled_from([20, 64, 100, 128, 200]),
    idf=st.booleans(),
    # What is below 0 has no root.
    power=st.sampled_from([(1.0, -0.5), (3.0, -0.5), (2.5, 0.0), (3.0, 0.0), (3.0, 0.3)]),
    top=st.integers(1, 30),
    removed=st.lists(st.integers(0, 25), max_size=6),
    seed=st.integers(0, 3),
)
@SETTINGS
def test_hits_are_those_of_the_cpu(
    small_gpu: Any,
    make_photos: Any,
    make_codebook: Any,
    tmp_path_factory: Any,
    count: int,
    queries: int,
    shard_images: int,
    dim: int,
    idf: bool,
    power: tuple[float, float],
    top: int,
    removed: list[int],
    seed: int,
) -> None:
    photos = make_photos(26, dim, seed)
    photos[20] = photos[9]  # equal scores
    asked = [photos[9], np.empty((0, dim), np.float32), *make_photos(3, dim, seed + 100)[:2]][:queries]
    config = IndexConfig(shard_images=shard_images)
    codebook = make_codebook(words=24, dim=dim)
    path = write(tmp_path_factory.mktemp("gpu") / "a", codebook, photos[:count], config, removed)
    how: dict[str, Any] = {"idf": idf, "alpha": power[0], "threshold": power[1]}
    with Index.open(path, threads=1) as index:
        expected = index.search_batch(asked, top, **how)
        index.search_on(GPU)
        assert index.search_batch(asked, top, **how) == expected
        assert [index.search(query, top, **how) for query in asked[:1]] == expected[:1]
        assert index.device == "cuda:0"


@pytest.fixture
def archive(make_photos: Any, make_codebook: Any, tmp_path: Path) -> Path:
    """26 photos in shards of 11, of which some are removed and some are alike."""
    photos = make_photos(26)
    photos[13], photos[21], photos[14] = photos[3], photos[3], photos[6]
    return write(tmp_path / "a", make_codebook(words=24), photos, IndexConfig(shard_images=11), [5, 21])


@pytest.mark.parametrize("top", [1, 2, 3, 25])
def test_ties_are_ordered_by_name(small_gpu: Any, make_photos: Any, archive: Path, top: int) -> None:
    query = make_photos(26)[3]
    with Index.open(archive) as index:
        expected = index.search(query, top)
        index.search_on(GPU)
        assert index.search(query, top) == expected
        assert [hit.name for hit in expected[:2]] == ["003", "013"][:top]


@pytest.mark.parametrize("chosen", [[], ["003", "020"], [f"{n:03d}" for n in range(26) if n not in (3, 5, 21)]])
def test_restricted_expanded_and_combined(small_gpu: Any, make_photos: Any, archive: Path, chosen: list[str]) -> None:
    photos = make_photos(26)
    asked = [photos[3], photos[8]]
    combinations = [[(photos[3], 1.0), (photos[8], 0.25), (photos[4], 2.0)], [], [("007", -1.0), ("008", 0.5)]]
    searches = [
        lambda index: index.search_batch(asked, 4, among=chosen),
        lambda index: index.search_batch(asked, 4, among=chosen, expand=2, units=[1e-4, 1e-4]),
        lambda index: index.search_combined(combinations, 4, among=chosen),
    ]
    with Index.open(archive) as index:
        expected = [search(index) for search in searches]
        index.search_on(GPU)
        assert [search(index) for search in searches] == expected
        assert index.device == "cuda:0"


def test_expansion_and_whole_archive(small_gpu: Any, make_photos: Any, archive: Path) -> None:
    photos = make_photos(26)
    asked = [photos[3], photos[8], photos[4]]
    with Index.open(archive) as index:
        expected = index.search_batch(asked, 6, expand=3, units=[1e-4] * 3)
        # The query's own photo has more, by what all that asked weigh.
        assert expected[0][0].score > 1
        index.search_on(GPU)
        assert index.search_batch(asked, 6, expand=3, units=[1e-4] * 3) == expected


def test_few_bins_and_little_memory(small_gpu: Any, make_photos: Any, archive: Path, monkeypatch: Any) -> None:
    """Combinations go through in several waves, a combination's queries in several groups, and hits overflow."""
    from ctxdeploy.index.gpu import searcher

    photos = make_photos(26)
    asked = [photos[3], photos[8]]
    combinations = [[(photo, 1.0 / number) for number, photo in enumerate(photos[3:7], 1)], [(photos[8], 1.0)]]
    with Index.open(archive) as index:
        expected = index.search_batch(asked, 2), index.search_combined(combinations, 2)
        monkeypatch.setattr(small_gpu, "WORK", 12 * 26 * 2)
        monkeypatch.setattr(small_gpu, "SLOTS", 4)
        monkeypatch.setattr(searcher, "_LEAST_SLOTS", 1)
        tiling = small_gpu.TILING
        monkeypatch.setattr(small_gpu, "TILING", type(tiling)(**{**vars(tiling), "bins": 2}))
        index.search_on(GPU)
        assert (index.search_batch(asked, 2), index.search_combined(combinations, 2)) == expected
        assert index.device == "cuda:0"


@pytest.mark.parametrize("threads", [1, 4, 8])
def test_any_division_gives_the_same(
    small_gpu: Any, make_photos: Any, archive: Path, monkeypatch: Any, threads: int
) -> None:
    from ctxdeploy.index.gpu.tiling import Tiling

    photos = make_photos(26)
    with Index.open(archive) as index:
        expected = index.search(photos[3], 9)
        tiling = Tiling(photos=16, threads=threads, staged=3, ahead=1, wide=4, blocks=2, bins=32)
        monkeypatch.setattr(small_gpu, "TILING", tiling)
        index.search_on(GPU)
        assert index.search(photos[3], 9) == expected


@pytest.mark.slow
def test_all_photos_for_each_other(small_gpu: Any, archive: Path) -> None:
    with Index.open(archive) as index:
        expected = list(index.search_all(3)), list(index.search_all(2, names=["003", "013"], idf=True))
        index.search_on(GPU)
        assert (list(index.search_all(3)), list(index.search_all(2, names=["003", "013"], idf=True))) == expected
        assert index.device == "cuda:0"


def test_regional_archives(small_gpu: Any, make_codebook: Any, make_photos: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a", make_codebook(words=24), make_photos(12), IndexConfig(aggregation="regional"))
    with Index.open(path) as index:
        expected = index.search_batch(make_photos(12)[:2], 5)
        index.search_on(GPU)
        assert index.search_batch(make_photos(12)[:2], 5) == expected


def test_a_part_of_the_shards(small_gpu: Any, make_photos: Any, archive: Path) -> None:
    from ctxdeploy.core.part import Part

    with Index.open(archive) as whole, IndexPart.open(archive, Part(number=1, count=2)) as part:
        (asked,) = whole.asked([make_photos(26)[3]])
        counts = part.word_counts()
        scoring = whole.config.scoring(idf=True)
        expected = part.search_part([[(asked.query, 1.0)]], 5, scoring=scoring, counts=counts)
        part.search_on(GPU)
        assert part.search_part([[(asked.query, 1.0)]], 5, scoring=scoring, counts=counts) == expected
        assert part.device == "cuda:0"


def test_threads_ask_at_once(small_gpu: Any, make_photos: Any, archive: Path) -> None:
    photos = make_photos(26)
    with Index.open(archive) as index:
        expected = [index.search(photo, 5) for photo in photos[:4]]
        index.search_on(GPU)
        found: dict[int, Any] = {}
        asking = [
            threading.Thread(target=lambda n=n: found.setdefault(n, index.search(photos[n], 5)))  # type: ignore[misc]
            for n in range(4)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert [found[n] for n in range(4)] == expected


def test_an_archive_without_photos(small_gpu: Any, make_codebook: Any, make_photos: Any, tmp_path: Path) -> None:
    Index.create(tmp_path / "a", make_codebook()).close()
    with Index.open(tmp_path / "a", device="cuda") as index:
        assert index.search(make_photos(1)[0]) == [] and index.device == "cuda:0"
        index.prepare()


def test_prepared_ahead(small_gpu: Any, make_photos: Any, archive: Path) -> None:
    with Index.open(archive, device="cuda:0") as index:
        index.prepare()
        assert index.search(make_photos(26)[3], 1)[0].name == "003"


def test_queries_one_after_the_other(make_photos: Any, make_archive: Any) -> None:
    """What the CPU searches word after word, all queries together, is taken apart again."""
    with Index.open(make_archive(make_photos(3))) as index:
        asked = [one.query for one in index.asked(make_photos(6)[:4])]
        weights = [np.full(len(one.words), number, np.float32) for number, one in enumerate(asked)]
        groups = [
            search.Group(
                [4, 2], [make_batch(asked[:3], weights[:3], [1.0, 2.0, 3.0])], [[1.0, 0.5], [2.0]], [{}, {7: 1.0}]
            ),
            search.Group([3], [make_batch(asked[3:], weights[3:], [4.0])], [[1.0]], [{}]),
        ]
    from ctxdeploy.index.gpu.batch import make_gpu_batch

    batch = make_gpu_batch(groups)
    assert batch is not None and make_gpu_batch([]) is None
    assert batch.numbers == (4, 2, 3) and batch.terms.tolist() == [[0, 2], [2, 3], [3, 4]]
    assert batch.scales.tolist() == [1, 2, 3, 4] and batch.coefficients.tolist() == [1, 0.5, 2, 1]
    for number, one in enumerate(asked):
        part = slice(batch.starts[number], batch.starts[number + 1])
        assert batch.words[part].tolist() == one.words.tolist()
        assert (batch.codes[:, part] == one.codes.T).all() and (batch.weights[part] == number).all()
    some = batch.combinations(1, 3)
    assert some.terms.tolist() == [[0, 1], [1, 2]] and some.numbers == (2, 3) and some.added == ({7: 1.0}, {})
    assert some.part(1, 2).terms.tolist() == [[0, 0], [0, 1]] and some.part(1, 2).scales.tolist() == [4]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_machine_code_rounds_products_and_keeps_arrays_in_registers(run_child: Any, columns: int) -> None:
    """For a GPU of compute capability 9.0, with the compiler of numba-cuda alone."""
    found = run_child("gpu_code", columns, environment={"NUMBA_ENABLE_CUDASIM": "0"})
    if "missing" in found:
        pytest.skip(f"NVVM is not installed (pip install 'numba-cuda[cu13]'): {found['missing']}")
    assert set(found) == {"score", "split_lists", "combine", "add", "count", "cut", "collect"}
    assert all(facts["fused32"] == facts["fused64"] == facts["local"] == 0 for facts in found.values()), found
    assert found["score"]["products32"] >= 1 and found["combine"]["products64"] >= 3
    # So that 32 blocks of one warp fit a multiprocessor, and more where ``Tiling`` has more threads.
    assert all((facts.get("registers") or 0) <= 128 for facts in found.values()), found
