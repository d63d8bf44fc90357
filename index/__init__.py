"""Descriptors to an ASMK archive, and search in it.

    from ctxdeploy.index import Codebook, Index

    codebook = Codebook.train(vectors)
    with Index.create("archive", codebook) as index:
        index.add("a.jpg", vectors_of_a)
    hits = Index.open("archive").search(vectors_of_query, top=10)

The names below are imported on first use, so that ``import ctxdeploy.index`` costs nothing beyond Python.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.index.codebook.aggregate import Aggregated
    from ctxdeploy.index.codebook.codebook import Codebook
    from ctxdeploy.index.config import DescriptorSource, Hit, IndexConfig
    from ctxdeploy.index.index import Index
    from ctxdeploy.index.inputs import Photo
    from ctxdeploy.index.maintenance.merge import Merged
    from ctxdeploy.index.maintenance.repair import Repaired
    from ctxdeploy.index.maintenance.snapshots import SnapshotInfo
    from ctxdeploy.index.storage.geometry import Geometry

__all__ = [
    "Aggregated",
    "Codebook",
    "DescriptorSource",
    "Geometry",
    "Hit",
    "Index",
    "IndexConfig",
    "Merged",
    "Photo",
    "Repaired",
    "SnapshotInfo",
]

_HOMES = {
    "Aggregated": "codebook.aggregate",
    "Codebook": "codebook.codebook",
    "DescriptorSource": "config",
    "Geometry": "storage.geometry",
    "Hit": "config",
    "Index": "index",
    "IndexConfig": "config",
    "Merged": "maintenance.merge",
    "Photo": "inputs",
    "Repaired": "maintenance.repair",
    "SnapshotInfo": "maintenance.snapshots",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
