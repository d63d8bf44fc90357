"""The parts of an archive and what carries requests to them, all of which are asked at once."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, CtxdeployError, DeadlineError, ShardError
from ctxdeploy.core.part import Part
from ctxdeploy.sharding.transport import ShardTransport

# Requests to one part that are on their way at once; others wait. One part that hangs keeps nobody from the others.
_AT_ONCE = 64
# Of the time that a query has left: what one request may take, for others come after it.
_SHARE = 0.7


class Shards:
    """The servers of all parts of an archive's shards. Any number of threads may ask at once.

    Args:
        transports: one for each part, in any order.
        patience: seconds after which a part that does not answer is left out of a query.

    Raises:
        ConfigError: a part is there twice, or missing, or one of another number of parts.
    """

    def __init__(self, transports: Sequence[ShardTransport], *, patience: float = 10.0) -> None:
        self._transports = {transport.part: transport for transport in transports}
        parts = sorted(self._transports)
        wanted = [Part(number=number, count=len(transports)) for number in range(1, len(transports) + 1)]
        if not parts or parts != wanted:
            given = ", ".join(sorted(str(transport.part) for transport in transports)) or "none"
            raise ConfigError(f"the parts of the shards are {given}: give servers of each of 1/N to N/N once")
        if not 0 < patience < 3600:
            raise ConfigError(f"a patience of {patience} s is not within 0..3600")
        self.parts = tuple(parts)
        self._patience = patience
        self._pools = {part: ThreadPoolExecutor(_AT_ONCE, f"ctxdeploy-part-{part.number}") for part in parts}

    def ask(
        self, requests: Mapping[Part, bytes], deadline: Deadline | None = None
    ) -> dict[Part, bytes | CtxdeployError]:
        """Return the reply of each part, or why there is none.

        Args:
            requests: of each part that is asked.
            deadline: of the query.

        Raises:
            DeadlineError: it was over before, or nobody waits any more.
        """
        outer = deadline or Deadline()
        outer.check()
        seconds = self._patience if outer.left is None else min(self._patience, _SHARE * outer.left)
        inner, woken = Deadline(seconds), threading.Event()
        futures: dict[Part, Future[bytes]] = {}
        try:
            for part, request in requests.items():
                futures[part] = self._pools[part].submit(self._transports[part].ask, request, deadline=inner)
                futures[part].add_done_callback(lambda _: woken.set())
            with outer.waking(woken):
                while not all(future.done() for future in futures.values()) and not inner.is_over:
                    outer.check()
                    woken.wait(inner.left)
                    woken.clear()
        finally:
            inner.give_up()  # tells those that are still on their way
            for future in futures.values():
                future.cancel()
        outer.check()
        return {part: _outcome(part, future, seconds) for part, future in futures.items()}

    def close(self) -> None:
        """End the threads; requests that wait are not sent any more."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


def _outcome(part: Part, future: Future[bytes], seconds: float) -> bytes | CtxdeployError:
    if not future.done() or future.cancelled():
        return ShardError(f"part {part} did not answer within {seconds:.1f} s")
    try:
        return future.result()
    except DeadlineError:
        return ShardError(f"part {part} did not answer within {seconds:.1f} s")
    except CtxdeployError as error:
        return error
