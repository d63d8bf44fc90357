"""A part of an archive's shards that a shard server searches."""

import threading
from typing import Any

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import CtxdeployError, MismatchError
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import printable
from ctxdeploy.service.config import ArchivePlace
from ctxdeploy.service.logs import log
from ctxdeploy.sharding.envelope import Asked
from ctxdeploy.sharding.server import ShardServer


class ServedPart:
    """A part of one archive. Any thread may ask.

    Args:
        place: of the archive.
        part: of its shards.
        device: where they are searched.

    Attributes:
        path: the archive's folder.
        name: that requests give.
        stale: why it cannot move on to a newer state; None if it can.
    """

    def __init__(self, place: ArchivePlace, part: Part, device: str = CPU) -> None:
        self.path, self.name, self.part = place.path, place.shown, part
        self.stale: str | None = None
        self._looking = threading.Lock()
        self._server = ShardServer(place.path, part, device=device)

    @property
    def states(self) -> tuple[int, ...]:
        """Numbers of the states that it can be searched in."""
        return tuple(state.number for state in self._server.states)

    @property
    def photos(self) -> int:
        """Photos of the part in the newest of them."""
        return self._server.photos

    @property
    def secrets(self) -> dict[str, str]:
        """Folders of the server, and what stands for them in what others are told; longer ones first."""
        found = {str(self.path.resolve()): self.name, str(self.path): self.name}
        return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))

    def check_part(self, wanted: str | None) -> None:
        """Raise ``MismatchError`` if a front means another part."""
        if wanted is not None and wanted != str(self.part):
            raise MismatchError(f"this server searches part {self.part} of {self.name}, not {printable(wanted)[:30]}")

    def answer(self, message: bytes, deadline: Deadline) -> tuple[bytes, str]:
        """Return the answer to a message of a front, and what kind of message it is.

        Raises:
            StaleStateError: it does not hold the state that the front asks about.
            DeadlineError: nobody waits for it any more.
            ConfigError: it is not a message, or not one of this archive.
        """
        return self._server.answer(message, deadline=deadline), Asked.decode(message).kind

    def look(self) -> bool:
        """Move on to a newer state, if there is one; return whether there was.

        What keeps it from that is logged once, and kept in ``stale``; it is tried again with the next look.
        """
        with self._looking:
            try:
                moved = self._server.refresh()
            except (CtxdeployError, OSError) as error:
                reason = str(error)
                if reason != self.stale:
                    log.error("%s: its last whole state is searched: %s", self.name, reason)
                self.stale = reason
                return False
            if self.stale is not None:
                log.warning("%s can be read again", self.name)
                self.stale = None
            return moved

    def prepare(self) -> None:
        """Load what a search needs."""
        self._server.prepare()

    def facts(self) -> dict[str, Any]:
        """Return what is told of it."""
        return {
            "name": self.name,
            "part": str(self.part),
            "photos": self.photos,
            "states": list(self.states),
            "stale": self.stale is not None,
        }

    def close(self) -> None:
        """Close it."""
        self._server.close()
