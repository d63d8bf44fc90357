"""The shards of an archive, each part of which has several servers."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ctxdeploy.sharding.replicas import ReplicaTransport
from ctxdeploy.sharding.shards import Shards


class ReplicatedShards(Shards):
    """The servers of all parts of an archive, for ``PhotoIndex.open(…, shards=…)``.

    Args:
        transports: to the servers of each part; closed with it.
        patience: seconds after which a part that does not answer is left out of a query.

    Raises:
        ConfigError: as of ``Shards``.
    """

    def __init__(self, transports: Sequence[ReplicaTransport], *, patience: float) -> None:
        self.transports = tuple(transports)
        super().__init__(self.transports, patience=patience)

    def close(self) -> None:
        """Close the connections; who waits for an answer is told."""
        super().close()
        for transport in self.transports:
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
