"""A page of the queries that found least: what they returned, each photo marked right, wrong or junk."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ctxdeploy.archive import photo_folder
from ctxdeploy.core.scoring import QueryScore
from ctxdeploy.evaluation.dataset import DataSet
from ctxdeploy.evaluation.evaluate import Evaluation
from ctxdeploy.evaluation.judging import Outcome, worst
from ctxdeploy.evaluation.ranking import Ranked
from ctxdeploy.report.query_page import Result, Section, write_sections

# Ranks of right photos that are named.
_NAMED_RANKS = 8


def write_failures(path: Path, evaluation: Evaluation, distractors: Path | None, most: int) -> None:
    """Write the page of the ``most`` worst queries.

    Args:
        path: the file.
        evaluation: what came out.
        distractors: their archive, which says where their photos are.
        most: queries.

    Raises:
        StorageError: the file cannot be written.
    """
    dataset = evaluation.dataset
    folder = None if distractors is None else photo_folder(distractors)
    shown = worst(evaluation.outcomes, most)
    leads = [f"the {len(shown)} worst of {len(dataset.queries)} queries; {dataset.rule}"]
    for task, found in evaluation.figures.items():
        leads.append(f"{task}: mAP {100 * found.mean_average_precision:.2f} over {found.queries} queries")
    sections = (_section(outcome, dataset, folder) for outcome in shown)
    title = f"{dataset.name}: the worst queries"
    write_sections(path, sections, title=title, leads=leads, alarm="; ".join(evaluation.warnings))


def _section(outcome: Outcome, dataset: DataSet, distractors: Path | None) -> Section:
    return Section(
        photo=dataset.folder / outcome.query.name,
        box=outcome.query.box,
        title=outcome.query.key,
        facts=list(_facts(outcome, dataset)),
        results=[
            Result(
                name=photo.name,
                score=photo.score,
                picture=_picture(photo, dataset.folder, distractors),
                verdict=verdict(photo, outcome, dataset),
                rank=rank,
            )
            for rank, photo in (*enumerate(outcome.best, 1), *outcome.missed)
        ],
    )


def verdict(photo: Ranked, outcome: Outcome, dataset: DataSet) -> str:
    """Return ``right``, ``wrong`` or ``junk``, by the first task that scores the query."""
    task = next(task for task in dataset.tasks if task.name == outcome.judged_by)
    relevance = task.relevance[outcome.query.key]
    if photo.distractor:
        return "wrong"
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
    ranks: Sequence[int] = score.ranks[:_NAMED_RANKS]
    more = ", …" if len(score.ranks) > len(ranks) else ""
    missing = positives - len(score.ranks)
    never = f", {missing} not found" if missing else ""
    where = ", ".join(str(rank + 1) for rank in ranks)
    return f"{positives} right, at {where}{more}{never}" if ranks else f"{positives} right, none found"


def _picture(photo: Ranked, folder: Path, distractors: Path | None) -> Path | None:
    if not photo.distractor:
        return folder / photo.name
    return None if distractors is None else distractors / photo.name
