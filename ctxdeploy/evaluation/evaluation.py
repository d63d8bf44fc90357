"""A data set through the whole pipeline: its photos to an archive, its queries to rankings, rankings to figures."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.archive import extraction_of, is_archive
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display, Progress
from ctxdeploy.core.settings import setting
from ctxdeploy.core.text import counted, printable
from ctxdeploy.evaluation.codebooks import CodebookConfig, CodebookFinder, Provenance
from ctxdeploy.evaluation.dataset import DataSet, Query
from ctxdeploy.evaluation.judging import Figures, Outcome, figures, judge, worst
from ctxdeploy.evaluation.query_cache import ObservedExtractor, QueryCache
from ctxdeploy.evaluation.ranking import (
    Ranked,
    RankingsFile,
    asmk_rankings,
    check_alike,
    check_codebook,
    global_rankings,
    open_distractors,
)
from ctxdeploy.evaluation.reranking import Reranking
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.photo_index import PhotoIndex

if TYPE_CHECKING:
    from ctxdeploy.index import Index


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated.

    Attributes:
        codebook: where it comes from.
        distractors: an archive that is searched as well.
        with_global: rank by global descriptors too.
        rankings: file that takes every ranking, a JSON object a line.
        reranking: what follows the search.
    """

    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    distractors: Path | None = setting(
        None, "--distractors", "Search this archive as well, such as of a million.", metavar="ARCHIVE"
    )
    with_global: bool = setting(False, "--global", "Rank by the sum-pooled global descriptor too.")
    rankings: Path | None = setting(None, "--rankings", "Write every ranking, one JSON object a line.", metavar="FILE")
    reranking: Reranking = field(default_factory=Reranking)

    def __post_init__(self) -> None:
        if self.distractors is not None and not self.reranking.is_none:
            raise ConfigError("--distractors excludes --expand and --verify: they look into one archive")
        if self.with_global and self.distractors is not None:
            raise ConfigError("--global and --distractors exclude each other: an archive holds no global descriptors")
        if self.rankings is not None and not self.rankings.parent.is_dir():
            raise ConfigError(f"--rankings {self.rankings}: {self.rankings.parent} is not a folder")
        if self.rankings is not None and self.rankings.is_dir():
            raise ConfigError(f"--rankings {self.rankings} is a folder: give a file")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What came out.

    Attributes:
        dataset: what was evaluated.
        archive: of its photos.
        figures: by task, of the archive with its default settings.
        outcomes: of all queries.
        global_figures: by task, of global descriptors; None if they were not asked for.
        codebook: and what trained it.
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
    codebook: Provenance
    unreadable: tuple[str, ...]
    distractors: int | None
    extraction: dict[str, Any]
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """What must be read with the figures."""
        found = [] if self.codebook.warning is None else [self.codebook.warning]
        if self.unreadable:
            count = counted(len(self.unreadable), "database photo")
            found.append(f"{count} could not be read, and count as not found or as they were: see  ctxdeploy info")
        return found

    def metadata(self, max_queries: int) -> dict[str, Any]:
        """Return the result as JSON prints it, with at most ``max_queries`` of the worst queries."""
        pooled = None if self.global_figures is None else {k: v.metadata() for k, v in self.global_figures.items()}
        return {
            "set": self.dataset.name,
            "kind": self.dataset.kind,
            "rule": self.dataset.rule,
            "unit": "percent",
            "figures": {task: found.metadata() for task, found in self.figures.items()},
            "global": pooled,
            "photos": len(self.dataset.database),
            "queries": len(self.dataset.queries),
            "unreadable": list(self.unreadable),
            "distractors": self.distractors,
            "codebook": self.codebook.metadata(),
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
        MissingExtraError: ``with_global`` without faiss.
        ArchiveError, StorageError, NoPhotosError, BackendError: as ``PhotoIndex.add``.
    """
    start = time.monotonic()
    if config.with_global:
        require("faiss", "eval")
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
        finder = CodebookFinder(dataset, archive, config.distractors, config.codebook)
        file, provenance = finder.find(extractor, display)
        if distractors is not None and provenance is not None:
            check_codebook(distractors, provenance.id)
        cache = QueryCache(dataset, archive, extractor, with_global=config.with_global)
        stack.enter_context(cache.locked())
        cache.extract_queries(display, outside=True)
        index = stack.enter_context(_indexed(dataset, archive, extractor, file, config, cache, display))
        cache.extract_queries(display, outside=False)
        if provenance is None:
            provenance = finder.judge(index.codebook, "trained on the evaluated photos")
        if distractors is not None:
            check_alike(index, distractors)
        config.reranking.check(index)
        out = stack.enter_context(RankingsFile(config.rankings))
        reranking = config.reranking.for_photos_of(extractor.bundle.preprocessing.image_size)
        rankings = asmk_rankings(index, distractors, dataset.queries, cache, reranking)
        outcomes = _search(dataset, rankings, out, "asmk", display)
        pooled = None
        if config.with_global:
            names = sorted(index.names())
            cache.extract_global(names, display)
            found = global_rankings(names, dataset.queries, cache)
            pooled = figures(dataset, _search(dataset, found, out, "global", display))
        return Evaluation(
            dataset=dataset,
            archive=archive,
            figures=figures(dataset, outcomes),
            outcomes=outcomes,
            global_figures=pooled,
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
    cache: QueryCache,
    display: Display,
) -> "Index":
    """Index what is not in the archive yet, and open it for reading."""
    from ctxdeploy.index import Index

    # The archive holds photos of this set alone (see above), so wherever they were before, they have moved.
    words = config.codebook.words if config.codebook.photos is None else None
    settings = IndexingConfig(codebook=codebook, words=words, moved=True, geometry=config.reranking.geometry)
    if is_archive(archive):
        settings = replace(settings, geometry="none")  # as it was made
        photos = PhotoIndex.open(archive, writable=True, extractor=extractor)
    else:
        photos = PhotoIndex.create(archive, config=settings, extractor=extractor)
    with photos, extractor.observed(cache.take):
        photos.add(dataset.photo_list(), config=settings, display=display)
    return Index.open(archive)


def _search(
    dataset: DataSet,
    rankings: Iterable[tuple[Query, list[Ranked]]],
    out: RankingsFile,
    method: str,
    display: Display,
) -> list[Outcome]:
    with display.progress(f"querying ({method})", len(dataset.queries), "queries") as bar:
        return judge(dataset, _watched(rankings, out, method, bar))


def _watched(
    rankings: Iterable[tuple[Query, list[Ranked]]], out: RankingsFile, method: str, bar: Progress
) -> Iterator[tuple[Query, Sequence[Ranked]]]:
    for query, ranked in rankings:
        out.write(query, ranked, method)
        yield query, ranked
        bar.advance()
