"""Photos of an archive by name, wherever their shards are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import CtxdeployError, ShardError
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import printable
from ctxdeploy.index import Aggregated, BareIndex, Features, PhotoFacts
from ctxdeploy.sharding import replies
from ctxdeploy.sharding.envelope import STATUS, Asked, StateKey
from ctxdeploy.sharding.fields import Shape
from ctxdeploy.sharding.message import REPLY, Message, is_name
from ctxdeploy.sharding.requests import (
    MAX_PHOTOS,
    CountsRequest,
    FactsRequest,
    FeaturesRequest,
    ListRequest,
    PrintedRequest,
    Request,
    StoredRequest,
    VectorsRequest,
)
from ctxdeploy.sharding.session import Session
from ctxdeploy.sharding.shards import Shards

Reply = TypeVar("Reply")
# Photos whose words and codes, or features, are asked for at once: 20 kB and 0.2 MB each, 0.5 MB of float32.
_STORED = {True: 512, False: 64}
_FEATURES = 128


class Lookup:
    """Asks the parts of an archive about photos by name. Any number of threads may ask at once.

    Args:
        bare: the archive's state, without its shards.
        shards: what is asked.
    """

    def __init__(self, bare: BareIndex, shards: Shards) -> None:
        self.bare, self._shards = bare, shards
        self.shape, self._key = Shape.of(bare.manifest), StateKey.of(bare.manifest)
        self.parts = shards.parts
        entries = bare.manifest.shards
        self.photos = {part: sum(entry.live for entry in part.each_of(entries)) for part in self.parts}
        self._counts: NDArray[np.int64] | None = None

    def each(
        self,
        session: Session,
        request: Callable[[Part], Request],
        read: Callable[[Message], Reply],
        *,
        parts: Sequence[Part] | None = None,
    ) -> dict[Part, Reply]:
        """Return what each part replies that did not fail before, or does now.

        Args:
            session: of the query.
            request: what is asked of each part.
            read: makes something of a reply, or raises ``ConfigError``.
            parts: that are asked; all if None.

        Raises:
            ShardError: none replied; or one that had replied in this session before.
            DeadlineError: the session's deadline was over before.
        """
        asked = {part: request(part) for part in parts or self.parts if part not in session.failed}
        messages = {id(one): one.message(self.shape) for one in asked.values()}
        data = {
            part: Asked(kind=one.kind, part=part, state=self._key, message=messages[id(one)]).encode()
            for part, one in asked.items()
        }
        found: dict[Part, Reply] = {}
        failed = {}
        for part, outcome in self._shards.ask(data, session.deadline).items():
            try:
                if isinstance(outcome, CtxdeployError):
                    raise outcome
                found[part] = read(Message.decode(outcome, REPLY, f"the reply of part {part}"))
            except CtxdeployError as error:
                failed[part] = str(error)
        session.take(set(found), failed)
        if not found:
            raise ShardError(f"no part of the shards answers: {session.failed}"[:2000])
        return found

    def is_held(self) -> bool:
        """Return whether every part that is reached holds this state, and one is; they are told to look for it."""
        message, failed = Message(), {}
        data = {part: Asked(kind=STATUS, part=part, state=self._key, message=message).encode() for part in self.parts}
        held = []
        for part, outcome in self._shards.ask(data).items():
            try:
                if isinstance(outcome, CtxdeployError):
                    raise outcome
                status = replies.Status.read(Message.decode(outcome, REPLY, f"the reply of part {part}"))
                held.append(self._key in status.states)
            except CtxdeployError as error:
                failed[part] = str(error)
        return bool(held) and all(held)

    def by_name(
        self,
        session: Session,
        names: Sequence[str],
        request: Callable[[Sequence[str]], Request],
        read: Callable[[Message, Sequence[str]], Mapping[str, Reply]],
        *,
        at_once: int = MAX_PHOTOS,
    ) -> dict[str, Reply]:
        """Return what the parts say of those of some photos that there are."""
        wanted = list(dict.fromkeys(name for name in names if isinstance(name, str) and is_name(name)))
        found: dict[str, Reply] = {}
        for start in range(0, len(wanted), at_once):
            some = wanted[start : start + at_once]
            parts = self.each(session, to_all(request(some)), partial(_read_named, read, some))
            for part in parts.values():
                found |= part
        return found

    def check_found(self, session: Session, names: Sequence[str], found: Mapping[str, object]) -> None:
        """Raise ``ConfigError`` for a name that the archive does not hold, ``ShardError`` if that is not known."""
        for name in names:
            if name not in found:
                if session.failed:
                    raise ShardError(
                        f"{printable(str(name))} was not found, but {_parts(session.failed)} of the shards "
                        "cannot be asked: try again later"
                    )
                raise self.bare.no_photo(name)

    def facts(self, session: Session, names: Sequence[str]) -> dict[str, PhotoFacts]:
        """Return what is known of those photos that there are, which the session keeps."""
        missing = [name for name in names if name not in session.facts]
        session.facts |= self.by_name(session, missing, lambda some: FactsRequest(names=some), replies.read_facts)
        return {name: session.facts[name] for name in names if name in session.facts}

    def stored(self, session: Session, names: Sequence[str]) -> list[Aggregated]:
        """Return words and codes of photos, which the session keeps; errors as ``check_found``."""
        self.bare.state.check_local()
        missing = [name for name in names if name not in session.stored]
        session.stored |= self.by_name(
            session,
            missing,
            lambda some: StoredRequest(names=some),
            lambda message, some: replies.read_stored(message, self.shape, some),
            at_once=_STORED[self.shape.config.binary],
        )
        self.check_found(session, names, session.stored)
        return [session.stored[name] for name in names]

    def vectors(self, session: Session, names: Sequence[str]) -> NDArray[np.float32]:
        """Return the global vectors of photos, N×D' float32; errors as ``check_found``."""
        found = self.by_name(
            session,
            names,
            lambda some: VectorsRequest(names=some),
            lambda message, some: replies.read_vectors(message, self.shape, some),
        )
        self.check_found(session, names, found)
        rows = [found[name] for name in names]
        return np.array(rows, np.float32).reshape(len(rows), self.shape.config.global_dim)

    def features(self, session: Session, names: Sequence[str]) -> dict[str, Features | None]:
        """Return the features of photos, None in an archive that keeps none; errors as ``check_found``."""
        if not self.shape.config.keeps("positions"):
            self.check_found(session, names, self.facts(session, names))
            return dict.fromkeys(names)
        found = self.by_name(
            session,
            names,
            lambda some: FeaturesRequest(names=some),
            lambda message, some: replies.read_named_features(message, self.shape, some),
            at_once=_FEATURES,
        )
        self.check_found(session, names, found)
        return {name: found[name] for name in names}

    def names(self, session: Session) -> Iterator[str]:
        """Yield all names in the order of the shards; ``ShardError`` where a part does not answer."""
        for number in range(len(self.bare.manifest.shards)):
            part = self.parts[number % len(self.parts)]
            place: tuple[int, int] | None = (number // len(self.parts), 0)
            while place is not None and place[0] == number // len(self.parts):
                request = ListRequest(shard=place[0], number=place[1])
                read = partial(replies.Page.read, shard=place[0], number=place[1])
                page = self.each(session, to_all(request), read, parts=[part])[part]
                yield from page.names
                place = page.following

    def printed(self, session: Session, text: str) -> str:
        """Return the one name that is printed so, if it is a text that stands for another; else the text itself."""
        if "\\" not in text or not is_name(text):
            return text
        found = self.each(session, to_all(PrintedRequest(text=text)), lambda message: message.names("names", most=2))
        names = [name for some in found.values() for name in some]
        return names[0] if len(names) == 1 else text

    def counts(self, session: Session) -> replies.Counts:
        """Return the counts of all parts together; ``ShardError`` where one does not answer."""
        found = self.each(session, to_all(CountsRequest()), partial(replies.Counts.read, shape=self.shape))
        if len(found) < len(self.parts):
            raise ShardError(
                f"what all shards hold is to be counted, but {_parts(session.failed)} cannot be asked: try again "
                "later, or leave out --idf"
            )
        words = sum((one.words for one in found.values()), np.zeros(self.shape.words, np.int64))
        return replies.Counts(words=words, features=sum(one.features for one in found.values()))

    def word_counts(self, session: Session) -> NDArray[np.int64]:
        """Return how many photos of the archive have each word, W int64; errors as ``counts``."""
        if self._counts is None:
            self._counts = self.counts(session).words
        return self._counts

    def session(self, deadline: Deadline | None = None) -> Session:
        """Return a new session."""
        return Session(deadline=deadline)


def to_all(request: Request) -> Callable[[Part], Request]:
    """Return what asks every part the same."""
    return lambda part: request


def _read_named(
    read: Callable[[Message, Sequence[str]], Mapping[str, Reply]], names: Sequence[str], message: Message
) -> Mapping[str, Reply]:
    return read(message, names)


def _parts(failed: Mapping[Part, str]) -> str:
    return ("part " if len(failed) == 1 else "parts ") + ", ".join(map(str, sorted(failed)))
