"""Descriptors that an evaluation needs again, beside the archive: those of its queries, and one vector for each photo.

An archive keeps signs of sums, no descriptors. What lies here is taken while the photos go through the network for the
archive, so that none goes through it twice, and lets a run that was interrupted continue, or only score again.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import FileState, LocalDescriptors, PhotoDescriptors
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
    """Descriptors of a data set's queries, and on request the global descriptor of each photo; use it locked.

    Args:
        dataset: whose.
        archive: beside which they lie.
        extractor: makes them.
        with_global: keep global descriptors too.
    """

    def __init__(self, dataset: DataSet, archive: Path, extractor: ObservedExtractor, *, with_global: bool) -> None:
        about = extractor.description()
        key = {name: about[name] for name in ("model_id", "preprocessing_hash", "backend", "precision")}
        self._cache = DescriptorCache(archive.with_name(f"{archive.name}.eval"), key)
        self._dataset, self._extractor, self._with_global = dataset, extractor, with_global
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
            self._put(_query_name(query), result, result.descriptors)
        if self._with_global:
            self._put(_global_name(result.name), result, _as_descriptors(pooled(result)))

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
                self._put(_query_name(missing[result.name]), result, result.descriptors)
                bar.advance()

    def extract_global(self, names: Sequence[str], display: Display) -> None:
        """Extract the photos whose global descriptors are not here: an archive may have been made without them."""
        missing = [name for name in names if not self._cache.has(_global_name(name), self._state(name))]
        if not missing:
            return
        sources = [self._photo(name) for name in missing]
        with (
            self._extractor.observed(self.take),
            closing(self._extractor.extract(sources)) as results,
            display.progress("extracting global descriptors", len(sources)) as bar,
        ):
            for result in results:
                bar.advance(failed=int(isinstance(result, PhotoFailure)))

    def descriptors(self, query: Query) -> LocalDescriptors:
        """Return a query's descriptors; ``PhotoError`` if its file has changed since they were extracted."""
        found = self._cache.get(_query_name(query), self._state(query.name))
        if found is None:
            raise PhotoError(f"the query {printable(query.key)} changed while it was evaluated: run again")
        return found.descriptors

    def global_descriptors(self, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the global descriptors, D float32 of length 1, of those photos that have one."""
        found = {}
        for name in names:
            kept = self._cache.get(_global_name(name), self._state(name))
            if kept is not None and len(kept.descriptors):
                found[name] = kept.descriptors.vectors[0]
        return found

    def _put(self, name: str, result: PhotoDescriptors, descriptors: LocalDescriptors) -> None:
        self._cache.put(PhotoDescriptors(name=name, descriptors=descriptors, file=result.file))

    def _photo(self, name: str) -> "FilePhoto":
        from ctxdeploy.runtime.sources import FilePhoto

        return FilePhoto(name=name, folder=str(self._dataset.folder), file=name)

    def _source(self, query: Query) -> "FilePhoto":
        from ctxdeploy.runtime.sources import FilePhoto

        return FilePhoto(name=query.key, folder=str(self._dataset.folder), file=query.name, box=query.box)

    def _state(self, name: str) -> FileState | None:
        return self._photo(name).state()


def pooled(photo: PhotoDescriptors) -> NDArray[np.float32] | None:
    """Return the global descriptor of a photo, D float32 of length 1; None if it is 0."""
    found = photo.with_global().global_descriptor
    return found.vector if found is not None and found.vector.any() else None


def _query_name(query: Query) -> str:
    return f"query {query.key} {query.box}"


def _global_name(name: str) -> str:
    return f"global {name}"


def _as_descriptors(vector: NDArray[np.float32] | None) -> LocalDescriptors:
    count = 0 if vector is None else 1
    return LocalDescriptors(
        vectors=np.empty((0, 0), np.float32) if vector is None else vector[np.newaxis],
        attention=np.ones(count, np.float32),
        positions=np.zeros((count, 2), np.float32),
        scales=np.ones(count, np.float32),
    )
