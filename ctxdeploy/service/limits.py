"""What a service has of everything: memory for bodies, and places for requests that wait."""

from ctxdeploy.core.text import counted
from ctxdeploy.service.problems import ProblemError


class Bodies:
    """Bytes of the bodies that are in memory. It belongs to the event loop.

    Args:
        most: bytes of all of them together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def take(self, size: int) -> None:
        """Count bytes that came; ``ProblemError`` (429) if there is no room for them. ``give`` them back either way."""
        self.held += size
        if self.held > self._most:
            raise ProblemError(429, "too many bodies are being received: ask again later", code="BodiesFull")

    def give(self, size: int) -> None:
        """Count bytes that are not held any more."""
        self.held -= size


class Places:
    """Places of requests that are computed or wait for that. It belongs to the event loop.

    Args:
        running: that are computed at the same time.
        waiting: that may wait besides.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._running, self._waiting = running, waiting
        self.taken = 0

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return max(self.taken - self._running, 0)

    def check(self) -> None:
        """Raise ``ProblemError`` (429) if there is no place."""
        if self.taken >= self._running + self._waiting:
            raise ProblemError(
                429, f"{counted(self._waiting, 'request')} wait already: ask again later", code="QueueFull"
            )

    def take(self) -> None:
        """Take a place, as ``check``; ``give`` it back."""
        self.check()
        self.taken += 1

    def give(self) -> None:
        """Give a place back."""
        self.taken -= 1
