"""The first of two stages, or the only one: photos by their global vectors, of the archive itself or of another one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, ShardError
from ctxdeploy.core.text import counted, printable
from ctxdeploy.core.types import Box, PhotoDescriptors
from ctxdeploy.index import Hit, Subset, refined_scores
from ctxdeploy.models.loaded import LoadedModel
from ctxdeploy.shared_state import SharedState

if TYPE_CHECKING:
    from ctxdeploy.index import QueriedIndex
    from ctxdeploy.query import QueryConfig
    from ctxdeploy.runtime import BackendConfig, Extractor, PhotoSource

# What a first stage is asked with: a vector, D float32, or the name of a photo that it holds.
Key = NDArray[np.float32] | str


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstStage:
    """What ranks photos by their global vectors.

    Attributes:
        index: the archive that holds them.
        name: of the archive, for messages.
        network: returns the model that made it.
        is_other: it is another archive than the one that is asked, whose network describes queries once more.
        remarks: what the two archives do not have in common, a line each.
    """

    index: "QueriedIndex"
    name: str
    network: "Callable[[], Extractor]"
    is_other: bool = False
    remarks: tuple[str, ...] = ()

    def check(self, probes: int | None = None) -> None:
        """Raise ``ConfigError`` if the archive keeps no global vectors, or no cells to look into."""
        if not self.index.config.keeps_global:
            raise ConfigError(
                f"{self.name} keeps no global vectors of its photos: index the photos into a new archive:  "
                "ctxdeploy index PLACE -o NEW --global"
            )
        if probes and not self.index.global_cells:
            raise ConfigError(
                f"--global-probes {probes}: {self.name} was made without --global-cells, and every search compares all "
                "photos: leave it out"
            )

    def described(
        self, photo: "PhotoSource", box: Box | None, turns: tuple[int, ...], deadline: Deadline | None
    ) -> list[NDArray[np.float32]]:
        """Return the global vectors of a photo, turned, as this archive's network sees them."""
        found = self.network().extract_turned(photo, box, turns=turns, deadline=deadline)
        return [vector_of(one) for one in found]

    def search(
        self, keys: Sequence[Key], top: int, config: "QueryConfig", among: Subset | None = None
    ) -> list[list[Hit]]:
        """Return for each query at most ``top`` hits, whose scores are inner products; of equal ones by name.

        Args:
            keys: of the queries.
            top: hits at most.
            config: cells to look into, and how many of the first are ordered by refined vectors.
            among: the photos that may be hits; None for all.
        """
        refine = config.refine_global
        found = self._search(keys, min(max(top, refine), max(len(self.index), 1)), config.global_probes, among)
        if refine:
            found = [self._refined(key, hits, refine) for key, hits in zip(keys, found, strict=True)]
        return [[replace(hit, global_score=hit.score) for hit in hits[:top]] for hits in found]

    def _refined(self, key: Key, hits: list[Hit], count: int) -> list[Hit]:
        """Return hits, the first of them ordered anew; a stored photo stays in front of its own."""
        own = [hit for hit in hits if isinstance(key, str) and hit.name == key]
        others = [hit for hit in hits if not isinstance(key, str) or hit.name != key]
        first = others[:count]
        if not first:
            return hits
        (query,) = self.index.global_vectors([key]) if isinstance(key, str) else (key,)
        scores = refined_scores(query, self.index.global_vectors([hit.name for hit in first]))
        order = np.argsort(-scores, kind="stable")
        return [*own, *(first[place] for place in order), *others[count:]]

    def _search(self, keys: Sequence[Key], top: int, probes: int | None, among: Subset | None) -> list[list[Hit]]:
        found: list[list[Hit]] = [[] for _ in keys]
        if not len(self.index):
            return found
        names = {row: key for row, key in enumerate(keys) if isinstance(key, str)}
        vectors = {row: key for row, key in enumerate(keys) if not isinstance(key, str)}
        search = partial(self.index.search_global, top=top, among=among, probes=probes)
        if names:
            for row, hits in zip(names, search(list(names.values())), strict=True):
                found[row] = hits
        if vectors:
            for row, hits in zip(vectors, search(np.stack(list(vectors.values()))), strict=True):
                found[row] = hits
        return found


def vector_of(photo: PhotoDescriptors) -> NDArray[np.float32]:
    """Return a photo's global vector, D float32: its network's own, or the sum of its local descriptors."""
    found = photo.with_global().global_descriptor
    return np.empty(0, np.float32) if found is None else found.vector


class OtherArchives:
    """Archives whose global vectors another one's queries are asked with first, each opened once.

    Args:
        backend: what runs their models.
    """

    def __init__(self, backend: "BackendConfig | None") -> None:
        self._backend = backend
        self._opened: dict[Path, OtherArchive] = {}

    @contextmanager
    def reading(self, path: Path | None, index: "QueriedIndex") -> Iterator[FirstStage | None]:
        """Hold the state of an archive while the block runs, for an archive that is asked; None without a path."""
        if path is None:
            yield None
            return
        with self._opened.setdefault(path, OtherArchive(path, self._backend)).reading(index) as first:
            yield first

    def close(self) -> None:
        """Close them all."""
        for other in self._opened.values():
            other.close()


class OtherArchive:
    """An archive whose global vectors another one's queries are asked with first. Any thread may ask.

    Args:
        path: its folder; its own model describes the queries.
        backend: what runs that.

    Raises:
        ArchiveError: it is not an archive, or damaged.
    """

    def __init__(self, path: Path, backend: "BackendConfig | None") -> None:
        self._path = path
        self._state = SharedState(path, None)
        self._model = LoadedModel(path, None, backend, None, None)
        self._compared: tuple[tuple[int, int], tuple[str, ...]] | None = None

    @contextmanager
    def reading(self, index: "QueriedIndex") -> Iterator[FirstStage]:
        """Hold its state while the block runs.

        Args:
            index: the archive that is asked, whose photos it is compared with once in each of their states.
        """
        with self._state.reading() as other:
            yield FirstStage(
                index=other,
                name=str(self._path),
                network=self._model.loading(other),
                is_other=True,
                remarks=self._remarks(other, index),
            )

    def close(self) -> None:
        """Close it."""
        self._state.close()

    def _remarks(self, other: "QueriedIndex", index: "QueriedIndex") -> tuple[str, ...]:
        states = (other.manifest.number, index.manifest.number)
        compared = self._compared
        if compared is None or compared[0] != states:
            try:
                compared = self._compared = (states, _differences(other, index))
            except ShardError:  # not all names are known; the next query tries again
                return ()
        return compared[1]


def _differences(first: "QueriedIndex", second: "QueriedIndex") -> tuple[str, ...]:
    """Return what is said of photos that only one of two archives holds."""
    names = [set(archive.names()) for archive in (first, second)]
    remarks = []
    for here, (one, other), then in (
        (names[0] - names[1], (first, second), "they are left out"),
        (names[1] - names[0], (second, first), "they are not found"),
    ):
        if here:
            are = "is" if len(here) == 1 else "are"
            remarks.append(
                f"{counted(len(here), 'photo')} of {one.path} {are} not in {other.path}, such as "
                f"{printable(min(here))}: {then}"
            )
    return tuple(remarks)
