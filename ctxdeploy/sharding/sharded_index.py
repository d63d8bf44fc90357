"""An archive whose shards other processes search: an index as queries see it.

A query is described and assigned here; what goes out are its words and codes. Each part returns its best, and they are
merged by score and name. That is exact, since a photo's score depends on it and the query alone, and what depends on
all photos, idf's statistics and counts, is known here or gathered first. Expansion and judgement run here.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, ShardError
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import FileState, LocalDescriptors
from ctxdeploy.index import (
    Aggregated,
    Asked,
    BareIndex,
    DescriptorSource,
    Features,
    Hit,
    IndexConfig,
    Manifest,
    SearchPlace,
    Subset,
)
from ctxdeploy.object_storage.opening import no_shards, open_here
from ctxdeploy.sharding.lookup import Lookup
from ctxdeploy.sharding.message import is_name
from ctxdeploy.sharding.searching import ShardedSubset, ShardSearch
from ctxdeploy.sharding.session import Session
from ctxdeploy.sharding.shards import Shards

Result = TypeVar("Result")


class ShardedIndex:
    """A state of an archive whose shards are searched by the servers of their parts; see ``QueriedIndex``.

    Each call goes to the parts that answer it. ``for_query`` returns an index that goes on without a part that failed
    once; hits, scores and all else are those of one archive of the shards that are left.

    Args:
        lookup: the state, and what is asked.
        session: of the query; None for a new one with each call.
    """

    def __init__(self, lookup: Lookup, session: Session | None = None) -> None:
        self._lookup, self._given = lookup, session
        self._bare = lookup.bare

    @classmethod
    def open(cls, path: Path, shards: Shards) -> "ShardedIndex":
        """Open the state in force of an archive, of whose shards no file needs to be there.

        Raises:
            ArchiveError: not an archive, damaged, or of a newer format.
        """
        return cls(Lookup(open_here(path, lambda: BareIndex.open(path), no_shards), shards))

    @property
    def _session(self) -> Session:
        return self._given or Session()

    def for_query(self, deadline: Deadline | None = None) -> "ShardedIndex":
        return ShardedIndex(self._lookup, Session(deadline=deadline))

    def settled(self, work: Callable[[], Result]) -> Result:
        return work() if self._given is None else self._given.settled(work)

    @property
    def missing(self) -> tuple[Part, ...]:
        return () if self._given is None else tuple(sorted(self._given.failed))

    def reached(self, among: Subset | None) -> int:
        counts = among.counts if isinstance(among, ShardedSubset) else self._lookup.photos
        return sum(photos for part, photos in counts.items() if part not in self.missing)

    def is_ready(self) -> bool:
        """Return whether every part that is reached holds this state; they look for it if they do not."""
        return self._lookup.is_held()

    @property
    def path(self) -> Path:
        return self._bare.path

    @property
    def manifest(self) -> Manifest:
        return self._bare.manifest

    @property
    def config(self) -> IndexConfig:
        return self._bare.config

    @property
    def source(self) -> DescriptorSource | None:
        return self._bare.source

    @property
    def keeps_local(self) -> bool:
        return self._bare.keeps_local

    @property
    def global_cells(self) -> int:
        return self._bare.global_cells

    def check_source(self, *, model: str, preprocessing: str) -> None:
        self._bare.check_source(model=model, preprocessing=preprocessing)

    def check_keeps(self, geometry: str, what: str, *, otherwise: str = "") -> None:
        self._bare.check_keeps(geometry, what, otherwise=otherwise)

    def keeps_too_little(self, geometry: str, what: str, *, otherwise: str = "") -> ConfigError:
        return self._bare.keeps_too_little(geometry, what, otherwise=otherwise)

    def prepare(self) -> None:
        self._bare.prepare()

    def preparing(self) -> AbstractContextManager[None]:
        return self._bare.preparing()

    def failures(self) -> list[dict[str, Any]]:
        return self._bare.failures()

    @property
    def device(self) -> str:
        return "servers"

    @property
    def search_place(self) -> SearchPlace:
        return replace(self._bare.search_place, device=self.device)

    def info(self) -> dict[str, Any]:
        facts = self._bare.info()
        if self.config.keeps("positions"):
            facts["features"]["count"] = self._lookup.counts(self._session).features
        return facts

    def close(self) -> None:
        """Release the state; the parts stay open for others."""
        self._bare.close()

    def __len__(self) -> int:
        """Return the number of photos of all parts, also of those that do not answer."""
        return len(self._bare)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or not is_name(name):
            return False
        session = self._session
        if name in self._lookup.facts(session, [name]):
            return True
        if session.failed:
            missing = ", ".join(map(str, sorted(session.failed)))
            raise ShardError(f"{printable(name)} was not found, but of the shards {missing} cannot be asked")
        return False

    def held_names(self, names: Sequence[str]) -> set[str]:
        return set(self._lookup.facts(self._session, names))

    def names(self) -> Iterator[str]:
        return self._lookup.names(self._session)

    def printed_name(self, text: str) -> str:
        return self._lookup.printed(self._session, text)

    def file_of(self, name: str) -> FileState | None:
        session = self._session
        found = self._lookup.facts(session, [name])
        self._lookup.check_found(session, [name], found)
        return found[name].file

    def photo_size(self, name: str) -> tuple[int, int] | None:
        return self.photo_sizes([name])[name]

    def photo_sizes(self, names: Sequence[str]) -> dict[str, tuple[int, int] | None]:
        if not self.config.keeps("codes"):
            return dict.fromkeys(names)
        found = self._lookup.facts(self._session, names)
        return {name: found[name].size if name in found else None for name in names}

    def aggregated(self, names: Sequence[str]) -> list[Aggregated]:
        return self._lookup.stored(self._session, names)

    def global_vectors(self, names: Sequence[str]) -> NDArray[np.float32]:
        self._bare.check_keeps_global()
        return self._lookup.vectors(self._session, names)

    def features(self, query: str | LocalDescriptors, *, size: tuple[int, int] | None = None) -> Features | None:
        return self.stored_features([query])[query] if isinstance(query, str) else self._bare.features(query, size=size)

    def stored_features(self, names: Sequence[str]) -> dict[str, Features | None]:
        return self._lookup.features(self._session, names)

    def asked(self, queries: Sequence[Any]) -> list[Asked]:
        return self._bare.asked_with(queries, self.aggregated)

    def subset(self, *, prefixes: Sequence[str] = (), names: Sequence[str] | None = None) -> Subset:
        return self._search.subset(prefixes, names)

    def search_batch(
        self,
        queries: Sequence[Any],
        top: int = 10,
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
        among: Collection[str] | Subset | None = None,
        expand: int = 0,
        units: Sequence[float] | None = None,
        first: tuple[int, Sequence[list[Hit]]] | None = None,
    ) -> list[list[Hit]]:
        scoring = self.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        return self._search.batch(queries, top, scoring, among, expand, units, first)

    def search_global(
        self, queries: Any, top: int = 10, *, among: Collection[str] | Subset | None = None, probes: int | None = None
    ) -> list[list[Hit]]:
        return self._search.by_global_vectors(queries, top, among, probes)

    def scores(
        self,
        names: Sequence[str],
        others: Sequence[str],
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
    ) -> NDArray[np.float64]:
        scoring = self.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        return self._search.scores(names, others, scoring)

    @property
    def _search(self) -> ShardSearch:
        return ShardSearch(self._lookup, self._session)


def opening(shards: Shards) -> Callable[[Path, str | int | None], ShardedIndex]:
    """Return what opens the state in force of an archive whose shards are searched elsewhere, for ``SharedState``."""

    def open_newest(path: Path, at: str | int | None) -> ShardedIndex:
        if at is not None:
            raise ConfigError(f"{path}: shards are searched in the state in force alone: leave out at")
        return ShardedIndex.open(path, shards)

    return open_newest
