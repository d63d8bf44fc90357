"""The page of the queries that an evaluation answered worst, each photo marked right, wrong or junk."""

from collections.abc import Iterator
from pathlib import Path

from ctxdeploy.core.scoring import QueryScore
from ctxdeploy.evaluation import DataSet, Evaluation, Outcome, Ranked, worst
from ctxdeploy.report.answers import AnswersPage, Result, Section, picture_of
from ctxdeploy.report.pages import write_page

# Ranks of right photos that are named.
_MAX_RANKS = 8


def write_failures(path: Path, evaluation: Evaluation, distractors: Path | None, max_queries: int) -> None:
    """Write the page of the worst queries.

    Args:
        path: the file.
        evaluation: what came out.
        distractors: folder of their photos; None if it is not known.
        max_queries: that are shown.

    Raises:
        StorageError: the file cannot be written.
    """
    dataset = evaluation.dataset
    shown = worst(evaluation.outcomes, max_queries)
    figures = [
        f"{task}: mAP {100 * found.mean_average_precision:.2f} over {found.queries:,} queries"
        for task, found in evaluation.figures.items()
    ]
    page = AnswersPage(
        kind="Worst queries",
        title=dataset.name,
        leads=(f"The {len(shown)} worst of {len(dataset.queries):,} queries. Rule: {dataset.rule}.", *figures),
        sections=[_section(outcome, dataset, distractors) for outcome in shown],
        warnings=evaluation.warnings,
    )
    write_page(path, "answers.html", page, option="--html")


def _section(outcome: Outcome, dataset: DataSet, distractors: Path | None) -> Section:
    return Section(
        photo=picture_of(dataset.folder, outcome.query.name),
        box=outcome.query.box,
        title=outcome.query.key,
        facts=list(_facts(outcome, dataset)),
        results=[
            Result(
                name=photo.name,
                score=photo.score,
                rank=rank,
                picture=picture_of(distractors if photo.distractor else dataset.folder, photo.name),
                verdict=_verdict(photo, outcome, dataset),
            )
            for rank, photo in (*enumerate(outcome.best, 1), *outcome.missed)
        ],
    )


def _verdict(photo: Ranked, outcome: Outcome, dataset: DataSet) -> str:
    """Return ``right``, ``wrong`` or ``junk``, by the first task that scores the query."""
    if photo.distractor:
        return "wrong"
    task = next(task for task in dataset.tasks if task.name == outcome.judged_by)
    relevance = task.relevance[outcome.query.key]
    if photo.name in relevance.positives:
        return "right"
    return "junk" if photo.name in relevance.junk else "wrong"


def _facts(outcome: Outcome, dataset: DataSet) -> Iterator[str]:
    for task in dataset.tasks:
        score = outcome.scores.get(task.name)
        if score is not None:
            count = len(task.relevance[outcome.query.key].positives)
            yield f"{task.name}: AP {100 * score.average_precision:.1f}; {_ranks(score, count)}"
    if outcome.query.box is not None:
        yield f"box {outcome.query.box}"


def _ranks(score: QueryScore, positives: int) -> str:
    """Return where the right photos are, from 1, junk taken out."""
    named = ", ".join(str(rank + 1) for rank in score.ranks[:_MAX_RANKS])
    if not named:
        return f"none of {positives:,} right photos was found"
    more = ", …" if len(score.ranks) > _MAX_RANKS else ""
    missing = positives - len(score.ranks)
    never = f"; {missing:,} not found" if missing else ""
    return f"{positives:,} right at {'rank' if len(score.ranks) == 1 else 'ranks'} {named}{more}{never}"
