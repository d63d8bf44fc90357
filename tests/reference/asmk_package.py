"""Scores of the PyPI package `asmk`, which HOW's evaluation uses, for descriptors and words of one's own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def scores(
    centroids: NDArray[np.float32],
    photos: Sequence[NDArray[np.float32]],
    queries: Sequence[NDArray[np.float32]],
    *,
    binary: bool,
    idf: bool,
    assignment: int = 1,
    alpha: float = 3.0,
    threshold: float = 0.0,
) -> list[NDArray[np.float64]]:
    """Return one array over photos for each query; 0 where the package gives NaN."""
    from asmk.codebook import Codebook
    from asmk.index import FaissL2Index
    from asmk.inverted_file import IVF
    from asmk.kernel import ASMKKernel

    # It takes the highest number that has a descriptor for the number of photos: those without must not be last.
    order = sorted(range(len(photos)), key=lambda number: len(photos[number]) > 0)
    photos = [photos[number] for number in order]
    if sum(map(len, photos)) == 0:
        return [np.zeros(len(photos)) for _ in queries]
    words = Codebook(FaissL2Index(), size=len(centroids))
    words.index(np.array(centroids))
    kernel = ASMKKernel(words, binary=binary)
    facts: dict[str, Any] = {"alpha": alpha, "similarity_threshold": threshold}
    inverted = IVF.initialize_empty(codebook_size=len(centroids), use_idf=idf)
    vectors = np.concatenate(photos)
    numbers = np.repeat(np.arange(len(photos)), [len(photo) for photo in photos])
    inverted.add(*kernel.aggregate(*words.quantize(vectors, numbers, multiple_assignment=assignment)))
    result = []
    for query in queries:
        found = np.zeros(len(photos))
        if len(query):
            codes, asked = kernel.aggregate_image(*words.quantize(query, multiple_assignment=min(5, len(centroids))))
            with np.errstate(all="ignore"):
                ranks, values = inverted.search(
                    codes, asked, similarity_func=lambda *lists: kernel.similarity(*lists, **facts), topk=len(photos)
                )
            found[np.asarray(order)[ranks]] = np.nan_to_num(values)
        result.append(found)
    return result
