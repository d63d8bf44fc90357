"""The quantiser of a new archive's global vectors, trained on those of a sample of its photos."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.device import Device
from ctxdeploy.core.errors import NoPhotosError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.report import StageTimes

if TYPE_CHECKING:
    from ctxdeploy.index import GlobalQuantiser, IndexConfig

# Least vectors a cell of as many cells as suit a sample.
_PER_CELL = 32


def check_sample(config: IndexingConfig, photos: int) -> None:
    """Raise ``NoPhotosError`` if so many photos are too few to train what a new archive of these settings needs."""
    from ctxdeploy.index import PART_WORDS

    cells = 0 if config.global_cells is None else config.global_cells or _PER_CELL
    words = PART_WORDS if config.global_vectors == "pq" else 0
    if photos < max(cells, words):
        flag = "--global pq" if words >= cells else f"--global-cells {config.global_cells or 'auto'}"
        raise NoPhotosError(
            f"{flag} is trained on {max(cells, words):,} photos or more, and there are {photos:,}: begin the archive "
            "with more photos, or leave it out"
        )


def train_quantiser(
    photos: Iterable[PhotoDescriptors],
    settings: "IndexConfig",
    config: IndexingConfig,
    display: Display,
    times: StageTimes,
    memory_limit: int | None = None,
    device: Device | None = None,
) -> "GlobalQuantiser":
    """Train words and cells on the global vectors of a sample of photos. The same photos give the same.

    Args:
        photos: in an order that is always the same; those with vectors of another dimension are left out.
        settings: of the archive.
        config: number of cells, and seed.
        display: where progress goes.
        times: to which the seconds are added.
        memory_limit: bytes, half of which may be the vectors.
        device: that clusters; the quantiser is the same on any.

    Raises:
        NoPhotosError: too few photos gave a vector.
    """
    from ctxdeploy.index import GlobalQuantiser

    start, dim = time.perf_counter(), settings.global_dim
    limit = None if memory_limit is None else max(memory_limit // (2 * 4 * dim), 1)
    found: list[NDArray[np.float32]] = []
    for photo in photos:
        whole = photo.with_global().global_descriptor
        if whole is not None and len(whole) == dim:
            found.append(whole.vector)
        if limit is not None and len(found) == limit:
            break
    check_sample(config, len(found))
    display.say(f"training {_text(settings)} from {counted(len(found), 'photo')}")
    with display.progress("clustering global vectors", None, "parts") as bar:
        quantiser = GlobalQuantiser.train(
            np.stack(found),
            settings,
            cells=config.global_cells or None,
            seed=config.seed,
            progress=lambda *_: bar.advance(),
            device=device,
        )
    times.clustering += time.perf_counter() - start
    return quantiser


def _text(settings: "IndexConfig") -> str:
    parts = ["words"] * (settings.global_vectors == "pq") + ["cells"] * (settings.global_search == "ivf")
    return f"{' and '.join(parts)} of global vectors"
