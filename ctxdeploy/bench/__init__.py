"""How fast is it here, and what limits it: measurements that can be compared, and their comparison.

A question (``extraction_question``, ``search_question``, ``end_to_end_question``) is a set of cases. ``measure`` lets
them take turns in windows, each in a process of its own, and keeps every time in a ``Record``; ``results_of`` and
``compare_files`` say what follows. The scripts in ``benchmarks/`` and ``ctxdeploy bench`` stand on this.

The names below are imported on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.bench.cases import BundleEngine, Case
    from ctxdeploy.bench.config import (
        CompanionConfig,
        EndToEndMeasurement,
        ExtractMeasurement,
        SearchMeasurement,
        WindowConfig,
    )
    from ctxdeploy.bench.inputs import (
        BYTES_PER_POSTING,
        DIM,
        WORDS,
        build_archive,
        draw_aggregated,
        draw_photos,
        draw_queries,
        photo_files,
        prepare,
    )
    from ctxdeploy.bench.machine import own_memory, peak_memory
    from ctxdeploy.bench.peers import choose_openblas, reference_of, score_difference
    from ctxdeploy.bench.questions import (
        end_to_end_question,
        extraction_question,
        index_case,
        photo_case,
        pytorch_case,
        search_question,
        synthetic_archive,
    )
    from ctxdeploy.bench.record import FORMAT, Record
    from ctxdeploy.bench.results import compare_files, results_of
    from ctxdeploy.bench.roofline import RATED, bandwidth, convolution_rate, count_operations
    from ctxdeploy.bench.run import Question, measure
    from ctxdeploy.bench.stages import SearchStages
    from ctxdeploy.bench.statistics import in_turns, milliseconds, timed
    from ctxdeploy.bench.summary import comparison_text, draw, markdown, publish

_NAMES = {
    "cases": ("BundleEngine", "Case"),
    "config": (
        "CompanionConfig", "EndToEndMeasurement", "ExtractMeasurement", "SearchMeasurement", "WindowConfig",
    ),
    "inputs": (
        "BYTES_PER_POSTING", "DIM", "WORDS", "build_archive", "draw_aggregated", "draw_photos",
        "draw_queries", "photo_files", "prepare",
    ),
    "machine": ("own_memory", "peak_memory"),
    "peers": ("choose_openblas", "reference_of", "score_difference"),
    "questions": (
        "end_to_end_question", "extraction_question", "index_case", "photo_case", "pytorch_case",
        "search_question", "synthetic_archive",
    ),
    "record": ("FORMAT", "Record"),
    "results": ("compare_files", "results_of"),
    "roofline": ("RATED", "bandwidth", "convolution_rate", "count_operations"),
    "run": ("Question", "measure"),
    "stages": ("SearchStages",),
    "statistics": ("in_turns", "milliseconds", "timed"),
    "summary": ("comparison_text", "draw", "markdown", "publish"),
}  # fmt: skip
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "BYTES_PER_POSTING",
    "DIM",
    "FORMAT",
    "RATED",
    "WORDS",
    "BundleEngine",
    "Case",
    "CompanionConfig",
    "EndToEndMeasurement",
    "ExtractMeasurement",
    "Question",
    "Record",
    "SearchMeasurement",
    "SearchStages",
    "WindowConfig",
    "bandwidth",
    "build_archive",
    "choose_openblas",
    "compare_files",
    "comparison_text",
    "convolution_rate",
    "count_operations",
    "draw",
    "draw_aggregated",
    "draw_photos",
    "draw_queries",
    "end_to_end_question",
    "extraction_question",
    "in_turns",
    "index_case",
    "markdown",
    "measure",
    "milliseconds",
    "own_memory",
    "peak_memory",
    "photo_case",
    "photo_files",
    "prepare",
    "publish",
    "pytorch_case",
    "reference_of",
    "results_of",
    "score_difference",
    "search_question",
    "synthetic_archive",
    "timed",
]

__getattr__, __dir__ = door(__name__, _HOMES)
