"""The three frameworks as obvious as they can be, in float64: global vectors, these and then ASMK, ASMK alone."""

import numpy as np


def pooled(attention, vectors):
    """Return the weighted sum of a photo's descriptors, of length 1."""
    total = np.zeros(vectors.shape[1])
    for weight, vector in zip(attention, vectors, strict=True):
        total += float(weight) * vector.astype(np.float64)
    return total / np.sqrt((total**2).sum())


def aggregated(vectors, centroids, count):
    """Return the signs of the summed residuals by word; each descriptor has its ``count`` nearest words."""
    sums = {}
    for vector in vectors.astype(np.float64):
        distances = ((centroids.astype(np.float64) - vector) ** 2).sum(axis=1)
        for word in np.argsort(distances, kind="stable")[:count]:
            sums[word] = sums.get(word, 0.0) + (vector - centroids[word])
    return {word: total > 0 for word, total in sums.items()}


def asmk(query, photo):
    """Return ASMK*'s score of two photos' signs: alpha 3, threshold 0."""
    total = 0.0
    for word in query.keys() & photo.keys():
        s = 1 - 2 * int((query[word] != photo[word]).sum()) / (32 * -(-len(query[word]) // 32))
        total += s**3 if s >= 0 else 0.0
    return total / np.sqrt(len(query) * len(photo)) if query and photo else 0.0


def rankings(globally, locally, rerank):
    """Return, by framework, all photos for one query, best first.

    Args:
        globally: the inner product of each photo's global vector with the query's, by name.
        locally: the ASMK score of each photo, by name.
        rerank: photos that are ordered anew.
    """
    by_global = sorted(globally, key=lambda name: (-globally[name], name))
    first, behind = by_global[:rerank], by_global[rerank:]
    anew = sorted(first, key=lambda name: (-locally[name], by_global.index(name)))
    by_local = sorted((name for name in locally if locally[name] > 0), key=lambda name: (-locally[name], name))
    return {"global": by_global, "global-then-local": [*anew, *behind], "asmk": by_local}
