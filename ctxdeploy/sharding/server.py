"""The server of a part of an archive: bytes in, bytes out, whatever carries them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import ArchiveError, StaleStateError
from ctxdeploy.core.part import Part
from ctxdeploy.index import IndexPart, SearchDevice
from ctxdeploy.object_storage.opening import open_here
from ctxdeploy.sharding.answering import PartAnswers
from ctxdeploy.sharding.envelope import STATUS, Asked, StateKey
from ctxdeploy.sharding.message import REPLY, Message

# Former states that are kept open for queries that began with them, and for how long.
KEPT_STATES = 4
KEPT_SECONDS = 120.0


@dataclass(kw_only=True, eq=False)
class _Held:
    """A state that is open.

    Attributes:
        index: the part's shards in it.
        answers: what answers from it.
        readers: requests that it is answering.
        replaced: when a newer state came, by the monotonic clock; None of the newest.
    """

    index: IndexPart
    answers: PartAnswers = field(init=False)
    readers: int = 0
    replaced: float | None = None

    def __post_init__(self) -> None:
        self.answers = PartAnswers(self.index)


class ShardServer:
    """Answers requests about a part of an archive's shards, from the states that it holds. Any thread may ask.

    Args:
        path: the archive's folder, in which the files of the part's shards suffice (``index/part.py``).
        part: which shards: the s-th of the manifest, counted from 0, belongs to part s mod count + 1.
        threads: of a search; None for the processors this process may use.
        device: where the part is searched: "cpu", or "cuda:N" for a GPU, which then holds its postings.

    Raises:
        ArchiveError: there is no archive, or it is damaged.
        BackendError, ConfigError, MissingExtraError: the part cannot be searched there.
    """

    def __init__(self, path: str | PathLike[str], part: Part, *, threads: int | None = None, device: str = CPU) -> None:
        self._path, self.part, self._threads = Path(path), part, threads
        self._device = SearchDevice(device)
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        # The newest is the last.
        self._states: dict[StateKey, _Held] = {}
        self._hold(self._opened())

    def answer(self, request: bytes, *, deadline: Deadline | None = None) -> bytes:
        """Return the reply to a request, both messages of search over shards.

        Args:
            request: what came, whoever sent it.
            deadline: until when the reply is wanted; nothing is begun when that is over.

        Raises:
            MessageError: it is not a request, or does not fit the archive (a ``ConfigError``).
            ConfigError: it is for another part, or the archive cannot be asked so.
            StaleStateError: the state that it names is not held.
            DeadlineError: nobody waits any more.
        """
        asked = Asked.decode(request)
        if asked.part != self.part:
            raise asked.message.wrong(f"it is for part {asked.part} of the shards, and this server has {self.part}")
        if asked.state not in self._states:
            with suppress(ArchiveError):  # what is held stays; whoever refreshes is told why
                self.refresh()
        if asked.kind == STATUS:
            return self._status().encode(REPLY)
        with self._reading(asked.state) as held:
            wanted = asked.request(held.answers.shape)
            if deadline is not None:
                deadline.check()
            return held.answers.answer(wanted).encode(REPLY)

    @property
    def states(self) -> tuple[StateKey, ...]:
        """The states that are held, the newest last."""
        with self._lock:
            return tuple(self._states)

    @property
    def photos(self) -> int:
        """Photos of the part in the newest state."""
        return self._newest().index.photos

    def prepare(self) -> None:
        """Load what a search needs, so that the first one is as fast as the others."""
        self._newest().index.prepare()

    def refresh(self) -> bool:
        """Open the newest committed state, if it is not held yet; return whether there was one.

        Former states stay open for requests that name them: ``KEPT_STATES`` at most, for ``KEPT_SECONDS``.

        Raises:
            ArchiveError: it is damaged, or the archive is gone; what is held stays.
        """
        with self._refreshing:
            is_new = not self._is_newest()
            if is_new:
                index = self._opened()
                index.prepare()
                self._hold(index)
            self._close_former()
            return is_new

    def close(self) -> None:
        """Close all states. Requests that are being answered fail."""
        with self._lock:
            states, self._states = list(self._states.values()), {}
        for held in states:
            held.index.close()

    def _opened(self) -> IndexPart:
        index = open_here(
            self._path, lambda: IndexPart.open(self._path, self.part, threads=self._threads), self.part.each_of
        )
        try:
            self._device.take(index)
        except BaseException:
            index.close()
            raise
        return index

    def _newest(self) -> _Held:
        with self._lock:
            if not self._states:
                raise ArchiveError(f"{self._path} is closed: open it again")
            return list(self._states.values())[-1]

    def _is_newest(self) -> bool:
        open_here(self._path, lambda: None, self.part.each_of)
        return self._newest().index.is_newest()

    def _hold(self, index: IndexPart) -> None:
        key, now = StateKey.of(index.manifest), time.monotonic()
        with self._lock:
            for held in self._states.values():
                held.replaced = now if held.replaced is None else held.replaced
            former = self._states.pop(key, None)
            self._states[key] = _Held(index=index)
        if former is not None:
            former.index.close()

    def _close_former(self) -> None:
        oldest = time.monotonic() - KEPT_SECONDS
        closed = []
        with self._lock:
            for key, held in list(self._states.items())[:-1]:
                is_old = held.replaced is not None and held.replaced < oldest
                if not held.readers and (is_old or len(self._states) > KEPT_STATES):
                    closed.append(self._states.pop(key))
        for held in closed:
            held.index.close()

    @contextmanager
    def _reading(self, key: StateKey) -> Iterator[_Held]:
        with self._lock:
            held = self._states.get(key)
            if held is None:
                numbers = tuple(one.number for one in self._states)
                raise StaleStateError(
                    f"part {self.part} of {self._path} does not hold the state {key.number}, but "
                    f"{', '.join(map(str, numbers))}",
                    held=numbers,
                )
            held.readers += 1
        try:
            yield held
        finally:
            with self._lock:
                held.readers -= 1

    def _status(self) -> Message:
        states = [[key.number, key.sha256] for key in self.states]
        return Message(facts={"of": [self.part.number, self.part.count], "states": states, "photos": self.photos})
