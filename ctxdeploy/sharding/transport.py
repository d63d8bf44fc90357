"""How a request reaches the servers of a part: the seam between search over shards and any network."""

from typing import Protocol

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.part import Part


class ShardTransport(Protocol):
    """What carries requests to the servers of one part of an archive, all of which answer alike (replicas). Any number
    of threads may ask at once.

    Attributes:
        part: of the archive's shards, that the servers search.
    """

    @property
    def part(self) -> Part: ...

    def ask(self, request: bytes, *, deadline: Deadline) -> bytes:
        """Return the answer of one of the servers.

        Nothing is known of the bytes of an answer but that there are not too many of them: who asked checks them.

        Args:
            request: a message of search over shards.
            deadline: until when the answer is wanted; without an end, the transport's own limit of time holds.

        Raises:
            ShardError: no server of the part answered in time, or all refused; the text says which, and why.
            StaleStateError: no server that answered holds the state that the request names.
            DeadlineError: nobody waits any more, for a ``Deadline`` that was given up.
        """
        ...
