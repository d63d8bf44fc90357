"""The codebook that ``--codebook`` names: a file, a folder or checkpoint of TensorFlow's, or one that was fetched."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.models import find_codebook

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook

INDEX = ".index"
# What KMeansClustering of TensorFlow 1 calls its centres, and what a TensorFlow 2 object of that name is called.
_NAMES = ("clusters", "codebook")


def open_given(path: Path) -> "Codebook":
    """Return the codebook at a path.

    Args:
        path: what ``Codebook.save`` or the package ``asmk`` wrote; a checkpoint of TensorFlow as the DELF project
            publishes its codebooks (the folder, the ``.index`` file in it, or its path without ``.index``); or the
            name of one that ``models pull`` fetched.

    Raises:
        ConfigError: a folder holds no checkpoint, or several; or a codebook of that name was not fetched.
        ArchiveError: a file is not a codebook, or damaged.
        CheckpointError: a checkpoint is damaged, or its tensors are not those of a codebook: the message names them.
    """
    from ctxdeploy.index import open_codebook

    file = find_codebook(path)
    index = _tensorflow_index(file)
    return open_codebook(file) if index is None else _of_tensorflow(index)


def own_file(path: Path) -> Path | None:
    """Return the file of a codebook that ``Codebook.save`` wrote; None if the path names one of another form."""
    from ctxdeploy.index.codebook import is_pickled

    file = find_codebook(path)
    return None if is_pickled(file) or _tensorflow_index(file) is not None else file


def _tensorflow_index(path: Path) -> Path | None:
    if path.is_dir():
        found = sorted(file for file in path.rglob(f"*{INDEX}") if file.is_file())
        if len(found) != 1:
            what = f"has {len(found)} of them" if found else "holds none"
            raise ConfigError(
                f"--codebook {printable(str(path))} is a folder: it must hold one checkpoint of TensorFlow "
                f"(*{INDEX}), but {what}; name the file"
            )
        return found[0]
    if path.suffix == INDEX:
        return path
    beside = path.with_name(path.name + INDEX)
    return beside if beside.is_file() and not path.is_file() else None


def _of_tensorflow(index: Path) -> "Codebook":
    from ctxdeploy.export import TensorBundle
    from ctxdeploy.index import Codebook

    bundle = TensorBundle.open(index)
    names = [name for name in _NAMES if name in bundle.entries] or [
        name for name, entry in bundle.entries.items() if len(entry.shape) == 2
    ]
    if len(names) != 1:
        known = ", ".join(printable(name)[:80] for name in list(bundle.entries)[:8]) or "nothing"
        raise CheckpointError(
            f"{printable(str(index))} is not a codebook of DELF-R-ASMK: it has no tensor {_NAMES[0]!r}, but {known}"
        )
    centroids = bundle.read(names[0])
    if centroids.ndim != 2 or centroids.dtype.kind != "f":
        raise CheckpointError(
            f"{printable(str(index))}: {printable(names[0])} is {centroids.dtype} of shape {list(centroids.shape)}, "
            "not words × dimensions in float32"
        )
    try:
        return Codebook.from_centroids(np.ascontiguousarray(centroids, dtype=np.float32))
    except ValueError as error:
        raise CheckpointError(f"{printable(str(index))} is not a codebook: {error}") from error
