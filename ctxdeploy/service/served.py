"""What a service answers from: archives or parts of them, by name; a thread looks for newer states."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from ctxdeploy.core.errors import ConfigError, CtxdeployError
from ctxdeploy.service.config import ArchivePlace
from ctxdeploy.service.logs import log
from ctxdeploy.service.problems import ProblemError


class Served(ABC):
    """An archive, or a part of one, that is answered from. Any thread may ask.

    Args:
        place: where it is.

    Attributes:
        path: its folder.
        name: that requests give.
        stale: why it cannot move on to a newer state, and answers from the last one that was whole; None if it can.
    """

    def __init__(self, place: ArchivePlace) -> None:
        self.path, self.name = place.path, place.shown
        self.stale: str | None = None
        self._looking = threading.Lock()

    @property
    def secrets(self) -> dict[str, str]:
        """Folders of the server, and what stands for them in what others are told; longer ones first."""
        found = {**self._secret_folders(), str(self.path.resolve()): self.name, str(self.path): self.name}
        return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))

    def look(self) -> bool:
        """Move on to a newer state, if there is one; return whether there was. Costs a read of one small file if not.

        What keeps it from that is logged once, and kept in ``stale``; it is tried again with the next look.
        """
        with self._looking:
            try:
                moved = self._move_on()
            except (CtxdeployError, OSError) as error:
                reason = str(error) if isinstance(error, CtxdeployError) else _reason(self.path, error)
                if reason != self.stale:
                    log.error("%s: answers come from its last whole state: %s", self.name, reason)
                self.stale = reason
                return False
            if moved is not None and self.stale is not None:
                log.warning("%s can be read again", self.name)
                self.stale = None
        return moved is True

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    @abstractmethod
    def _move_on(self) -> bool | None:
        """Move on to a newer state; return whether there was one, None if there is one that cannot be asked yet."""

    def _secret_folders(self) -> dict[str, str]:
        """Return folders besides its own that others are not told, and what stands for them."""
        return {}


_Kind = TypeVar("_Kind", bound=Served)


class Catalogue(Generic[_Kind]):
    """All that a service answers from, by name; a thread looks for newer states.

    Args:
        places: of archives.
        make: opens what is served of one.
        refresh_seconds: between two looks.

    Raises:
        ConfigError: two have the same name.
        ArchiveError: one is not an archive, or damaged.
    """

    def __init__(
        self, places: Iterable[Path | ArchivePlace], make: Callable[[ArchivePlace], _Kind], refresh_seconds: float
    ) -> None:
        self._refresh_seconds = refresh_seconds
        self._by_name: dict[str, _Kind] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ctxdeploy-refresh", daemon=True)
        try:
            for place in places:
                served = make(place if isinstance(place, ArchivePlace) else ArchivePlace(path=place))
                other = self._by_name.setdefault(served.name, served)
                if other is not served:
                    served.close()
                    raise ConfigError(_same_name(served, other))
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def __iter__(self) -> Iterator[_Kind]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str | None) -> _Kind:
        """Return what is served of an archive; the only one may be left unnamed."""
        if name is None and len(self._by_name) == 1:
            return next(iter(self))
        known = ", ".join(self._by_name)
        if name is None:
            raise ProblemError(422, f"name the archive with archive=…: one of {known}", code="ConfigError")
        if name not in self._by_name:
            raise ProblemError(404, f"there is no archive {name!r} here: ask one of {known}", code="NoSuchArchive")
        return self._by_name[name]

    @property
    def secrets(self) -> dict[str, str]:
        """As of each archive, of all of them."""
        return {text: shown for served in self for text, shown in served.secrets.items()}

    def _look(self) -> None:
        while not self._ended.wait(self._refresh_seconds):
            for served in self:
                try:
                    served.look()
                except Exception:  # a defect of ours must not end the looking
                    log.exception("%s: looking for a newer state failed", served.name)

    def close(self) -> None:
        """Close them all."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for served in self:
            served.close()


def _reason(path: Path, error: OSError) -> str:
    return f"{error.filename or path}: {error.strerror or error}"


def _same_name(served: Served, other: Served) -> str:
    if served.path.resolve() == other.path.resolve():
        return f"{served.path} is named twice: name it once"
    advice = "give them names in a file: --config FILE, with a table [archives] of NAME = PATH"
    return f"{served.path} and {other.path} are both called {served.name}: {advice}"
