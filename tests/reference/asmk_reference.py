"""ASMK in plain loops and float64, as obvious as it can be. Slow; for tests only."""

import math

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


def assign(vector: Vectors, centroids: Vectors, count: int) -> list[int]:
    """Return the numbers of the nearest centroids, nearest first, ties by number."""
    distances = [sum((float(a) - float(b)) ** 2 for a, b in zip(vector, c, strict=True)) for c in centroids]
    return sorted(range(len(centroids)), key=lambda word: (distances[word], word))[:count]


def aggregate(vectors: Vectors, centroids: Vectors, count: int, *, binary: bool) -> dict[int, list[float]]:
    """Return one vector per word: the signs of the sum of residuals as +1 and -1, or the sum divided by its length."""
    sums: dict[int, list[float]] = {}
    for vector in vectors:
        for word in assign(vector, centroids, count):
            total = sums.setdefault(word, [0.0] * len(vector))
            for d in range(len(vector)):
                total[d] += float(vector[d]) - float(centroids[word][d])
    for word, total in sums.items():
        if binary:
            sums[word] = [1.0 if value > 0 else -1.0 for value in total]
        else:
            length = math.sqrt(sum(value * value for value in total))
            sums[word] = [value / (length + 1e-6) for value in total]
    return sums


def similarity(a: list[float], b: list[float], *, binary: bool) -> float:
    """Return the similarity of two aggregated vectors of one word."""
    if not binary:
        return sum(x * y for x, y in zip(a, b, strict=True))
    different = sum(x != y for x, y in zip(a, b, strict=True))
    return 1 - 2 * different / (32 * math.ceil(len(a) / 32))


def scores(
    query: dict[int, list[float]],
    photos: list[dict[int, list[float]]],
    *,
    binary: bool,
    idf: bool = False,
    alpha: float = 3.0,
    threshold: float = 0.0,
) -> list[float]:
    """Return the score of every photo."""
    count = {word: sum(word in photo for photo in photos) for word in {w for p in [query, *photos] for w in p}}
    weight = {word: math.log(len(photos) / found) ** 2 if idf and found else 1.0 for word, found in count.items()}
    result = []
    for photo in photos:
        norm = sum(weight[word] for word in photo) * sum(weight[word] for word in query)
        total = 0.0
        for word in query.keys() & photo.keys():
            s = similarity(query[word], photo[word], binary=binary)
            total += weight[word] * s**alpha if s >= threshold else 0.0
        result.append(total / math.sqrt(norm) if norm > 0 else 0.0)
    return result
