"""The table of the three frameworks: what each finds, keeps and takes, beside what was published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxdeploy.evaluation.dataset import DataSet
from ctxdeploy.evaluation.frameworks import Method
from ctxdeploy.evaluation.judging import Figures
from ctxdeploy.evaluation.published import GLOBAL, LOCAL, PUBLISHED, PublishedFigures, PublishedRow

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Bundle
    from ctxdeploy.index import Index

_GIB = 2**30
_MILLION = 1_000_000
# The sets whose figures are published, as their names begin.
_SETS = {"roxford": ("roxford", "roxford_1m"), "rparis": ("rparis", "rparis_1m")}


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameworkRow:
    """A row of the table.

    Attributes:
        method: how was searched.
        figures: by task, of the data set alone; None where only its figures with distractors were asked for.
        distracted: by task, with the distractors; None without.
        seconds: of a query's searches, the median; the network that describes it is not among them.
        memory: GiB that a million such photos take, as they are searched.
        published: the row of the published tables that this one repeats; None if there is none.
    """

    method: Method
    figures: Mapping[str, Figures] | None
    distracted: Mapping[str, Figures] | None
    seconds: float
    memory: float
    published: PublishedRow | None

    def metadata(self) -> dict[str, Any]:
        """Return the row as JSON prints it."""
        return {
            "method": self.method.key,
            "label": self.method.label,
            "rank": self.method.rank,
            "rerank": self.method.rerank,
            "figures": _metadata(self.figures),
            "with_distractors": _metadata(self.distracted),
            "search_seconds": self.seconds,
            "gib_at_1m": self.memory,
            "published": None if self.published is None else self.published.metadata(),
        }


def memory_of(method: Method, index: "Index") -> float:
    """Return the GiB that a million photos take as a method searches them: postings, geometry, global vectors."""
    shards, info = index.state.manifest.shards, index.info()
    photos = max(sum(entry.images for entry in shards), 1)
    features, whole = info["features"], sum(entry.bytes for entry in shards)
    geometry = features["count"] * features["bytes_each"]
    local = whole if method.reranking.verify else whole - geometry
    globally = 0 if method.rank == LOCAL else info["global"]["bytes_each"]
    return ((0 if method.rank == GLOBAL else local / photos) + globally) * _MILLION / _GIB


def published_row(method: Method, bundle: "Bundle") -> PublishedRow | None:
    """Return the published row of a bundle's checkpoint and a way to search; None if there is none."""
    from ctxdeploy.models.authors import PUBLISHED as MODELS

    file, name = bundle.source.get("file"), bundle.path.stem
    for row in PUBLISHED:
        model = MODELS.get(row.model or "")
        if row.framework == method.rank and model is not None and (name == row.model or model.file == file):
            return row
    return None


def published_figures(row: PublishedRow, dataset: DataSet) -> tuple[PublishedFigures, PublishedFigures] | None:
    """Return what a row says of a data set, without and with a million distractors; None if it is another set."""
    fields = next((names for begin, names in _SETS.items() if dataset.name.startswith(begin)), None)
    return None if fields is None else (getattr(row, fields[0]), getattr(row, fields[1]))


def _metadata(figures: Mapping[str, Figures] | None) -> dict[str, Any] | None:
    return None if figures is None else {task: found.metadata() for task, found in figures.items()}
