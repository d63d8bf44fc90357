"""Reading: what one state of an archive holds, and searches in it."""

import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.errors import ConfigError, MismatchError
from ctxdeploy.core.types import FileState
from ctxdeploy.index.codebook.aggregation import Aggregated, aggregate
from ctxdeploy.index.codebook.assignment import Cells
from ctxdeploy.index.codebook.codebook import Codebook
from ctxdeploy.index.config import Hit, Scoring
from ctxdeploy.index.inputs import as_vectors
from ctxdeploy.index.maintenance.snapshots import list_snapshots
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.storage.failures import Failures
from ctxdeploy.index.storage.manifest import FORMAT_VERSION
from ctxdeploy.index.storage.names import NameIndex
from ctxdeploy.index.storage.positions import FeaturePositions
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.threads import SearchThreads


class Reader:
    """One state of an archive. It never changes; several threads may call it at once.

    Args:
        folder: the archive.
        state: opened.
        threads: of searches.
    """

    def __init__(self, folder: Path, state: State, threads: SearchThreads) -> None:
        self.state = state
        self._folder = folder
        self._threads = threads
        self._searcher = Searcher(state)

    def __len__(self) -> int:
        return len(self.state)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def names(self) -> Iterator[str]:
        """See ``Index.names``."""
        return self.state.names()

    def known(self) -> Iterator[tuple[str, FileState | None]]:
        """Yield the name of every photo and the state of its file, None if it is not known."""
        for shard in self.state.shards:
            yield from shard.known()

    @property
    def failures(self) -> Failures:
        """Photos that could not be read, by name."""
        return self.state.failures

    def search(self, queries: Sequence[Any], top: int, scoring: Scoring) -> list[list[Hit]]:
        """See ``Index.search_batch``."""
        wanted = _checked_top(top)
        arrays = [as_vectors(query, self.state.codebook.dim, "query") for query in queries]
        top = min(wanted, max(len(self.state), 1))
        return self._searcher.search(self._aggregate(arrays), top, scoring=scoring, threads=self._threads)

    def _aggregate(self, queries: list[Any]) -> list[Aggregated]:
        if not queries:
            return []
        config, codebook = self.state.manifest.config, self.state.codebook
        words = codebook.assign(np.concatenate(queries), config.query_assignment, threads=self._threads)
        ends = np.cumsum([len(query) for query in queries])
        return [
            aggregate(query, part, codebook.centroids, binary=config.binary)
            for query, part in zip(queries, np.split(words, ends[:-1]), strict=True)
        ]

    def aggregate(self, vectors: Any) -> Aggregated:
        """See ``Index.aggregate``."""
        config, codebook = self.state.manifest.config, self.state.codebook
        array = as_vectors(vectors, codebook.dim, "photo")
        return aggregate(array, codebook.assign(array, config.assignment), codebook.centroids, binary=config.binary)

    def prepare(self) -> None:
        """See ``Index.prepare``."""
        config, codebook = self.state.manifest.config, self.state.codebook
        self.state.factors(config.idf)
        few = codebook.centroids[:64]
        number = np.arange(len(few), dtype=np.int32)
        ends = np.array([0, len(few) // 2, len(few)], np.int32)
        cells = None if codebook.cells is None else Cells(centres=few[:2], order=number, offsets=ends, probes=2)
        words = Codebook(few, cells=cells).assign(few, config.query_assignment, threads=self._threads)
        query = aggregate(few, words, few, binary=config.binary)
        part = State(self.state.manifest, codebook, self.state.shards[:1])
        Searcher(part).search([query], 1, scoring=config.scoring(idf=False))

    def check_source(self, model: str, preprocessing: str) -> None:
        """See ``Index.check_source``."""
        source = self.state.manifest.source
        if source is None:
            return
        of = f" ({source.description})" if source.description else ""
        pairs = (("model", source.model, model), ("preprocessing", source.preprocessing, preprocessing))
        for what, mine, other in pairs:
            if mine != other:
                raise MismatchError(
                    f"{self._folder} was made with {what} {mine}{of}, but the descriptors come from {what} {other}: "
                    "query with the right --model, or make a new archive with  ctxdeploy index"
                )

    def geometry(self, name: str) -> FeaturePositions | None:
        """See ``Index.geometry``."""
        place = self._find(name)
        if place is None:
            raise ConfigError(f"{name!r} is not in {self._folder}")
        shard, number = place
        return self.state.shards[shard].positions(number)

    def _find(self, name: str) -> tuple[int, int] | None:
        """Return shard and number of a photo that is not removed."""
        places = (place for place in self._table.find(name) if self.state.shards[place[0]].live[place[1]])
        return next(places, None)

    @cached_property
    def _table(self) -> NameIndex:
        return NameIndex(self.state.shards)

    def info(self) -> dict[str, Any]:
        """See ``Index.info``."""
        manifest = self.state.manifest
        postings = sum(entry.postings for entry in manifest.shards)
        photos = sum(entry.images for entry in manifest.shards)
        return {
            "path": str(self._folder),
            "format_version": FORMAT_VERSION,
            "manifest": manifest.number,
            "images": manifest.images,
            "removed": photos - manifest.images,
            "shards": len(manifest.shards),
            "postings": postings,
            "words_per_image": postings / photos if photos else 0.0,
            "bytes": sum(entry.bytes for entry in manifest.files),
            "codebook": self.state.codebook.metadata(),
            "config": manifest.config.metadata(),
            "source": None if manifest.source is None else manifest.source.metadata(),
            "snapshots": [info.name for info in list_snapshots(self._folder)],
            "failures": len(self.failures),
        }


def _checked_top(top: Any) -> int:
    try:
        wanted = operator.index(top)
    except TypeError as error:
        raise ConfigError(f"{top!r} hits are wanted: give --top as a whole number") from error
    if isinstance(top, bool) or wanted < 1:
        raise ConfigError(f"{top} hits are wanted: give --top of at least 1")
    return wanted
