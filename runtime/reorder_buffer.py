"""The order in which photos leave: their own, but none waits long for another."""

from collections import deque

from ctxdeploy.runtime.pools import Ticket


class ReorderBuffer:
    """Tickets in the order of their photos. One that keeps others waiting is overtaken, and then leaves when it can.

    Args:
        patience: seconds that one may keep others waiting.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._waited = 0.0
        self._queue: deque[Ticket] = deque()
        self._overtaken: list[Ticket] = []
        self._done: set[Ticket] = set()

    def __len__(self) -> int:
        """Return the number of tickets that have not left."""
        return len(self._queue) + len(self._overtaken)

    def add(self, ticket: Ticket) -> None:
        """Take a ticket in behind all others."""
        self._queue.append(ticket)

    def mark_done(self, ticket: Ticket) -> None:
        """Note that a ticket may leave."""
        self._done.add(ticket)

    def ready(self) -> bool:
        """Say whether ``leave`` would return one."""
        return bool(self._queue and self._queue[0] in self._done) or any(t in self._done for t in self._overtaken)

    def leave(self) -> Ticket | None:
        """Return the next ticket that may leave, None if there is none yet."""
        for ticket in self._overtaken:
            if ticket in self._done:
                self._overtaken.remove(ticket)
                self._done.remove(ticket)
                return ticket
        if self._queue and self._queue[0] in self._done:
            self._waited = 0.0
            self._done.remove(self._queue[0])
            return self._queue.popleft()
        return None

    def wait(self, seconds: float) -> bool:
        """Count seconds in which none could leave; return whether the first one has now been overtaken."""
        if not self._done:
            return False
        self._waited += seconds
        if self._waited < self._patience:
            return False
        self._waited = 0.0
        self._overtaken.append(self._queue.popleft())
        return True
