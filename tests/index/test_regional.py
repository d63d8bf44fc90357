"""Regional aggregation (R-ASMK): archives against a plain reference in float64, and what does not change without it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, MismatchError
from ctxdeploy.index import Codebook, Index, IndexConfig

DIM, WORDS = 24, 16
Regions = list[NDArray[np.float32]]


def _unit(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    vectors = generator.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    return Codebook.from_centroids(_unit(np.random.default_rng(5), WORDS) * np.float32(0.7))


@pytest.fixture(scope="module")
def photos() -> dict[str, Regions]:
    generator = np.random.default_rng(6)
    return {f"p{i:02d}": [_unit(generator, int(n)) for n in generator.integers(1, 20, i % 4 + 1)] for i in range(12)}


def _words(vector: NDArray[Any], centroids: NDArray[Any], count: int) -> list[int]:
    distances = [float(np.square(vector.astype(np.float64) - c).sum()) for c in centroids.astype(np.float64)]
    return sorted(range(len(centroids)), key=distances.__getitem__)[:count]


def _codes(regions: Regions, centroids: NDArray[Any], assignment: int, binary: bool) -> dict[int, NDArray[np.float64]]:
    """Return a vector per word: the mean over regions of their sums of residuals, then signs or the direction."""
    total: dict[int, NDArray[np.float64]] = {}
    for region in regions:
        sums: dict[int, NDArray[np.float64]] = {}
        for vector in region:
            for word in _words(vector, centroids, assignment):
                residual = vector.astype(np.float64) - centroids[word].astype(np.float64)
                sums[word] = sums.get(word, np.zeros(DIM)) + residual
        for word, value in sums.items():  # no L2 of a region
            total[word] = total.get(word, np.zeros(DIM)) + value
    mean = {word: value / len(regions) for word, value in total.items()}
    return {word: np.where(v > 0, 1.0, -1.0) if binary else v / np.linalg.norm(v) for word, v in mean.items()}


Codes = dict[int, NDArray[Any]]


def _score(query: Codes, photo: Codes, idf: dict[int, float], binary: bool) -> float:
    total = 0.0
    for word, code in query.items():
        if word in photo:
            if binary:  # Hamming distances are divided by whole words of 32 bits
                similarity = 1 - 2 * float((code != photo[word]).sum()) / (32 * -(-DIM // 32))
            else:
                similarity = float(code @ photo[word])
            total += idf[word] * similarity**3 if similarity >= 0 else 0.0
    return total / np.sqrt(sum(idf[word] for word in query))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("with_idf", [False, True])
def test_a_search_equals_the_plain_reference(
    tmp_path: Path, codebook: Codebook, photos: dict[str, Regions], binary: bool, with_idf: bool
) -> None:
    config = IndexConfig(aggregation="regional", binary=binary, query_assignment=3, idf=with_idf)
    stored = {name: _codes(regions, codebook.centroids, 1, binary) for name, regions in photos.items()}
    counts = [sum(word in codes for codes in stored.values()) for word in range(WORDS)]
    idf = {w: np.log(len(photos) / n) ** 2 if with_idf and n else 1.0 for w, n in enumerate(counts)}
    with Index.create(tmp_path / "a", codebook, config=config) as index:
        for number, (name, regions) in enumerate(photos.items()):
            index.add(name, np.concatenate(regions))
            if number % 5 == 4:
                index.commit()
        index.commit()
        index.remove(["p03"])
        index.commit()
    del stored["p03"]
    if with_idf:  # of the photos that are there
        counts = [sum(word in codes for codes in stored.values()) for word in range(WORDS)]
        idf = {w: np.log(len(stored) / n) ** 2 if n else 1.0 for w, n in enumerate(counts)}
    query = _unit(np.random.default_rng(9), 15)
    asked = _codes([query], codebook.centroids, 3, binary)
    expected = {name: _score(asked, codes, idf, binary) for name, codes in stored.items()}
    with Index.open(tmp_path / "a") as index:
        assert index.config.aggregation == "regional"
        hits = index.search(query, top=len(photos))
        found = {hit.name: hit.score for hit in hits}
        assert set(found) == {name for name, score in expected.items() if score > 0}
        for name, score in found.items():
            assert score == pytest.approx(expected[name], rel=2e-5, abs=1e-7), name
        assert [hit.name for hit in hits] == sorted(found, key=lambda name: (-found[name], name))
        common = index.common_words(query, "p07")
        assert common.scores.sum() == pytest.approx(expected["p07"], rel=2e-5)


def test_a_photo_of_many_regions_does_not_lose(tmp_path: Path, codebook: Codebook) -> None:
    generator = np.random.default_rng(2)
    seen, clutter = _unit(generator, 10), _unit(generator, 300)
    ranks = {}
    for aggregation in ("plain", "regional"):
        with Index.create(tmp_path / aggregation, codebook, config=IndexConfig(aggregation=aggregation)) as index:
            index.add("alone", seen)
            index.add("among", np.concatenate([seen, seen, clutter]))
            index.commit()
            ranks[aggregation] = {hit.name: hit.score for hit in index.search(seen, top=2)}
    share = {name: scores["among"] / scores["alone"] for name, scores in ranks.items()}
    assert share["regional"] > share["plain"]


def test_without_regions_archives_are_byte_for_byte_what_they_were(
    tmp_path: Path, codebook: Codebook, photos: dict[str, Regions]
) -> None:
    manifests, shards = {}, {}
    for aggregation in ("plain", "regional"):
        folder = tmp_path / aggregation
        with Index.create(folder, codebook, config=IndexConfig(aggregation=aggregation)) as index:
            for name, regions in photos.items():
                index.add(name, regions[0])
            index.commit()
        manifests[aggregation] = json.loads(max(folder.glob("manifest-*")).read_text())
        shards[aggregation] = sorted(path.read_bytes() for path in (folder / "shards").iterdir())
    assert "aggregation" not in manifests["plain"]["config"] and manifests["plain"]["format_version"] == 2
    assert manifests["regional"]["config"]["aggregation"] == "regional"
    assert manifests["regional"]["format_version"] == 4
    assert shards["plain"] == shards["regional"]  # of one region the codes are those of the whole


def test_what_is_not_an_aggregation_and_what_cannot_be_merged(tmp_path: Path, codebook: Codebook) -> None:
    with pytest.raises(ConfigError, match="aggregation 'both' is not one of plain, regional"):
        IndexConfig(aggregation="both")
    for aggregation in ("plain", "regional"):
        with Index.create(tmp_path / aggregation, codebook, config=IndexConfig(aggregation=aggregation)) as index:
            index.add("x", _unit(np.random.default_rng(1), 3))
            index.commit()
    with (
        Index.open(tmp_path / "plain", writable=True) as index,
        pytest.raises(MismatchError, match="aggregation is plain here and regional there"),
    ):
        index.merge(tmp_path / "regional")
