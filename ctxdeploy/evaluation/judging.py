"""Rankings to figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ctxdeploy.core.scoring import DEPTHS, QueryScore, mean, score_query
from ctxdeploy.evaluation.dataset import DataSet, Query, Task
from ctxdeploy.evaluation.ranking import Ranked

# Photos of a ranking that are kept for the page: the first ones, and the first right ones behind them.
KEPT, MISSED = 12, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a query found.

    Attributes:
        query: it.
        best: the first photos, without the query itself.
        missed: the first right photos behind those, with their places from 1, the query itself not counted.
        scores: by task; None where the query has no positives.
    """

    query: Query
    best: tuple[Ranked, ...]
    missed: tuple[tuple[int, Ranked], ...]
    scores: Mapping[str, QueryScore | None]

    @property
    def judged_by(self) -> str | None:
        """The first task that scores the query."""
        return next((task for task, score in self.scores.items() if score is not None), None)

    @property
    def average_precision(self) -> float | None:
        """Of the first task that scores the query, 0 to 1."""
        score = self.scores.get(self.judged_by or "")
        return None if score is None else score.average_precision


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The means of a task.

    Attributes:
        mean_average_precision: 0 to 1.
        precision: by depth, 0 to 1.
        queries: that were scored.
        without_positives: queries that were not, and photos of scenes that are left out, since nothing answers them.
        groups: that the means are over; 0 if they are over queries.
    """

    mean_average_precision: float
    precision: Mapping[int, float]
    queries: int
    without_positives: int
    groups: int

    def metadata(self) -> dict[str, Any]:
        """Return the figures in percent, not rounded, as JSON prints them."""
        precision = {f"mP@{depth}": 100 * value for depth, value in self.precision.items()}
        counts = {"queries": self.queries, "without_positives": self.without_positives, "scenes": self.groups or None}
        return {"mAP": 100 * self.mean_average_precision, **precision, **counts}


def judge(dataset: DataSet, rankings: Iterable[tuple[Query, Sequence[Ranked]]]) -> list[Outcome]:
    """Score rankings as they come, and keep of each what is needed later."""
    outcomes = []
    for query, ranked in rankings:
        # A distractor may be named like a photo of the database; no photo has an empty name.
        names = ["" if photo.distractor else photo.name for photo in ranked]
        scores = {
            task.name: score_query(names, task.relevance[query.key])
            for task in dataset.tasks
            if query.key in task.relevance
        }
        others = [photo for photo, name in zip(ranked, names, strict=True) if name != query.name]
        missed = _missed(dataset, query, others)
        outcomes.append(Outcome(query=query, best=tuple(others[:KEPT]), missed=missed, scores=scores))
    return outcomes


def _missed(dataset: DataSet, query: Query, others: Sequence[Ranked]) -> tuple[tuple[int, Ranked], ...]:
    positives = next((r.positives for t in dataset.tasks if (r := t.relevance.get(query.key)) and r.positives), ())
    right = frozenset(positives)
    behind = enumerate(islice(others, KEPT, None), KEPT + 1)
    return tuple(islice(((p, photo) for p, photo in behind if photo.name in right and not photo.distractor), MISSED))


def figures(dataset: DataSet, outcomes: Sequence[Outcome]) -> dict[str, Figures]:
    """Return the figures of each task; a task none of whose queries has positives has none."""
    by_key = {outcome.query.key: outcome for outcome in outcomes}
    found = {}
    for task in dataset.tasks:
        # A photo that nothing answers need not be a query: a scene of one is a normal part of a data set.
        scores = {key: by_key[key].scores[task.name] for key in task.relevance if key in by_key}
        scored = {key: score for key, score in scores.items() if score is not None}
        if scored:
            found[task.name] = _figures(task, scored, len(task.relevance) - len(scored))
    return found


def worst(outcomes: Sequence[Outcome], max_queries: int) -> list[Outcome]:
    """Return the queries with the lowest average precision, lowest first."""
    scored = [outcome for outcome in outcomes if outcome.average_precision is not None]
    return sorted(scored, key=lambda outcome: (outcome.average_precision or 0.0, outcome.query.key))[:max_queries]


def _figures(task: Task, scored: Mapping[str, QueryScore], without: int) -> Figures:
    groups = [[scored[key] for key in group if key in scored] for group in task.groups] or [list(scored.values())]

    def over(values: Sequence[Sequence[float]]) -> float:
        return mean([mean(value) for value in values]) if task.groups else mean(values[0])

    return Figures(
        mean_average_precision=over([[score.average_precision for score in group] for group in groups]),
        precision={depth: over([[score.precision[depth] for score in group] for group in groups]) for depth in DEPTHS},
        queries=len(scored),
        without_positives=without,
        groups=len(task.groups),
    )
