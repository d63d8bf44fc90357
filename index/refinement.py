"""The first photos by global vectors, ordered anew by vectors that are refined with their neighbours among them.

The re-ranking of SuperGlobal (Shao et al., ICCV 2023), which needs no other descriptors and no network.
"""

import numpy as np
from numpy.typing import NDArray

# The refined vector of a photo is the mean of its own and its nearest ones' among the first, so many in all. On
# held-out landmarks 2 and 3 find most; from 5 on scenes of few photos are lost among their neighbours.
TOGETHER = 3


def refined_scores(query: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return by how much each of the first photos is like the query, N float64: higher is better.

    The mean of two inner products: of the query with the refined vector of the photo, and of the refined query with the
    photo's own.

    Args:
        query: D float32, of length 1.
        vectors: N×D float32 of length 1, of the first photos for it, best first.
    """
    from ctxdeploy.index.kernels.inner import inner_products

    count = min(TOGETHER, len(vectors))
    products = np.empty((len(vectors), len(vectors)), np.float64)
    for row, vector in zip(products, vectors, strict=True):
        inner_products(vectors, vector, row)
    np.fill_diagonal(products, np.inf)  # each is its own nearest, also beside copies of it
    nearest = np.argsort(-products, axis=1, kind="stable")[:, :count]
    photos = _unit(np.add.reduce(vectors[nearest].astype(np.float64), axis=1))
    asked = _unit(np.add.reduce(np.concatenate([query[np.newaxis], vectors[: count - 1]]).astype(np.float64), axis=0))
    found = np.empty((2, len(vectors)), np.float64)
    inner_products(photos, query, found[0])
    inner_products(vectors, asked, found[1])
    scores: NDArray[np.float64] = (found[0] + found[1]) / 2
    return scores


def _unit(sums: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return vectors of length 1; 0 where they cancel out."""
    lengths = np.sqrt(np.add.reduce(np.moveaxis(sums * sums, -1, 0), axis=0))[..., np.newaxis]
    found: NDArray[np.float64] = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0)
    return found.astype(np.float32)
