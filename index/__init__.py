"""Descriptors to an ASMK archive, and search in it.

    from ctxdeploy.index import Codebook, Index

    codebook = Codebook.train(vectors)
    with Index.create("archive", codebook) as index:
        index.add("a.jpg", vectors_of_a)
    hits = Index.open("archive").search(vectors_of_query, top=10)

``Index`` and ``Codebook`` do everything; ``Searcher``, ``SearchThreads`` and ``State`` are there to measure parts of a
search. The names are imported on first use, so that ``import ctxdeploy.index`` costs nothing beyond Python.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.index.asked import Asked
    from ctxdeploy.index.codebook.aggregation import Aggregated
    from ctxdeploy.index.codebook.codebook import Codebook
    from ctxdeploy.index.codebook.pickled import open_codebook
    from ctxdeploy.index.codebook.quantiser import GlobalQuantiser
    from ctxdeploy.index.config import (
        MAX_CELLS,
        MAX_WORDS,
        PART_WORDS,
        DescriptorSource,
        Hit,
        IndexConfig,
        Verification,
    )
    from ctxdeploy.index.index import Index
    from ctxdeploy.index.maintenance.merge import Merged
    from ctxdeploy.index.maintenance.repair import Repaired
    from ctxdeploy.index.maintenance.segments import Published, write_segment
    from ctxdeploy.index.maintenance.snapshots import SnapshotInfo
    from ctxdeploy.index.refinement import refined_scores
    from ctxdeploy.index.rehearsal import WarmUp, warm_up
    from ctxdeploy.index.search import Searcher
    from ctxdeploy.index.searches import CommonWords
    from ctxdeploy.index.storage.format import NewerFormatError
    from ctxdeploy.index.storage.positions import Features
    from ctxdeploy.index.storage.segment import Segment, is_segment, open_segment
    from ctxdeploy.index.storage.state import State
    from ctxdeploy.index.subset import Subset
    from ctxdeploy.index.threads import SearchThreads
    from ctxdeploy.index.verification import VerificationConfig, rank, verify

__all__ = [
    "MAX_CELLS",
    "MAX_WORDS",
    "PART_WORDS",
    "Aggregated",
    "Asked",
    "Codebook",
    "CommonWords",
    "DescriptorSource",
    "Features",
    "GlobalQuantiser",
    "Hit",
    "Index",
    "IndexConfig",
    "Merged",
    "NewerFormatError",
    "Published",
    "Repaired",
    "SearchThreads",
    "Searcher",
    "Segment",
    "SnapshotInfo",
    "State",
    "Subset",
    "Verification",
    "VerificationConfig",
    "WarmUp",
    "is_segment",
    "open_codebook",
    "open_segment",
    "rank",
    "refined_scores",
    "verify",
    "warm_up",
    "write_segment",
]

_HOMES = {
    "Aggregated": "codebook.aggregation",
    "Asked": "asked",
    "Codebook": "codebook.codebook",
    "CommonWords": "searches",
    "DescriptorSource": "config",
    "Features": "storage.positions",
    "GlobalQuantiser": "codebook.quantiser",
    "Hit": "config",
    "Index": "index",
    "IndexConfig": "config",
    "MAX_CELLS": "config",
    "MAX_WORDS": "config",
    "Merged": "maintenance.merge",
    "NewerFormatError": "storage.format",
    "PART_WORDS": "config",
    "Published": "maintenance.segments",
    "Repaired": "maintenance.repair",
    "SearchThreads": "threads",
    "Searcher": "search",
    "Segment": "storage.segment",
    "SnapshotInfo": "maintenance.snapshots",
    "State": "storage.state",
    "Subset": "subset",
    "Verification": "config",
    "VerificationConfig": "verification",
    "WarmUp": "rehearsal",
    "is_segment": "storage.segment",
    "open_codebook": "codebook.pickled",
    "open_segment": "storage.segment",
    "rank": "verification",
    "refined_scores": "refinement",
    "verify": "verification",
    "warm_up": "rehearsal",
    "write_segment": "maintenance.segments",
}

__getattr__, __dir__ = door(__name__, _HOMES)
