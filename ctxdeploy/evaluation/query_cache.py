"""Descriptors that an evaluation needs again, beside the archive: those of its queries.

An archive keeps signs of sums, no descriptors. What lies here is taken while the photos go through the network for the
archive, so that none goes through it twice, and lets a run that was interrupted continue, or only score again.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import FileState, PhotoDescriptors
from ctxdeploy.evaluation.dataset import DataSet, Query
from ctxdeploy.indexing.descriptor_cache import DescriptorCache
from ctxdeploy.runtime import Extractor, PhotoFailure, PhotoSource

if TYPE_CHECKING:
    from ctxdeploy.runtime.sources import FilePhoto


class ObservedExtractor(Extractor):
    """An extractor that shows what it extracts to an observer, while there is one."""

    _observer: Callable[[PhotoDescriptors], None] | None = None

    @contextmanager
    def observed(self, observer: Callable[[PhotoDescriptors], None]) -> Iterator[None]:
        """Show results to ``observer`` while the block runs, before they are yielded."""
        self._observer = observer
        try:
            yield
        finally:
            self._observer = None

    def extract(self, photos: Iterable[PhotoSource]) -> Generator[PhotoDescriptors | PhotoFailure, None, None]:
        """See ``Extractor.extract``."""
        with closing(super().extract(photos)) as results:
            for result in results:
                if self._observer is not None and isinstance(result, PhotoDescriptors):
                    self._observer(result)
                yield result


class QueryCache:
    """Descriptors of a data set's queries; use it locked.

    Args:
        dataset: whose.
        archive: beside which they lie.
        extractor: makes them.
    """

    def __init__(self, dataset: DataSet, archive: Path, extractor: ObservedExtractor) -> None:
        about = extractor.description()
        key = {name: about[name] for name in ("model_id", "preprocessing_hash", "backend", "precision")}
        self._cache = DescriptorCache(archive.with_name(f"{archive.name}.eval"), key)
        self._dataset, self._extractor = dataset, extractor
        whole = [query for query in dataset.queries if query.box is None and not query.number]
        database = set(dataset.database)
        self._in_database = {query.name: query for query in whole if query.name in database}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other evaluations from the folder; ``ArchiveError`` if there is one."""
        with self._cache.locked():
            yield

    def take(self, result: PhotoDescriptors) -> None:
        """Keep what is needed of a database photo that was extracted."""
        query = self._in_database.get(result.name)
        if query is not None:
            self._put(query, result)

    def extract_queries(self, display: Display, *, outside: bool) -> None:
        """Extract queries that are not here yet.

        Args:
            display: shows progress.
            outside: only those that do not come along with the database: parts of photos, and photos outside it.

        Raises:
            PhotoError: one cannot be read, or its box does not lie in it: without it the figures would be others.
        """
        missing = {
            query.key: query
            for query in self._dataset.queries
            if not (outside and query.name in self._in_database and query.box is None)
            and not self._cache.has(_query_name(query), self._state(query.name))
        }
        if not missing:
            return
        sources = [self._source(query) for query in missing.values()]
        with (
            closing(self._extractor.extract(sources)) as results,
            display.progress("extracting queries", len(sources), "queries") as bar,
        ):
            for result in results:
                if isinstance(result, PhotoFailure):
                    raise PhotoError(f"the query {printable(result.name)} of {self._dataset.name}: {result.reason}")
                self._put(missing[result.name], result)
                bar.advance()

    def photo(self, query: Query) -> PhotoDescriptors:
        """Return a query with its descriptors; ``PhotoError`` if its file has changed since they were extracted."""
        found = self._cache.get(_query_name(query), self._state(query.name))
        if found is None:
            raise PhotoError(f"the query {printable(query.key)} changed while it was evaluated: run again")
        return found

    def _put(self, query: Query, result: PhotoDescriptors) -> None:
        self._cache.put(replace(result, name=_query_name(query)))

    def _photo(self, name: str) -> "FilePhoto":
        from ctxdeploy.runtime.sources import FilePhoto

        return FilePhoto(name=name, folder=str(self._dataset.folder), file=name)

    def _source(self, query: Query) -> "FilePhoto":
        from ctxdeploy.runtime.sources import FilePhoto

        return FilePhoto(name=query.key, folder=str(self._dataset.folder), file=query.name, box=query.box)

    def _state(self, name: str) -> FileState | None:
        return self._photo(name).state()


def _query_name(query: Query) -> str:
    return f"query {query.key} {query.box}"
