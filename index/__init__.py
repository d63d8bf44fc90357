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
    from ctxdeploy.index.asked import Asked, checked_top
    from ctxdeploy.index.codebook.aggregation import Aggregated, check_aggregated
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
        Scoring,
        Verification,
    )
    from ctxdeploy.index.expansion import checked_expand, search_expanded
    from ctxdeploy.index.index import Index
    from ctxdeploy.index.maintenance.copies import (
        HeldState,
        copied_states,
        damaged_copies,
        drop_copy,
        file_entry,
        files_of_copies,
        hold_copy,
        hold_states,
        parse_manifest,
        show_copy,
    )
    from ctxdeploy.index.maintenance.merge import Merged
    from ctxdeploy.index.maintenance.repair import Repaired
    from ctxdeploy.index.maintenance.segments import Published, write_segment
    from ctxdeploy.index.maintenance.snapshots import SnapshotInfo
    from ctxdeploy.index.part import BareIndex, IndexPart, PhotoFacts
    from ctxdeploy.index.queried import QueriedIndex
    from ctxdeploy.index.refinement import refined_scores
    from ctxdeploy.index.rehearsal import WarmUp, warm_up
    from ctxdeploy.index.search import Combination, Searcher
    from ctxdeploy.index.search_device import SearchDevice, SearchPlace
    from ctxdeploy.index.searches import CommonWords
    from ctxdeploy.index.sizes import (
        PhotoSizes,
        codebook_bytes,
        photo_sizes,
        quantiser_bytes,
        shard_photos,
        statistics_bytes,
    )
    from ctxdeploy.index.storage.format import NewerFormatError
    from ctxdeploy.index.storage.lease import break_lease, writer_of
    from ctxdeploy.index.storage.manifest import FileEntry, Manifest, ShardEntry
    from ctxdeploy.index.storage.message import read_message, write_message
    from ctxdeploy.index.storage.pins import Pin
    from ctxdeploy.index.storage.positions import Features, PackedFeatures, unpack_features
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
    "BareIndex",
    "Codebook",
    "Combination",
    "CommonWords",
    "DescriptorSource",
    "Features",
    "FileEntry",
    "GlobalQuantiser",
    "HeldState",
    "Hit",
    "Index",
    "IndexConfig",
    "IndexPart",
    "Manifest",
    "Merged",
    "NewerFormatError",
    "PackedFeatures",
    "PhotoFacts",
    "PhotoSizes",
    "Pin",
    "Published",
    "QueriedIndex",
    "Repaired",
    "Scoring",
    "SearchDevice",
    "SearchPlace",
    "SearchThreads",
    "Searcher",
    "Segment",
    "ShardEntry",
    "SnapshotInfo",
    "State",
    "Subset",
    "Verification",
    "VerificationConfig",
    "WarmUp",
    "break_lease",
    "check_aggregated",
    "checked_expand",
    "checked_top",
    "codebook_bytes",
    "copied_states",
    "damaged_copies",
    "drop_copy",
    "file_entry",
    "files_of_copies",
    "hold_copy",
    "hold_states",
    "is_segment",
    "open_codebook",
    "open_segment",
    "parse_manifest",
    "photo_sizes",
    "quantiser_bytes",
    "rank",
    "read_message",
    "refined_scores",
    "search_expanded",
    "shard_photos",
    "show_copy",
    "statistics_bytes",
    "unpack_features",
    "verify",
    "warm_up",
    "write_message",
    "write_segment",
    "writer_of",
]

_HOMES = {
    "check_aggregated": "codebook.aggregation",
    "Combination": "search",
    "checked_top": "asked",
    "checked_expand": "expansion",
    "search_expanded": "expansion",
    "write_message": "storage.message",
    "read_message": "storage.message",
    "Scoring": "config",
    "unpack_features": "storage.positions",
    "PackedFeatures": "storage.positions",
    "QueriedIndex": "queried",
    "PhotoFacts": "part",
    "IndexPart": "part",
    "BareIndex": "part",
    "Aggregated": "codebook.aggregation",
    "Asked": "asked",
    "Codebook": "codebook.codebook",
    "CommonWords": "searches",
    "DescriptorSource": "config",
    "Features": "storage.positions",
    "FileEntry": "storage.manifest",
    "GlobalQuantiser": "codebook.quantiser",
    "HeldState": "maintenance.copies",
    "Hit": "config",
    "Index": "index",
    "IndexConfig": "config",
    "MAX_CELLS": "config",
    "MAX_WORDS": "config",
    "Manifest": "storage.manifest",
    "Merged": "maintenance.merge",
    "NewerFormatError": "storage.format",
    "PART_WORDS": "config",
    "Pin": "storage.pins",
    "PhotoSizes": "sizes",
    "Published": "maintenance.segments",
    "Repaired": "maintenance.repair",
    "SearchDevice": "search_device",
    "SearchPlace": "search_device",
    "SearchThreads": "threads",
    "Searcher": "search",
    "Segment": "storage.segment",
    "ShardEntry": "storage.manifest",
    "SnapshotInfo": "maintenance.snapshots",
    "State": "storage.state",
    "Subset": "subset",
    "Verification": "config",
    "VerificationConfig": "verification",
    "WarmUp": "rehearsal",
    "break_lease": "storage.lease",
    "copied_states": "maintenance.copies",
    "damaged_copies": "maintenance.copies",
    "drop_copy": "maintenance.copies",
    "file_entry": "maintenance.copies",
    "files_of_copies": "maintenance.copies",
    "hold_copy": "maintenance.copies",
    "hold_states": "maintenance.copies",
    "is_segment": "storage.segment",
    "open_codebook": "codebook.pickled",
    "open_segment": "storage.segment",
    "parse_manifest": "maintenance.copies",
    "rank": "verification",
    "refined_scores": "refinement",
    "show_copy": "maintenance.copies",
    "codebook_bytes": "sizes",
    "photo_sizes": "sizes",
    "quantiser_bytes": "sizes",
    "shard_photos": "sizes",
    "statistics_bytes": "sizes",
    "verify": "verification",
    "warm_up": "rehearsal",
    "write_segment": "maintenance.segments",
    "writer_of": "storage.lease",
}

__getattr__, __dir__ = door(__name__, _HOMES)
