"""A data set through the whole pipeline: its photos to an archive, its queries to rankings, rankings to figures."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxdeploy.archive import extraction_of, is_archive
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display, Progress
from ctxdeploy.core.settings import setting
from ctxdeploy.core.text import counted, printable
from ctxdeploy.evaluation.codebooks import CodebookConfig, CodebookFinder, Provenance
from ctxdeploy.evaluation.comparison import FrameworkRow, memory_of, published_row
from ctxdeploy.evaluation.dataset import DataSet, Query
from ctxdeploy.evaluation.frameworks import FrameworkConfig, Method
from ctxdeploy.evaluation.judging import Figures, Outcome, figures, judge, worst
from ctxdeploy.evaluation.published import GLOBAL_THEN_LOCAL, LOCAL
from ctxdeploy.evaluation.query_cache import ObservedExtractor, QueryCache
from ctxdeploy.evaluation.ranking import (
    Ranked,
    RankingsFile,
    check_alike,
    check_codebook,
    open_distractors,
    rankings,
)
from ctxdeploy.evaluation.reranking import Reranking
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.job import gives_local
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.query import GEOMETRY

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Bundle
    from ctxdeploy.index import Index


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated.

    Attributes:
        codebook: where it comes from.
        distractors: an archive that is searched as well.
        with_global: rank by global vectors too.
        rankings: file that takes every ranking, a JSON object a line.
        frameworks: which ways to search.
        reranking: what follows the search.
    """

    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    distractors: Path | None = setting(
        None, "--distractors", "Search this archive as well, such as of a million.", metavar="ARCHIVE"
    )
    with_global: bool = setting(False, "--global", "Rank by global vectors too.")
    rankings: Path | None = setting(None, "--rankings", "Write every ranking, one JSON object a line.", metavar="FILE")
    frameworks: FrameworkConfig = field(default_factory=FrameworkConfig)
    reranking: Reranking = field(default_factory=Reranking)

    def __post_init__(self) -> None:
        if self.distractors is not None and not self.reranking.is_none:
            raise ConfigError("--distractors excludes --expand and --verify: they look into one archive")
        two_stages = (self.frameworks.rank, self.frameworks.rerank_by) == (GLOBAL_THEN_LOCAL, GEOMETRY)
        if self.distractors is not None and (two_stages or self._verifies_row()):
            raise ConfigError("--distractors excludes re-ranking by geometry: it looks into one archive")
        if self.rankings is not None and not self.rankings.parent.is_dir():
            raise ConfigError(f"--rankings {self.rankings}: {self.rankings.parent} is not a folder")
        if self.rankings is not None and self.rankings.is_dir():
            raise ConfigError(f"--rankings {self.rankings} is a folder: give a file")

    def _verifies_row(self) -> bool:
        row = self.frameworks.published
        return row is not None and row.framework == GLOBAL_THEN_LOCAL


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What came out.

    Attributes:
        dataset: what was evaluated.
        archive: of its photos.
        figures: by task, of the first way to search that was asked for, local if nothing else was.
        outcomes: of all queries.
        global_figures: by task, of global vectors, where they were asked for besides.
        rows: of the table of frameworks, or one for each way to search.
        model: name of the model.
        is_table: whether that table is what was asked for.
        codebook: and what trained it; None of a model that gives no local descriptors.
        unreadable: database photos that could not be read; no query finds them, or it finds what they showed before.
        distractors: photos that were searched besides; None without an archive of them.
        extraction: what extracted the photos.
        seconds: of this run.
    """

    dataset: DataSet
    archive: Path
    figures: dict[str, Figures]
    outcomes: list[Outcome]
    global_figures: dict[str, Figures] | None
    rows: Sequence[FrameworkRow]
    model: str
    is_table: bool
    codebook: Provenance | None
    unreadable: tuple[str, ...]
    distractors: int | None
    extraction: dict[str, Any]
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """What must be read with the figures."""
        found = [] if self.codebook is None or self.codebook.warning is None else [self.codebook.warning]
        if self.unreadable:
            count = counted(len(self.unreadable), "database photo")
            found.append(f"{count} could not be read, and count as not found or as they were: see  ctxdeploy info")
        return found

    def metadata(self, max_queries: int) -> dict[str, Any]:
        """Return the result as JSON prints it, with at most ``max_queries`` of the worst queries."""
        pooled = None if self.global_figures is None else {k: v.metadata() for k, v in self.global_figures.items()}
        return {
            "set": self.dataset.name,
            "model": self.model,
            "kind": self.dataset.kind,
            "rule": self.dataset.rule,
            "unit": "percent",
            "figures": {task: found.metadata() for task, found in self.figures.items()},
            "global": pooled,
            "frameworks": [row.metadata() for row in self.rows],
            "photos": len(self.dataset.database),
            "queries": len(self.dataset.queries),
            "unreadable": list(self.unreadable),
            "distractors": self.distractors,
            "codebook": None if self.codebook is None else self.codebook.metadata(),
            "warnings": self.warnings,
            "archive": str(self.archive),
            "extraction": self.extraction,
            "worst": [
                {"query": outcome.query.key, "task": outcome.judged_by, "AP": 100 * (outcome.average_precision or 0.0)}
                for outcome in worst(self.outcomes, max_queries)
            ],
            "seconds": round(self.seconds, 3),
        }


def evaluate(
    dataset: DataSet, archive: Path, extractor: ObservedExtractor, config: EvaluationConfig, display: Display
) -> Evaluation:
    """Evaluate a model on a data set.

    Args:
        dataset: its photos are indexed, its queries asked with the default settings.
        archive: new, or left by an earlier run, which this one continues.
        extractor: the model.
        config: codebook, distractors, global descriptors.
        display: where progress and remarks go.

    Raises:
        ConfigError: no codebook, or one that was trained on the evaluated photos without being asked for; an archive
            with other photos, or of another precision.
        MismatchError: archive or distractors were made with another model, preprocessing or codebook.
        PhotoError: a query cannot be read.
        ArchiveError, StorageError, NoPhotosError, BackendError: as ``PhotoIndex.add``.
    """
    start = time.monotonic()
    if config.distractors is not None and config.distractors.resolve() == archive.resolve():
        raise ConfigError(
            f"--distractors {archive} is the archive of the evaluated photos (-o): give that of other ones"
        )
    _check_archive(dataset, archive, extractor)
    dataset.check_boxes(extractor.config.limits)
    with ExitStack() as stack:
        distractors = None
        if config.distractors is not None:
            distractors = stack.enter_context(open_distractors(config.distractors, extractor.bundle))
        with_local = gives_local(extractor.bundle)
        methods = config.frameworks.methods(config.reranking, with_local=with_local, with_global=config.with_global)
        finder = CodebookFinder(dataset, archive, config.distractors, config.codebook)
        file, provenance = finder.find(extractor, display) if with_local else (None, None)
        if distractors is not None and provenance is not None:
            check_codebook(distractors, provenance.id)
        cache = QueryCache(dataset, archive, extractor)
        stack.enter_context(cache.locked())
        cache.extract_queries(display, outside=True)
        index = stack.enter_context(_indexed(dataset, archive, extractor, file, config, methods, cache, display))
        cache.extract_queries(display, outside=False)
        if provenance is None and with_local:
            provenance = finder.judge(index.codebook, "trained on the evaluated photos")
        with_global = any(method.rank != LOCAL for method in methods)
        if with_global and not index.config.keeps_global:
            raise ConfigError(f"{archive} keeps no global vectors: give another -o, whose archive is made with them")
        if distractors is not None:
            check_alike(index, distractors, with_global=with_global)
        for method in methods:
            method.reranking.check(index)
        searches = _Searches(
            dataset=dataset,
            index=index,
            cache=cache,
            out=stack.enter_context(RankingsFile(config.rankings)),
            display=display,
            bundle=extractor.bundle,
        )
        first, *others = [searches.row(method, distractors, alone=config.frameworks.is_table) for method in methods]
        outcomes = first[1]
        pooled = figures(dataset, others[0][1]) if config.with_global and not config.frameworks.is_table else None
        return Evaluation(
            dataset=dataset,
            archive=archive,
            figures=figures(dataset, outcomes),
            outcomes=outcomes,
            global_figures=pooled,
            rows=[row for row, _ in (first, *others)],
            model=str(extractor.bundle.source.get("file", extractor.bundle.path.stem)),
            is_table=config.frameworks.is_table,
            codebook=provenance,
            unreadable=_unread(dataset, index),
            distractors=None if distractors is None else len(distractors),
            extraction=extractor.description(),
            seconds=time.monotonic() - start,
        )


def _check_archive(dataset: DataSet, archive: Path, extractor: ObservedExtractor) -> None:
    """Raise ``ConfigError`` if an archive holds what the data set does not, or was extracted in another way."""
    from ctxdeploy.index import Index

    if not is_archive(archive):
        return
    database = set(dataset.database)
    with Index.open(archive) as index:
        other = next((name for name in index.names() if name not in database), None)
    if other is not None:
        raise ConfigError(
            f"{archive} holds {printable(other)}, which is not of {dataset.name}'s database: choose another -o"
        )
    former, now = extraction_of(archive), extractor.description()
    for what in ("backend", "precision"):
        if former is not None and former.get(what) != now[what]:
            raise ConfigError(
                f"{archive} was made with {what} {former.get(what)}, now it would be {now[what]}: choose another -o, "
                f"or the same --{what}"
            )


def _unread(dataset: DataSet, index: "Index") -> tuple[str, ...]:
    """Return the photos that are not in the archive, or not as they are now."""
    known = index.known()
    photos = dataset.photo_list().photos
    return tuple(photo.name for photo in photos if photo.name not in known or known[photo.name] != photo.state())


def _indexed(
    dataset: DataSet,
    archive: Path,
    extractor: ObservedExtractor,
    codebook: Path | None,
    config: EvaluationConfig,
    methods: Sequence[Method],
    cache: QueryCache,
    display: Display,
) -> "Index":
    """Index what is not in the archive yet, and open it for reading."""
    from ctxdeploy.index import Index

    # The archive holds photos of this set alone (see above), so wherever they were before, they have moved.
    words = config.codebook.words if config.codebook.photos is None else None
    geometry = next((method.reranking.geometry for method in methods if method.reranking.verify), "none")
    kept = "fp32" if any(method.rank != LOCAL for method in methods) else "none"
    settings = IndexingConfig(codebook=codebook, words=words, moved=True, geometry=geometry, global_vectors=kept)
    if is_archive(archive):
        settings = replace(settings, geometry="none", global_vectors="none")  # as it was made
        photos = PhotoIndex.open(archive, writable=True, extractor=extractor)
    else:
        photos = PhotoIndex.create(archive, config=settings, extractor=extractor)
    with photos, extractor.observed(cache.take):
        photos.add(dataset.photo_list(), config=settings, display=display)
    return Index.open(archive)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Searches:
    """Searches a data set, in one way after the other.

    Attributes:
        dataset: whose queries are asked.
        index: archive of its photos.
        cache: descriptors of the queries.
        out: takes the rankings.
        display: shows progress.
        bundle: the model.
    """

    dataset: DataSet
    index: "Index"
    cache: QueryCache
    out: RankingsFile
    display: Display
    bundle: "Bundle"

    def row(self, method: Method, distractors: "Index | None", *, alone: bool) -> tuple[FrameworkRow, list[Outcome]]:
        """Return what a method finds, with the distractors if there are any, and on request without them as well."""
        method = replace(method, reranking=method.reranking.for_photos_of(self.bundle.preprocessing.image_size))
        seconds: list[float] = []
        plain = None
        if alone and distractors is not None:
            plain = self._outcomes(method, None, RankingsFile(None), [])
        outcomes = self._outcomes(method, distractors, self.out, seconds)
        found = figures(self.dataset, outcomes)
        row = FrameworkRow(
            method=method,
            figures=(None if plain is None else figures(self.dataset, plain)) if distractors is not None else found,
            distracted=None if distractors is None else found,
            seconds=float(np.median(seconds)) if seconds else 0.0,
            memory=memory_of(method, self.index),
            published=published_row(method, self.bundle),
        )
        return row, outcomes

    def _outcomes(
        self, method: Method, distractors: "Index | None", out: RankingsFile, seconds: list[float]
    ) -> list[Outcome]:
        queries, key = self.dataset.queries, method.key
        found = rankings(method, self.index, distractors, queries, self.cache, seconds)
        with self.display.progress(f"querying ({key})", len(queries), "queries") as bar:
            return judge(self.dataset, _watched(found, out, key, bar))


def _watched(
    ranked_queries: Iterable[tuple[Query, list[Ranked]]], out: RankingsFile, method: str, bar: Progress
) -> Iterator[tuple[Query, Sequence[Ranked]]]:
    for query, ranked in ranked_queries:
        out.write(query, ranked, method)
        yield query, ranked
        bar.advance()
