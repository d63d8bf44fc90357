"""A part of an archive's shards that a shard server searches."""

from typing import Any

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import MismatchError
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import printable
from ctxdeploy.service.config import ArchivePlace
from ctxdeploy.service.served import Served
from ctxdeploy.sharding.envelope import Asked
from ctxdeploy.sharding.server import ShardServer


class ServedPart(Served):
    """A part of one archive. Any thread may ask.

    Args:
        place: of the archive.
        part: of its shards.
        device: where they are searched.
    """

    def __init__(self, place: ArchivePlace, part: Part, device: str = CPU) -> None:
        super().__init__(place)
        self.part = part
        self._server = ShardServer(place.path, part, device=device)

    @property
    def states(self) -> tuple[int, ...]:
        """Numbers of the states that it can be searched in."""
        return tuple(state.number for state in self._server.states)

    @property
    def photos(self) -> int:
        """Photos of the part in the newest of them."""
        return self._server.photos

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

    def _move_on(self) -> bool:
        return self._server.refresh()

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
