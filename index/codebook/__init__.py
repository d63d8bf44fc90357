"""The visual words: training, assignment of descriptors to them, and aggregation of a photo's descriptors.

``Codebook`` assigns; ``aggregate`` makes one vector per word of what it assigned. The names are imported on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.index.codebook.aggregation import Aggregated, aggregate
    from ctxdeploy.index.codebook.codebook import Codebook
    from ctxdeploy.index.codebook.faiss_gpu import gpu_of
    from ctxdeploy.index.codebook.pickled import is_pickled, open_codebook
    from ctxdeploy.index.codebook.training import MAX_PER_WORD, choose_words

__all__ = [
    "MAX_PER_WORD",
    "Aggregated",
    "Codebook",
    "aggregate",
    "choose_words",
    "gpu_of",
    "is_pickled",
    "open_codebook",
]

_HOMES = {
    "Aggregated": "aggregation",
    "Codebook": "codebook",
    "MAX_PER_WORD": "training",
    "aggregate": "aggregation",
    "choose_words": "training",
    "gpu_of": "faiss_gpu",
    "is_pickled": "pickled",
    "open_codebook": "pickled",
}

__getattr__, __dir__ = door(__name__, _HOMES)
