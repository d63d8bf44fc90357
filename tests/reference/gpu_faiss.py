"""What of faiss-gpu 1.15.1 is used, on a CPU: words in float16, sums in float32, and the errors that those may have.

Names and arguments are those of its wheel (``swigfaiss.py``, ``class_wrappers.py``). ``off`` adds to every score what
the sums of a GPU may be off at most, in the way that does most harm: the best is made worse, and the others better.
"""

from typing import Any

import numpy as np

COLUMN_ERROR = 2.0**-22  # of a product's sums, for each of its columns; see index/kernels/candidates.py


class StandardGpuResources:
    pass


class GpuIndexFlatConfig:
    def __init__(self) -> None:
        self.device, self.useFloat16, self.use_cuvs = 0, False, True


class Faiss:
    """The module.

    Args:
        off: 0 to 1, of the largest error.
        gpus: how many there are.
        spoil: called with scores and rows before they are returned.
        fail: what ``add`` raises.
    """

    StandardGpuResources = StandardGpuResources
    GpuIndexFlatConfig = GpuIndexFlatConfig

    def __init__(self, off: float = 0.0, gpus: int = 1, spoil: Any = None, fail: Exception | None = None) -> None:
        self.off, self.gpus, self.spoil, self.fail = off, gpus, spoil, fail
        self.asked = 0  # queries

    def get_num_gpus(self) -> int:
        return self.gpus

    def GpuIndexFlatIP(self, resources: Any, dims: int, config: Any) -> "_Index":  # noqa: N802
        assert isinstance(resources, StandardGpuResources) and config.useFloat16 and not config.use_cuvs
        assert 0 <= config.device < self.gpus
        return _Index(self, dims)


class _Index:
    def __init__(self, faiss: Faiss, dims: int) -> None:
        self.faiss, self.dims = faiss, dims

    def add(self, x: Any) -> None:
        assert x.shape[1] == self.dims and x.dtype == np.float32 and x.flags.c_contiguous
        if self.faiss.fail is not None:
            raise self.faiss.fail
        self.rows = x.astype(np.float16).astype(np.float32)
        assert np.array_equal(self.rows, x)

    def search(self, x: Any, k: int) -> tuple[Any, Any]:
        assert x.shape[1] == self.dims and x.dtype == np.float32 and x.flags.c_contiguous and 1 <= k <= 2048
        assert np.array_equal(x.astype(np.float16).astype(np.float32), x)
        self.faiss.asked += len(x)
        scores = x @ self.rows.T
        if self.faiss.off:
            magnitude = np.abs(x.astype(np.float64)) @ np.abs(self.rows.T.astype(np.float64))
            error = self.faiss.off * COLUMN_ERROR * self.dims * magnitude
            best = scores.argmax(axis=1)
            worse = scores[np.arange(len(x)), best] - error[np.arange(len(x)), best]
            scores = (scores + error).astype(np.float32)
            scores[np.arange(len(x)), best] = worse
        some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
        rows = np.take_along_axis(some, order, axis=1)
        found = np.take_along_axis(scores, rows, axis=1)
        if self.faiss.spoil is not None:
            found, rows = self.faiss.spoil(found, rows)
        return found, rows
