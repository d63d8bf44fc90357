"""Same descriptors, same codebook: same scores and ranking as the reference package, and as plain loops in float64."""

from typing import Any

import numpy as np
import pytest

from ctxdeploy.index import Index, IndexConfig

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference_scores(load_reference: Any) -> Any:
    """Return the scores of the PyPI package `asmk`: one array over photos for each query."""
    package = load_reference("asmk_package")

    def scores(codebook: Any, photos: Any, queries: Any, **settings: Any) -> Any:
        return package.scores(codebook.centroids, photos, queries, **settings)

    return scores


def check(hits: list[Any], expected: Any) -> None:
    """Every positive score is found and near; the order is that of the expected scores but for ties."""
    found = np.zeros(len(expected))
    for hit in hits:
        found[int(hit.name)] = hit.score
    assert np.allclose(found, expected, rtol=TOLERANCE, atol=1e-9)
    assert {int(hit.name) for hit in hits} == {int(number) for number in np.flatnonzero(np.asarray(expected) > 0)}
    ordered = np.array([expected[int(hit.name)] for hit in hits])
    assert (ordered[1:] <= ordered[:-1] * (1 + TOLERANCE)).all()


@pytest.mark.parametrize("idf", [False, True])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dim", [64, 100, 128, 1024])
def test_equals_the_reference_package(
    make_photos: Any, make_codebook: Any, make_archive: Any, reference_scores: Any, dim: int, binary: bool, idf: bool
) -> None:
    photos, queries = make_photos(40, dim), make_photos(9, dim, seed=1)[:4]
    codebook = make_codebook(dim=dim)
    path = make_archive(photos, IndexConfig(binary=binary, idf=idf, shard_images=16), codebook=codebook)
    expected = reference_scores(codebook, photos, queries, binary=binary, idf=idf, assignment=1)
    with Index.open(path) as index:
        for query, scores in zip(queries, expected, strict=True):
            check(index.search(query, top=100), scores)


@pytest.mark.parametrize("binary", [True, False])
def test_equals_the_reference_package_with_several_words_per_archived_descriptor(
    make_photos: Any, make_codebook: Any, make_archive: Any, reference_scores: Any, binary: bool
) -> None:
    photos, codebook = make_photos(30), make_codebook()
    path = make_archive(photos, IndexConfig(binary=binary, assignment=3), codebook=codebook)
    (expected,) = reference_scores(codebook, photos, [photos[2]], binary=binary, idf=False, assignment=3)
    with Index.open(path) as index:
        check(index.search(photos[2], top=100), expected)


@pytest.mark.parametrize(
    ("dim", "binary", "idf", "alpha", "threshold"),
    [
        (64, True, False, 3.0, 0.0),
        (100, True, True, 3.0, 0.0),
        (128, True, False, 1.0, -0.5),
        (128, True, False, 2.5, 0.1),
        (96, True, False, 3.0, 0.0),
        (20, False, False, 3.0, 0.0),
        (100, False, True, 2.0, 0.05),
    ],
)
def test_equals_plain_loops(
    make_photos: Any,
    make_codebook: Any,
    make_archive: Any,
    load_reference: Any,
    dim: int,
    binary: bool,
    idf: bool,
    alpha: float,
    threshold: float,
) -> None:
    plain = load_reference("asmk_reference")
    photos, query = make_photos(12, dim), make_photos(3, dim, seed=2)[2]
    codebook = make_codebook(words=16, dim=dim)
    config = IndexConfig(binary=binary, idf=idf, alpha=alpha, threshold=threshold, shard_images=5)
    path = make_archive(photos, config, codebook=codebook)
    aggregated = [plain.aggregate(photo, codebook.centroids, 1, binary=binary) for photo in photos]
    asked = plain.aggregate(query, codebook.centroids, 5, binary=binary)
    expected = plain.scores(asked, aggregated, binary=binary, idf=idf, alpha=alpha, threshold=threshold)
    with Index.open(path) as index:
        check(index.search(query, top=100), np.maximum(expected, 0.0))


def test_idf_of_a_search_overrides_that_of_the_archive(
    make_photos: Any, make_codebook: Any, make_archive: Any, reference_scores: Any
) -> None:
    photos, codebook = make_photos(30), make_codebook()
    path = make_archive(photos, IndexConfig(idf=False), codebook=codebook)
    (expected,) = reference_scores(codebook, photos, [photos[0]], binary=True, idf=True, assignment=1)
    with Index.open(path) as index:
        check(index.search(photos[0], top=100, idf=True), expected)
        assert index.search(photos[0], top=100, idf=False) == index.search(photos[0], top=100)
