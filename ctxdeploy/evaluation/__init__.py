"""Data sets through the whole pipeline: photos to an archive, queries to rankings, rankings to figures.

The names below are imported on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.evaluation.codebooks import CodebookConfig
    from ctxdeploy.evaluation.dataset import DataSet, Query
    from ctxdeploy.evaluation.evaluation import Evaluation, EvaluationConfig, evaluate
    from ctxdeploy.evaluation.judging import Figures, Outcome, worst
    from ctxdeploy.evaluation.query_cache import ObservedExtractor
    from ctxdeploy.evaluation.ranking import Ranked
    from ctxdeploy.evaluation.retrieval import AsmkRetrieval, asmk_scores, rankings
    from ctxdeploy.evaluation.table import KINDS, open_set

__all__ = [
    "KINDS",
    "AsmkRetrieval",
    "CodebookConfig",
    "DataSet",
    "Evaluation",
    "EvaluationConfig",
    "Figures",
    "ObservedExtractor",
    "Outcome",
    "Query",
    "Ranked",
    "asmk_scores",
    "evaluate",
    "open_set",
    "rankings",
    "worst",
]

_HOMES = {
    "KINDS": "table",
    "AsmkRetrieval": "retrieval",
    "CodebookConfig": "codebooks",
    "DataSet": "dataset",
    "Evaluation": "evaluation",
    "EvaluationConfig": "evaluation",
    "Figures": "judging",
    "ObservedExtractor": "query_cache",
    "Outcome": "judging",
    "Query": "dataset",
    "Ranked": "ranking",
    "asmk_scores": "retrieval",
    "evaluate": "evaluation",
    "open_set": "table",
    "rankings": "retrieval",
    "worst": "judging",
}

__getattr__, __dir__ = door(__name__, _HOMES)
