"""Data sets through the whole pipeline: photos to an archive, queries to rankings, rankings to figures.

The names below are imported on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.evaluation.codebooks import CodebookConfig
    from ctxdeploy.evaluation.covisibility import MIN_POINTS, Covisibility, PairsFigures, judge_pairs, read_model
    from ctxdeploy.evaluation.dataset import DataSet, Query
    from ctxdeploy.evaluation.evaluation import Evaluation, EvaluationConfig, evaluate
    from ctxdeploy.evaluation.judging import Figures, Outcome, worst
    from ctxdeploy.evaluation.query_cache import ObservedExtractor
    from ctxdeploy.evaluation.ranking import Ranked
    from ctxdeploy.evaluation.reranking import Reranking
    from ctxdeploy.evaluation.retrieval import AsmkRetrieval, asmk_scores, rankings
    from ctxdeploy.evaluation.table import KINDS, open_set

__all__ = [
    "KINDS",
    "MIN_POINTS",
    "AsmkRetrieval",
    "CodebookConfig",
    "Covisibility",
    "DataSet",
    "Evaluation",
    "EvaluationConfig",
    "Figures",
    "ObservedExtractor",
    "Outcome",
    "PairsFigures",
    "Query",
    "Ranked",
    "Reranking",
    "asmk_scores",
    "evaluate",
    "judge_pairs",
    "open_set",
    "rankings",
    "read_model",
    "worst",
]

_HOMES = {
    "KINDS": "table",
    "AsmkRetrieval": "retrieval",
    "CodebookConfig": "codebooks",
    "Covisibility": "covisibility",
    "DataSet": "dataset",
    "Evaluation": "evaluation",
    "EvaluationConfig": "evaluation",
    "Figures": "judging",
    "ObservedExtractor": "query_cache",
    "MIN_POINTS": "covisibility",
    "Outcome": "judging",
    "PairsFigures": "covisibility",
    "Query": "dataset",
    "Ranked": "ranking",
    "Reranking": "reranking",
    "asmk_scores": "retrieval",
    "evaluate": "evaluation",
    "judge_pairs": "covisibility",
    "open_set": "table",
    "rankings": "retrieval",
    "read_model": "covisibility",
    "worst": "judging",
}

__getattr__, __dir__ = door(__name__, _HOMES)
