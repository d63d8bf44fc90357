"""The coarse partition of the words, and its check when it comes from a file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ArchiveError
from ctxdeploy.index import format as file_format


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """A coarse partition of the words: a search looks into the ``probes`` cells nearest to a descriptor.

    Attributes:
        centres: C×D float32.
        order: W int32, every word once, those of a cell side by side.
        offsets: C+1 int32, rising from 0 to W: cell c holds ``order[offsets[c]:offsets[c + 1]]``.
        probes: cells searched, 1..C.
    """

    centres: NDArray[np.float32]
    order: NDArray[np.int32]
    offsets: NDArray[np.int32]
    probes: int


def parse_cells(
    arrays: file_format.Arrays, centroids: NDArray[np.float32], probes: int, version: str, where: str
) -> Cells | None:
    """Check the cells and copy the lists of words, so that a file which changes later cannot send a loop elsewhere."""
    centres, words = arrays.get("cells"), len(centroids)
    if centres is None:
        return None
    if centres.dtype != np.float32 or centres.ndim != 2 or not 1 <= len(centres) <= words:
        raise ArchiveError(f"{where} is damaged: cells is not C×D float32 with C in 1..{words}")
    if centres.shape[1] != centroids.shape[1]:
        raise ArchiveError(f"{where} is damaged: cells and centroids have different dimensions")
    if not 1 <= probes <= len(centres):
        raise ArchiveError(f"{where} is damaged: probes {probes} is outside 1..{len(centres)}")
    if version == "1":
        nothing = np.empty(0, np.int32)
        return Cells(centres=centres, order=nothing, offsets=nothing, probes=probes)
    lists = {}
    for name, length in (("order", words), ("cell_offsets", len(centres) + 1)):
        array = arrays.get(name)
        if array is None or array.dtype != np.int32 or array.shape != (length,):
            raise ArchiveError(f"{where} is damaged: {name} is not {length} int32")
        lists[name] = array.copy()
    order, offsets = lists["order"], lists["cell_offsets"]
    if offsets[0] != 0 or offsets[-1] != words or (offsets[1:] < offsets[:-1]).any():
        raise ArchiveError(f"{where} is damaged: cell_offsets do not rise from 0 to {words}")
    seen = np.zeros(words, bool)
    if order.min() >= 0 and order.max() < words:
        seen[order] = True
    if not seen.all():
        raise ArchiveError(f"{where} is damaged: order does not hold every word once")
    return Cells(centres=centres, order=order, offsets=offsets, probes=probes)
