"""What an evaluation is made of, whatever data set it comes from."""

from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.scoring import Relevance
from ctxdeploy.core.text import counted, printable

if TYPE_CHECKING:
    from ctxdeploy.runtime import Box
    from ctxdeploy.runtime.decode import DecodeLimits
    from ctxdeploy.runtime.sources import PhotoList


@dataclass(frozen=True, kw_only=True)
class Query:
    """A photo to search with.

    Attributes:
        name: its file, relative to the data set's ``folder``.
        box: the part to search for; the whole photo if None.
        number: tells queries apart that search for different parts of one photo.
    """

    name: str
    box: "Box | None" = None
    number: int = 0

    @property
    def key(self) -> str:
        """The name in rankings and JSON."""
        return self.name if not self.number else f"{self.name}#{self.number}"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Queries with what answers them, of which one set of figures is made.

    Attributes:
        name: of the figures.
        relevance: by the queries' keys.
        groups: keys; every group counts once. Without groups every query does.
    """

    name: str
    relevance: Mapping[str, Relevance]
    groups: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Photos to search in, queries, and what is right.

    Attributes:
        kind: name of its ``Kind``.
        name: for people, and for the archive's name.
        folder: what all names are relative to.
        database: photos to search in, sorted.
        queries: in the order of their ground truth.
        tasks: the first one decides which queries are the worst.
        rule: how the figures are made, in one sentence.

    Raises:
        ConfigError: names or keys twice, no query with an answer, answers that are not in the database, or that are
            junk as well, or photos with answers that are not queries.
    """

    kind: str
    name: str
    folder: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]
    tasks: tuple[Task, ...]
    rule: str

    def __post_init__(self) -> None:
        for what, names in (("photo", self.database), ("query", tuple(query.key for query in self.queries))):
            name, times = Counter(names).most_common(1)[0] if names else ("", 0)
            if times > 1 or not names or "" in names:
                wrong = f"names the {what} {printable(name)!r} {times} times" if names and name else f"has no {what}"
                raise ConfigError(f"the ground truth of {self.name} {wrong}")
        if not any(relevance.positives for task in self.tasks for relevance in task.relevance.values()):
            raise ConfigError(f"the ground truth of {self.name} has no query with an answer")
        known, asked = set(self.database), {query.key for query in self.queries}
        for task in self.tasks:
            for key, relevance in task.relevance.items():
                if relevance.positives:
                    self._check_answers(key, relevance, known, asked)

    def _check_answers(self, key: str, relevance: Relevance, known: Set[str], asked: Set[str]) -> None:
        query = printable(key)
        if key not in asked:
            raise ConfigError(f"{self.name}: {query} has answers, and is not among its queries")
        missing = next((name for name in relevance.positives if name not in known), None)
        if missing is not None:
            raise ConfigError(f"{self.name}: {printable(missing)!r}, which answers {query}, is not among its photos")
        name, times = Counter(relevance.positives).most_common(1)[0]
        if times > 1:
            raise ConfigError(f"{self.name}: {printable(name)!r} answers {query} {times} times")
        both = next((name for name in relevance.positives if name in relevance.junk), None)
        if both is not None:
            raise ConfigError(f"{self.name}: {printable(both)!r} answers {query}, and is junk for it")

    def photo_list(self) -> "PhotoList":
        """Return the database's photos, to be indexed."""
        from ctxdeploy.runtime.sources import FilePhoto, PhotoList

        root = str(self.folder)
        photos = [FilePhoto(name=name, folder=root, file=name) for name in self.database]
        return PhotoList(place=str(self.folder.resolve()), photos=list(photos), folder=self.folder)

    def check_files(self) -> None:
        """Raise ``ConfigError`` if files are missing: figures of a part of the set are others."""
        names = sorted({*self.database, *(query.name for query in self.queries)})
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ConfigError(
                f"{self.name}: {len(missing)} of {counted(len(names), 'photo')} are missing, such as "
                f"{printable(str(self.folder / missing[0]))}: complete the data set"
            )

    def check_boxes(self, limits: "DecodeLimits") -> None:
        """Raise ``PhotoError`` if a box does not lie in its query, or such a query cannot be opened."""
        from ctxdeploy.runtime import photo_size

        for query in self.queries:
            if query.box is not None:
                try:
                    query.box.pixels(photo_size(self.folder / query.name, limits))
                except PhotoError as error:
                    raise PhotoError(f"the query {printable(query.key)} of {self.name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A form of data sets.

    Attributes:
        name: for ``--set``.
        what: the form, in one line.
        fits: whether a folder has this form.
        read: reads it.
    """

    name: str
    what: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], DataSet]
